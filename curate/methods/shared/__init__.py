"""Shared by several methods and by other rooms: targets, sketches, directions, training runs, words."""
