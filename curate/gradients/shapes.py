"""Default sizes of sketches. Free of torch: the command line reads it."""

DIM = 16
"""Dimensions per side and layer."""
RANK = 0
"""Rank of each layer of a document's sketch; 0: whole."""
