import numpy as np
import pytest

from curate.students.ridge import Ridge, Scaling


def _data(documents: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(documents, width)).astype(np.float32)
    targets = features[:, :2] + rng.normal(size=(documents, 2))
    return features, targets - targets.mean(0)


@pytest.mark.parametrize(("documents", "width"), [(40, 7), (12, 30)])
def test_the_weights_solve_the_normal_equations(documents: int, width: int) -> None:
    features, targets = _data(documents, width)
    weights = Ridge.of(features, targets).weights(0.5)
    wide = features.astype(np.float64)
    expected = np.linalg.solve(wide.T @ wide + 0.5 * np.eye(width), wide.T @ targets)
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("documents", "width"), [(40, 7), (40, 39), (12, 30)])
def test_left_out_predictions_are_those_of_models_fitted_without_the_fold(documents: int, width: int) -> None:
    features, targets = _data(documents, width)
    folds = np.arange(documents) % 3
    predicted = Ridge.of(features, targets).left_out([3.0, 0.5], folds)[0.5]
    for fold in range(3):
        held, rest = folds == fold, folds != fold
        without = Ridge.of(features[rest], targets[rest]).weights(0.5)
        np.testing.assert_allclose(predicted[held], features[held] @ without, rtol=1e-3, atol=1e-4)


def test_a_constant_feature_is_scaled_to_nothing() -> None:
    scaled = Scaling.of(np.array([[1, 5], [3, 5]], np.float32))(np.array([[2, 9]], np.float32))
    assert scaled.tolist() == [[0, 0]]
