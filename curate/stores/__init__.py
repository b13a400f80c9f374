"""Gradient stores: a pool's sketches on disk, made in one pass, asked any number of times."""
