from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from curate.errors import CurateError, SettingsError
from curate.gradients.documents import document_sketches
from curate.gradients.sketches import SketchEngine, Sketches
from curate.methods import trackstar
from curate.methods.contract import Inputs, Sizes
from curate.methods.shared import sketched
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded, TokenBatch
from tests.methods.preparing import make_inputs, prepare, scores
from tests.small_models import batching, encoded, random_documents, tiny_model, tiny_proxy, whole_gradients

WHOLE = 10_000
LAYERS = ("layers.0.mlp.up_proj", "layers.1.self_attn.?_proj")


@pytest.fixture(scope="module")
def proxy() -> Proxy:
    return tiny_proxy(None, None, *LAYERS)


@pytest.fixture(scope="module")
def target() -> list[Encoded]:
    return random_documents([9, 6, 14], seed=1)


@pytest.fixture(scope="module")
def pool() -> list[Encoded]:
    return random_documents([7, 12, 4, 9], seed=2)


@pytest.fixture(scope="module")
def background() -> list[Encoded]:
    return random_documents([7, 9, 12, 5, 10, 6, 20], seed=3)


def gradients(proxy: Proxy, documents: list[Encoded]) -> dict[str, Tensor]:
    """`[documents, entries]` per layer, of losses summed over tokens."""
    found = [whole_gradients(proxy, d)[1] for d in documents]
    return {name: torch.stack([g[name].flatten() for g in found]) for name in proxy.tracked}


def truth(
    proxy: Proxy,
    target: list[Encoded],
    pool: list[Encoded],
    background: list[Encoded],
    *,
    damping: float,
    share: float = 0.0,
) -> Tensor:
    """Mean over the target of gᵀ R⁻¹ g' / (‖R^(-1/2) g‖ ‖R^(-1/2) g'‖), by dense solves."""
    ours, theirs, sample = (gradients(proxy, d) for d in (pool, target, background))
    products = {"tz": 0.0, "tt": 0.0, "zz": 0.0}
    for name in proxy.tracked:
        moment = (1 - share) * sample[name].T @ sample[name] / len(background)
        moment = moment + share * theirs[name].T @ theirs[name] / len(target)
        moment.diagonal().add_(damping * moment.diagonal().mean())
        for key, left, right in (("tz", theirs, ours), ("tt", theirs, theirs), ("zz", ours, ours)):
            products[key] = products[key] + left[name] @ torch.linalg.solve(moment, right[name].T)
    norms = products["tt"].diagonal().sqrt()[:, None] * products["zz"].diagonal().sqrt()[None]
    return (products["tz"] / norms).mean(0)


@pytest.mark.parametrize("damping", [0.1, 2.0])
def test_unprojected_scores_are_those_of_dense_damped_solves(
    tmp_path: Path, proxy: Proxy, target: Any, pool: Any, background: Any, damping: float
) -> None:
    inputs = make_inputs(proxy, tmp_path, target, background)
    found = scores("trackstar", inputs, pool, dim=WHOLE, damping=damping).scores[:, 0]
    torch.testing.assert_close(found, truth(proxy, target, pool, background, damping=damping), rtol=1e-7, atol=1e-9)


def test_the_targets_own_moment_is_mixed_in_by_its_share(
    tmp_path: Path, proxy: Proxy, target: Any, pool: Any, background: Any
) -> None:
    inputs = make_inputs(proxy, tmp_path, target, background)
    found = scores("trackstar", inputs, pool, dim=WHOLE, target_share=0.3).scores[:, 0]
    expected = truth(proxy, target, pool, background, damping=0.1, share=0.3)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_at_full_rank_scores_are_those_of_whole_sketches(
    tmp_path: Path, proxy: Proxy, target: Any, pool: Any, background: Any
) -> None:
    inputs = make_inputs(proxy, tmp_path, target, background)
    whole = scores("trackstar", inputs, pool, dim=9).scores
    for rank in (4, 1000):  # 4: every layer packed, so that little is lost; 1000: none
        found = scores("trackstar", inputs, pool, dim=9, rank=rank).scores
        error = (found - whole).abs().max() / whole.abs().max()
        assert error < (0.2 if rank == 4 else 1e-9)


@pytest.mark.parametrize("share", [0.4, 1.0, "paper"])
def test_a_target_like_the_pool_changes_nothing_whatever_its_share(
    tmp_path: Path, proxy: Proxy, target: Any, pool: Any, share: float | str
) -> None:
    inputs = make_inputs(proxy, tmp_path, target, target)
    torch.testing.assert_close(
        scores("trackstar", inputs, pool, dim=4, target_share=share).scores,
        scores("trackstar", inputs, pool, dim=4).scores,
    )


def test_the_papers_share_differs_from_none(tmp_path: Path, proxy: Proxy, target: Any, pool: Any) -> None:
    inputs = make_inputs(proxy, tmp_path, target, random_documents([12] * 8, seed=9))
    paper, none = (scores("trackstar", inputs, pool, dim=4, target_share=s).scores for s in ("paper", 0.0))
    assert (paper - none).abs().max() > 1e-3


def test_heavy_damping_of_one_layer_leaves_the_cosine(tmp_path: Path, target: Any, pool: Any, background: Any) -> None:
    one = tiny_proxy(None, None, LAYERS[0])
    inputs = make_inputs(one, tmp_path, target, background)
    torch.testing.assert_close(
        scores("trackstar", inputs, pool, damping=1e9).scores, scores("cosine", inputs, pool).scores
    )


def test_a_second_target_takes_the_backgrounds_moment_from_the_run(
    tmp_path: Path, proxy: Proxy, target: Any, pool: Any, background: Any
) -> None:
    first = make_inputs(proxy, tmp_path, target, background)
    scores("trackstar", first, pool)
    second = make_inputs(proxy, tmp_path, pool, background)
    expected = scores("trackstar", make_inputs(proxy, tmp_path / "fresh", pool, background), target)
    object.__setattr__(second, "background", pytest.fail)
    assert scores("trackstar", second, target).scores.equal(expected.scores)


def test_a_background_without_a_finite_gradient_is_refused(tmp_path: Path, target: Any) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[66] = torch.nan
    inputs = make_inputs(tiny_proxy(model), tmp_path, [encoded([1, 2, 3])], [encoded([1, 66, 3])])
    for rank in (0, 2):
        with pytest.raises(CurateError, match="No document of the background sample has a finite gradient"):
            scores("trackstar", inputs, [], rank=rank)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim is 0; expected at least 1"),
        ({"rank": -1}, "rank is -1; expected at least 0"),
        ({"rank": 2, "target_share": "paper"}, r"target_share is 'paper' with rank 2"),
        ({"damping": -0.1}, r"damping is -0\.1; expected at least 0"),
        ({"damping": float("nan")}, "damping is nan"),
        ({"target_share": 1.5}, r"target_share is 1\.5; expected at least 0 and at most 1, or paper"),
        ({"target_share": "most"}, "target_share is 'most'"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        trackstar.Settings(**changes)


class Counted(SketchEngine):
    """Counts the documents that go through the model."""

    sketched = 0

    def __call__(self, batch: TokenBatch) -> Sketches:
        Counted.sketched += len(batch)
        return super().__call__(batch)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    for module in (trackstar, sketched):
        monkeypatch.setattr(module, "SketchEngine", Counted)
    Counted.sketched = 0
    return Counted


TARGET = random_documents([8, 11, 5], seed=2)
POOL = random_documents([12, 3, 9, 2, 24, 12, 17, 5, 7, 9], seed=1)
SAMPLE = [POOL[i] for i in (7, 2, 4, 9)]


def of_pool(inputs: Inputs, pool: int = len(POOL)) -> Inputs:
    return replace(inputs, whole=lambda: Sizes(pool=pool, background=len(SAMPLE), target=len(TARGET), groups=1))


@pytest.mark.parametrize("settings", [{}, {"rank": 1}, {"target_share": 0.3}, {"damping": 1.0}])
def test_documents_of_the_background_are_sketched_once_and_score_the_same(
    tmp_path: Path, counted: type[Counted], settings: dict
) -> None:
    settings = {"dim": 4, **settings}
    expected = scores("trackstar", make_inputs(tiny_proxy(), tmp_path / "twice", TARGET, SAMPLE), POOL, **settings)
    assert counted.sketched == len(TARGET) + len(SAMPLE) + len(POOL)
    counted.sketched = 0
    once = of_pool(make_inputs(tiny_proxy(), tmp_path / "once", TARGET, SAMPLE))
    found = scores("trackstar", once, POOL, **settings)
    assert counted.sketched == len(TARGET) + len(POOL)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.losses, expected.losses)
    torch.testing.assert_close(found.norms, expected.norms)


def test_a_document_of_the_background_has_one_score_wherever_and_whenever_it_is_scored(
    tmp_path: Path, counted: type[Counted]
) -> None:
    def refuse() -> list[Encoded]:
        raise AssertionError("read again")

    inputs = of_pool(make_inputs(tiny_proxy(), tmp_path, TARGET, SAMPLE))
    first = scores("trackstar", inputs, POOL, dim=4)
    counted.sketched = 0
    scorer = prepare("trackstar", replace(inputs, background=refuse), dim=4)  # as another process does
    copies = [replace(SAMPLE[1]), SAMPLE[3]]
    assert scorer(copies, batching()).scores.equal(first.scores[[2, 9]])
    assert counted.sketched == 0
    assert scorer(POOL, inputs.batching).scores.equal(first.scores)
    others = [d for i, d in enumerate(POOL) if i not in (2, 4, 7, 9)]
    assert scorer(others, batching()).scores.shape == (len(others), 1)
    assert scorer([], batching()).scores.shape == (0, 1)


def test_a_document_of_the_background_that_is_not_finite_has_no_score(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[50] = torch.nan
    bad = encoded([3, 50, 4, 5])
    sample, pool = ([d for d in some if 50 not in d.ids] for some in (SAMPLE, POOL))
    target = [d for d in TARGET if 50 not in d.ids]
    inputs = of_pool(make_inputs(tiny_proxy(model), tmp_path, target, [*sample, bad]))
    found = scores("trackstar", inputs, [bad, *pool], dim=4)
    assert found.scores[:, 0].isnan().tolist() == [True] + [False] * len(pool)


@pytest.mark.parametrize("why", ["a small share", "a large file", "a store"])
def test_sketches_are_kept_only_where_that_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: type[Counted], why: str
) -> None:
    inputs = of_pool(make_inputs(tiny_proxy(), tmp_path, TARGET, SAMPLE), pool=10_000 if why == "a small share" else 10)
    if why == "a large file":
        monkeypatch.setattr("curate.methods.shared.sketched.MOST_BYTES", 1000)
    if why == "a store":
        engine = SketchEngine(inputs.proxy, dim=4, seed=0)
        values = [s.values for s in document_sketches(engine, SAMPLE, inputs.batching)]
        stored = SimpleNamespace(background=lambda: iter(values))
        inputs = replace(inputs, stored=stored)
    scores("trackstar", inputs, POOL, dim=4)
    assert not list(tmp_path.glob("background/*"))
    assert counted.sketched == len(TARGET) + len(POOL) + (0 if why == "a store" else len(SAMPLE))
