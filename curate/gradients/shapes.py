"""How large sketches are unless told otherwise, and which sizes there are. Free of torch: the command line reads it."""

from curate.errors import SettingsError

DIM = 16
"""Dimensions per side and layer."""
RANK = 0
"""Of what is kept of each layer of a document's sketch; 0: all of it."""


def check_shape(dim: int, rank: int) -> None:
    """Raise SettingsError unless there are sketches of these dimensions and this rank."""
    if dim < 1:
        raise SettingsError(f"dim is {dim}; expected at least 1.")
    if rank < 0:
        raise SettingsError(f"rank is {rank}; expected 1 or more, or 0 for whole sketches.")
