import pytest
import torch

from curate.gradients.roots import ThinRoot, flat, from_flat, moved, whiten


def thin(damping: float) -> ThinRoot:
    vectors = torch.linalg.qr(torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    return ThinRoot(damping=damping, eigenvalues=torch.tensor([5.0, 1.0, 1e-3], dtype=torch.float64), vectors=vectors)


@pytest.mark.parametrize("damping", [0.01, 3.0])
def test_a_thin_root_is_the_damped_inverse_root_of_the_whole_matrix(damping: float) -> None:
    root, values = thin(damping), torch.randn(4, 7, dtype=torch.float64)
    whole = (root.vectors * root.eigenvalues) @ root.vectors.T + damping * torch.eye(7, dtype=torch.float64)
    torch.testing.assert_close(whiten(whiten(values, root), root), torch.linalg.solve(whole, values.T).T)
    torch.testing.assert_close(
        whiten(values.float(), moved({"": root}, values.device, torch.float32)[""]).double(),
        whiten(values, root),
        rtol=1e-5,
        atol=1e-5,
    )


def test_without_damping_directions_that_the_moment_lacks_stay_as_they_are() -> None:
    root = thin(0.0)
    beside = torch.linalg.qr(root.vectors, mode="complete").Q[:, 3:].T
    torch.testing.assert_close(whiten(beside, root), beside)
    torch.testing.assert_close(whiten(root.vectors.T, root), root.vectors.T * root.eigenvalues.rsqrt()[:, None])


def test_roots_of_both_kinds_come_back_from_tensors() -> None:
    whitening = {"model.a": thin(0.3), "b": torch.eye(2)}
    found = from_flat(dict(reversed(flat(whitening).items())))
    assert found["b"].equal(whitening["b"])
    root = found["model.a"]
    assert isinstance(root, ThinRoot)
    assert root.damping == 0.3
    assert root.eigenvalues.equal(thin(0.3).eigenvalues)
    assert root.vectors.equal(thin(0.3).vectors)
