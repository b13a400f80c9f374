import numpy as np
import torch

from curate.gradients.slices import LEAST, SLICES, Totals, cut


def test_a_cut_holds_every_sequence_once_by_length_and_depends_on_the_sample_alone() -> None:
    lengths = dict(enumerate(np.random.default_rng(0).integers(2, 900, 500).tolist()))
    slices = cut(lengths)
    order = [i for members in slices for i in members]
    assert len(slices) == SLICES
    assert order == sorted(lengths, key=lambda i: (lengths[i], i))
    assert cut(dict(reversed(lengths.items()))) == slices
    tokens = [sum(lengths[i] for i in members) for members in slices]
    assert max(tokens) - min(tokens) < 2 * 900


def test_a_small_sample_has_few_slices_and_none_is_empty() -> None:
    assert [len(cut(dict.fromkeys(range(count), 5))) for count in (1, LEAST, 2 * LEAST, 5 * LEAST)] == [1, 1, 2, 5]
    assert cut({}) == []
    assert cut({0: 0, 1: 0}) == [[0, 1]]
    one_long = cut({i: 10_000 if i == 3 else 2 for i in range(40)})
    assert all(one_long)
    assert sorted(i for members in one_long for i in members) == list(range(40))


def test_totals_lose_nothing_of_small_sums_beside_large_ones() -> None:
    totals, part = Totals(), torch.tensor([float(1 << 24), 1.0])
    totals.add({"x": part, "n": torch.tensor(3)})
    part.fill_(1.0)  # written over for the next slice
    for _ in range(7):
        totals.add({"x": part, "n": torch.tensor(1)})
    assert totals.tensors["x"].tolist() == [(1 << 24) + 7, 8]
    assert int(totals.tensors["n"]) == 10
