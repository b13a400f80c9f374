"""Gradient stores: a pool's sketches on disk, made in one pass, queried any number of times."""
