import hashlib

import numpy as np
import torch
from torch import Tensor

from curate.gradients.projections import projection


def drawn(name: str, side: str, width: int, dim: int, seed: int) -> Tensor:
    matrix = projection(name, side, width, dim, seed)
    assert matrix is not None
    return matrix


PINNED = [[-1, 1, -1, -1, -1, 1, 1, 1], [-1, 1, -1, -1, -1, -1, 1, -1]]
DIGEST = "f3c227599545e0df"


def test_values_are_the_same_for_ever() -> None:
    """Runs made years apart stay comparable: these numbers may only change with a new name for the projection."""
    matrix = drawn("layers.0.mlp.up_proj", "inputs", 576, 16, 0)
    assert (matrix[:2, :8] * 4).int().tolist() == PINNED
    assert hashlib.sha256(np.ascontiguousarray(matrix.numpy()).tobytes()).hexdigest()[:16] == DIGEST


def test_a_side_that_is_narrow_enough_is_left_as_it_is() -> None:
    assert projection("a", "inputs", 16, 16, 0) is None
    assert projection("a", "inputs", 17, 16, 0) is not None


def test_entries_are_signs_over_the_root_of_the_dimension() -> None:
    matrix = drawn("a", "inputs", 500, 9, 0)
    assert matrix.dtype == torch.float64
    torch.testing.assert_close(matrix.abs(), torch.full((500, 9), 1 / 3, dtype=torch.float64))
    assert abs(matrix.sign().mean().item()) < 5 / np.sqrt(500 * 9)


def test_projections_keep_inner_products_on_average() -> None:
    width, dim, seeds = 24, 8, 2000
    mean = torch.zeros(width, width, dtype=torch.float64)
    for seed in range(seeds):
        matrix = drawn("a", "inputs", width, dim, seed)
        mean += matrix @ matrix.T / seeds
    # An entry off the diagonal is a mean of `seeds * dim` products of signs, each over `dim`.
    assert (mean - torch.eye(width)).abs().max() < 5 / np.sqrt(seeds * dim)


def test_layers_sides_and_seeds_have_projections_of_their_own() -> None:
    width, dim = 4000, 16
    ways = [("a", "inputs", 0), ("a", "outputs", 0), ("b", "inputs", 0), ("a", "inputs", 1), ("a1", "inputs", 0)]
    matrices = [drawn(name, side, width, dim, seed).flatten() * np.sqrt(dim) for name, side, seed in ways]
    for i, one in enumerate(matrices):
        for other in matrices[:i]:
            assert abs((one * other).mean().item()) < 5 / np.sqrt(width * dim)


def test_a_wider_layers_first_rows_are_a_narrower_ones() -> None:
    """Each draw depends on the key and its position alone, never on how much is drawn or what was drawn before."""
    whole = drawn("a", "inputs", 100, 16, 0)
    drawn("b", "inputs", 50, 16, 0)
    torch.manual_seed(5)
    assert drawn("a", "inputs", 60, 16, 0).equal(whole[:60])
