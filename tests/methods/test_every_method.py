"""The contract, for every method that there is: a new file in curate/methods is tested from its first day."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from curate import methods
from curate.errors import SettingsError
from curate.gradients.scored import Scored
from curate.methods.contract import Scorer
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from tests.methods.preparing import loss_after_a_step, make_inputs, prepare, scores
from tests.small_models import (
    batching,
    encoded,
    model_loss,
    random_documents,
    tiny_model,
    tiny_proxy,
)

# What a baseline cannot do by its nature: without the model's weights, as its NEEDS say, or without the target. A new
# method that is no baseline is in none of these, and goes through every test.
WITHOUT_TARGET = {"length", "loss", "random"}
WITHOUT_MODEL = {name for name in methods.names() if "model" not in methods.get(name).NEEDS}
OF_A_TRAINED_PROXY = {"magic"}  # losses and gradients are those of the proxy after some training
TRAINS = {"magic"}  # for half a minute in all
PRECONDITIONED = {"diagonal", "kfac", "shampoo"}  # as ekfac is, but for the fit, which tests/curvature has
WITHOUT_GRADIENTS = WITHOUT_TARGET | WITHOUT_MODEL | {"drift", "embedding", "rds"}


def each(*excepted: set[str]) -> pytest.MarkDecorator:
    names = [m for m in methods.names() if not any(m in e for e in excepted)]
    marks = {m: pytest.mark.slow if m in TRAINS | PRECONDITIONED else () for m in names}
    return pytest.mark.parametrize("method", [pytest.param(m, marks=marks[m]) for m in names])


every_method = each()


@pytest.fixture(scope="module")
def proxy() -> Proxy:
    return tiny_proxy()


@pytest.fixture(scope="module")
def pool() -> list[Encoded]:
    return random_documents([12, 3, 9, 2, 24, 12, 17, 5], seed=1)


@pytest.fixture(scope="module")
def target() -> list[Encoded]:
    return random_documents([8, 11, 5], seed=2)


@pytest.fixture(scope="module")
def background() -> list[Encoded]:
    return random_documents([7, 9, 12, 5, 10, 6], seed=3)


Usual = Callable[[str], tuple[Scored, Path]]


@pytest.fixture(scope="module")
def usual(
    proxy: Proxy,
    pool: list[Encoded],
    target: list[Encoded],
    background: list[Encoded],
    tmp_path_factory: pytest.TempPathFactory,
) -> Usual:
    """What a method says of the pool, and the folder of that run, where its fits are kept; found once a method."""

    @cache
    def of(method: str) -> tuple[Scored, Path]:
        folder = tmp_path_factory.mktemp(method)
        return scores(method, make_inputs(proxy, folder, target, background), pool), folder

    return of


def test_the_folder_is_the_registry() -> None:
    assert {"cosine", "dot", "trackstar"} | WITHOUT_GRADIENTS <= set(methods.names())
    assert list(methods.names()) == sorted(methods.names())
    with pytest.raises(SettingsError, match="There is no method 'trakstar'") as error:
        methods.get("trakstar")
    assert "Did you mean 'trackstar'?" in str(error.value)


@every_method
def test_a_method_says_in_one_line_what_it_is_and_has_frozen_settings_with_defaults(method: str) -> None:
    module = methods.get(method)
    first, *rest = module.description.splitlines()
    assert first.endswith(".") or rest[0] == ""
    assert 10 < len(first) <= 120
    settings = module.Settings()
    assert dataclasses.is_dataclass(settings)
    name = dataclasses.fields(settings)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, name, getattr(settings, name))
    with pytest.raises(TypeError):
        module.Settings(1)


@every_method
def test_every_document_has_a_finite_score_and_what_the_model_says_of_it(
    method: str, tmp_path: Path, proxy: Proxy, pool: list[Encoded], target: list[Encoded], background: list[Encoded]
) -> None:
    inputs = make_inputs(proxy, tmp_path, target, background)
    scorer = prepare(method, inputs)
    assert isinstance(scorer, Scorer)
    found = scorer(pool, inputs.batching)
    assert found.scores.shape == (len(pool), 1)
    assert all(x.isfinite().all() for x in (found.scores, found.losses, found.norms) if x is not None)
    if found.losses is not None:
        assert (found.losses > 0).all()
    if found.losses is not None and method not in OF_A_TRAINED_PROXY:
        expected = torch.stack([model_loss(proxy.model, d) for d in pool])
        torch.testing.assert_close(found.losses.double(), expected, rtol=1e-6, atol=1e-6)
    assert (found.norms is None) == (method in WITHOUT_GRADIENTS)
    assert len(found.scores.unique()) >= (len(pool) if found.norms is not None else len(pool) // 2)


@every_method
def test_the_same_inputs_give_the_same_scores(
    method: str,
    usual: Usual,
    tmp_path: Path,
    proxy: Proxy,
    pool: list[Encoded],
    target: list[Encoded],
    background: list[Encoded],
) -> None:
    one, folder = usual(method)
    again = scores(method, make_inputs(proxy, folder, target, background), pool)
    elsewhere = scores(method, make_inputs(proxy, tmp_path, target, background), pool)
    for other in (again, elsewhere):
        assert one.scores.equal(other.scores)
        for ours, theirs in ((one.losses, other.losses), (one.norms, other.norms)):
            assert (ours is None) == (theirs is None)
            assert ours is None or (theirs is not None and ours.equal(theirs))


@every_method
def test_a_score_depends_on_no_batch_padding_or_order(
    method: str,
    usual: Usual,
    tmp_path: Path,
    proxy: Proxy,
    pool: list[Encoded],
    target: list[Encoded],
    background: list[Encoded],
) -> None:
    expected, _ = usual(method)
    for budget in (1, 2000):
        inputs = make_inputs(proxy, tmp_path / str(budget), target, background, batches=batching(budget=budget))
        found = scores(method, inputs, pool[::-1])
        torch.testing.assert_close(found.scores.flip(0), expected.scores, rtol=1e-9, atol=1e-9)


@every_method
def test_groups_have_a_column_each_after_the_one_for_all(
    method: str,
    usual: Usual,
    tmp_path: Path,
    proxy: Proxy,
    pool: list[Encoded],
    target: list[Encoded],
    background: list[Encoded],
) -> None:
    inputs = make_inputs(proxy, tmp_path / "all", target, background, groups=["law", "code", "law"])
    found = scores(method, inputs, pool).scores
    assert found.shape == (len(pool), 3)
    torch.testing.assert_close(found[:, :1], usual(method)[0].scores)
    if method == "random":
        assert len(found.unique()) == found.numel()  # a ranking of its own for each
        return
    for column, rows in ((1, [1]), (2, [0, 2])):
        part = [target[i] for i in rows]
        alone = scores(method, make_inputs(proxy, tmp_path / str(column), part, background), pool).scores
        torch.testing.assert_close(found[:, column : column + 1], alone)


AGAINST = {name for name in methods.names() if "against" in methods.get(name).OFFERS}
BY_TOKEN = {name for name in methods.names() if "per_token" in methods.get(name).OFFERS}


@each(set(methods.names()) - AGAINST)
def test_a_control_set_counts_as_a_target_whose_scores_are_subtracted(
    method: str, tmp_path: Path, proxy: Proxy, pool: list[Encoded], target: list[Encoded], background: list[Encoded]
) -> None:
    control = random_documents([6, 10], seed=4)
    groups = ["law", "code", "law"]
    plain = scores(method, make_inputs(proxy, tmp_path / "target", target, background, groups=groups), pool)
    other = make_inputs(proxy, tmp_path / "control", control, background)
    inputs = make_inputs(proxy, tmp_path / "both", target, background, groups=groups)
    found = scores(method, dataclasses.replace(inputs, against=other.target), pool)
    expected = plain.scores - scores(method, other, pool).scores
    torch.testing.assert_close(found.scores, expected, rtol=1e-7, atol=1e-9)


@each(set(methods.names()) - BY_TOKEN)
def test_token_scores_sum_to_the_documents(
    method: str, tmp_path: Path, proxy: Proxy, pool: list[Encoded], target: list[Encoded], background: list[Encoded]
) -> None:
    inputs = make_inputs(proxy, tmp_path, target, background, groups=["law", "code", "law"])
    found = prepare(method, dataclasses.replace(inputs, per_token=True))(pool, inputs.batching)
    assert found.tokens is not None
    assert [len(t) for t in found.tokens] == [len(d.ids) for d in pool]
    torch.testing.assert_close(torch.stack([t.sum(0) for t in found.tokens]), found.scores)


@every_method
def test_what_a_method_does_not_offer_is_refused_with_those_that_do(method: str) -> None:
    methods.refuse_unoffered(method, against=method in AGAINST, per_token=method in BY_TOKEN)
    if method not in AGAINST:
        with pytest.raises(SettingsError, match=f"'{method}' has no gradient or query") as error:
            methods.refuse_unoffered(method, against=True, per_token=False)
        assert "choose one of bm25, cosine" in str(error.value)
    if method not in BY_TOKEN:
        with pytest.raises(SettingsError, match=f"'{method}' scores whole documents"):
            methods.refuse_unoffered(method, against=False, per_token=True)


UNKNOWN = 50


@pytest.fixture(scope="module")
def holed() -> Proxy:
    """A model whose embedding of one token is not a number."""
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[UNKNOWN] = torch.nan
    return tiny_proxy(model)


def without_hole(documents: Sequence[Encoded]) -> list[Encoded]:
    return [dataclasses.replace(d, ids=np.where(d.ids == UNKNOWN, 1, d.ids)) for d in documents]


@each(WITHOUT_TARGET, WITHOUT_MODEL)
def test_a_target_row_that_is_not_finite_is_set_aside_and_reported(
    method: str, tmp_path: Path, holed: Proxy, pool: list[Encoded], target: list[Encoded], background: list[Encoded]
) -> None:
    pool, target, background = (without_hole(d) for d in (pool, target, background))
    clean = scores(method, make_inputs(holed, tmp_path / "clean", target, background), pool)
    spoilt = make_inputs(holed, tmp_path / "spoilt", [target[0], encoded([3, UNKNOWN, 4]), *target[1:]], background)
    with pytest.warns(UserWarning, match=r"1 target row\(s\) set aside"):
        found = scores(method, spoilt, pool)
    torch.testing.assert_close(found.scores, clean.scores, rtol=1e-9, atol=1e-9)


@each(WITHOUT_MODEL)
def test_a_document_that_is_not_finite_has_no_score_and_changes_no_other(
    method: str, tmp_path: Path, holed: Proxy, pool: list[Encoded], target: list[Encoded], background: list[Encoded]
) -> None:
    pool, target, background = (without_hole(d) for d in (pool, target, background))
    bad = [encoded([3, UNKNOWN, 4, 5])]
    inputs = make_inputs(holed, tmp_path / "a", target, [*background, *bad])
    clean = scores(method, make_inputs(holed, tmp_path / "b", target, background), pool)
    found = scores(method, inputs, [*pool[:3], *bad, *pool[3:]])
    assert found.scores[3].isnan().all()
    others = [*range(3), *range(4, len(pool) + 1)]
    torch.testing.assert_close(found.scores[others], clean.scores, rtol=1e-9, atol=1e-9)


@each(WITHOUT_GRADIENTS)
@pytest.mark.parametrize(
    "architecture", ["LlamaConfig", pytest.param("GPT2Config", marks=pytest.mark.slow), "GptOssConfig"]
)
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_more_weight_on_a_document_of_positive_score_lowers_the_targets_loss(
    method: str, tmp_path: Path, architecture: str, seed: int
) -> None:
    """With two tokens in all, the gradient for one continuation is that for the other times a negative number.

    So a document that continues the target's prompt as the target does must score above 0 and the one that does not
    below it, by any method whose preconditioner is positive semi-definite, whatever else it does; and so must the loss.
    """
    tiny = tiny_model(architecture, seed=seed, vocab_size=2, bos_token_id=0, eos_token_id=1)
    proxy = tiny_proxy(tiny)
    prompt = np.random.default_rng(seed).integers(0, 2, 9).tolist()
    same, other = (encoded([*prompt, token], prompt=9) for token in (0, 1))
    background = [encoded(np.random.default_rng(10 + i).integers(0, 2, 8), prompt=4) for i in range(6)]
    found = scores(method, make_inputs(proxy, tmp_path, [same], background), [other, same]).scores[:, 0]
    assert found[0] < 0 < found[1]
    before = loss_after_a_step(proxy, [same], [same], 0.0)
    best, worst = ([other, same][i] for i in (int(found.argmax()), int(found.argmin())))
    assert loss_after_a_step(proxy, [best], [same], 1e-5) < before < loss_after_a_step(proxy, [worst], [same], 1e-5)


def language(first: int, n: int, seed: int) -> list[Encoded]:
    """Documents that step through 10 tokens of their own, from a random one on."""
    rng = np.random.default_rng(seed)
    return [encoded([first + (s + i) % 10 for i in range(12)]) for s in rng.integers(0, 10, n)]


@each(WITHOUT_TARGET)
def test_training_on_the_best_documents_lowers_the_targets_loss_and_on_the_worst_raises_it(
    method: str, tmp_path: Path, proxy: Proxy
) -> None:
    pool = [*language(20, 8, 0), *language(40, 8, 1)]
    target, background = language(20, 4, 2), [*language(20, 6, 3), *language(40, 6, 4)]
    found: Scored = scores(method, make_inputs(proxy, tmp_path, target, background), pool)
    order = found.scores[:, 0].argsort().tolist()
    before = loss_after_a_step(proxy, pool[:1], target, 0.0)
    best = loss_after_a_step(proxy, [pool[i] for i in order[-4:]], target, 1e-5)
    worst = loss_after_a_step(proxy, [pool[i] for i in order[:4]], target, 1e-5)
    assert best < before
    assert best < worst
    assert sum(i < 8 for i in order[-8:]) >= 7
