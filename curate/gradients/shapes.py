"""How large sketches are unless told otherwise. Free of torch: the command line reads it."""

DIM = 16
"""Dimensions per side and layer."""
RANK = 0
"""Of what is kept of each layer of a document's sketch; 0: all of it."""
