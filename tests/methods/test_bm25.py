import random
from dataclasses import replace
from pathlib import Path

import bm25s
import numpy as np
import pytest
import torch

from curate import methods
from curate.errors import CurateError, SettingsError
from curate.methods.contract import Inputs
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from tests.methods.preparing import make_inputs, prepare, scores
from tests.small_models import encoded, tiny_proxy

SOME = ["the", "river", "and", "bank", "of", "a", "running", "run", "ship", "court", "notice", "doubled", "doubling"]


@pytest.fixture(scope="module")
def proxy() -> Proxy:
    return tiny_proxy()


def of_text(*texts: str) -> list[Encoded]:
    return [replace(encoded([1, 2, 3]), text=text) for text in texts]


def sentences(count: int, seed: int) -> list[Encoded]:
    rng = random.Random(seed)
    return of_text(*(" ".join(rng.choices(SOME, k=rng.randint(3, 30))) for _ in range(count)))


def by_bm25s(
    target: list[Encoded], pool: list[Encoded], *, stemmer=None, stopwords="english", **settings
) -> np.ndarray:
    """The mean of its own scores over the target's rows, the pool indexed whole."""

    def split(documents: list[Encoded]) -> list[list[str]]:
        texts = [d.text for d in documents]
        return bm25s.tokenize(texts, stopwords=stopwords, stemmer=stemmer, return_ids=False, show_progress=False)

    index = bm25s.BM25(dtype="float64", **settings)
    index.index(split(pool), show_progress=False)
    return np.mean([index.get_scores(row) for row in split(target)], axis=0)


@pytest.mark.parametrize("variant", ["lucene", "robertson", "atire"])
@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.0), (2.0, 1.0)])
def test_with_the_whole_pool_as_background_scores_are_those_of_bm25s(
    variant: str, k1: float, b: float, proxy: Proxy, tmp_path: Path
) -> None:
    target, pool = sentences(5, 0), sentences(40, 1)
    target += of_text("zebra river zebra")  # a word that no document has
    found = scores("bm25", make_inputs(proxy, tmp_path, target, pool), pool, variant=variant, k1=k1, b=b).scores
    np.testing.assert_allclose(found[:, 0].numpy(), by_bm25s(target, pool, method=variant, k1=k1, b=b), rtol=1e-9)


def test_stop_words_and_stems_are_those_of_bm25s(proxy: Proxy, tmp_path: Path) -> None:
    stemmer = pytest.importorskip("Stemmer").Stemmer("english")
    target, pool = of_text("doubled the sum", "they run"), sentences(40, 1)
    inputs = make_inputs(proxy, tmp_path, target, pool)
    found = scores("bm25", inputs, pool, stemmer="english", stopwords="none").scores[:, 0].numpy()
    np.testing.assert_allclose(found, by_bm25s(target, pool, stemmer=stemmer, stopwords=None), rtol=1e-9)
    plain = scores("bm25", inputs, pool).scores[:, 0]
    assert (found > 0).sum() > int((plain > 0).sum()) > 0


def test_rarity_is_counted_on_the_background_and_not_on_what_is_scored(proxy: Proxy, tmp_path: Path) -> None:
    target, background = of_text("river court"), of_text(*["the river runs"] * 9, "a court rules")
    scorer = prepare("bm25", make_inputs(proxy, tmp_path, target, background))
    inputs = make_inputs(proxy, tmp_path, target, background)
    river, court = scorer(of_text("river xx", "court xx"), inputs.batching).scores[:, 0].tolist()
    assert 0 < river < court
    alone = scorer(of_text("court xx"), inputs.batching).scores[:, 0].tolist()
    assert alone == [court]


@pytest.mark.parametrize("variant", ["lucene", "robertson", "atire"])
def test_a_word_that_the_background_lacks_counts_as_one_that_a_single_document_has(
    variant: str, proxy: Proxy, tmp_path: Path
) -> None:
    target = of_text("zebra court")
    background = of_text("a court rules", *["the river runs"] * 9)
    found = scores(
        "bm25", make_inputs(proxy, tmp_path, target, background), of_text("zebra xx", "court xx"), variant=variant
    ).scores
    assert found[0] == found[1] > 0


def test_documents_without_spaces_find_their_like(proxy: Proxy, tmp_path: Path) -> None:
    target = of_text("蜀先主廟天地英雄氣", "千秋尚凜然")
    pool = of_text("英雄氣尚凜然矣", "今日はとても良い天気です", "Nothing of the kind, 中")
    found = scores("bm25", make_inputs(proxy, tmp_path, target, pool), pool).scores[:, 0]
    assert found[0] > 0
    assert found[1:].tolist() == [0, 0]


def test_a_control_set_takes_away_what_both_share(proxy: Proxy, tmp_path: Path) -> None:
    target, control = sentences(4, 0), sentences(3, 5)
    background, pool = sentences(30, 1), sentences(10, 2)
    inputs = make_inputs(proxy, tmp_path / "with", target, background, groups=["a", "b", "a", "b"])
    found = scores("bm25", replace(inputs, against=as_control(inputs, control)), pool).scores
    plain = scores("bm25", inputs, pool).scores
    theirs = scores("bm25", make_inputs(proxy, tmp_path / "control", control, background), pool).scores
    torch.testing.assert_close(found, plain - theirs, rtol=1e-9, atol=1e-9)


def as_control(inputs: Inputs, documents: list[Encoded]):
    return replace(inputs.target, encoded=documents, groups=[""] * len(documents), names=[""], fingerprint="control")


def test_weights_are_kept_in_the_run(proxy: Proxy, tmp_path: Path) -> None:
    inputs = make_inputs(proxy, tmp_path, of_text("naïve 東京都", "river bank"), sentences(30, 1))
    pool = of_text("naïve", "京都 bank", "\ud800 river")
    first = scores("bm25", inputs, pool).scores
    again = replace(inputs, background=lambda: pytest.fail("counted again"))
    assert scores("bm25", again, pool).scores.equal(first)
    assert (first > 0).all()


def test_a_target_or_a_background_without_words_is_named(proxy: Proxy, tmp_path: Path) -> None:
    words, none = of_text("river bank"), of_text("… – !")
    with pytest.raises(CurateError, match="No row of group 'b' holds a word"):
        prepare("bm25", make_inputs(proxy, tmp_path, [*words, *none], words, groups=["a", "b"]))
    with pytest.raises(CurateError, match="background sample of the pool holds no word"):
        prepare("bm25", make_inputs(proxy, tmp_path, words, none))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k1": -1.0}, "k1 is -1.0; expected at least 0"),
        ({"b": 1.5}, "b is 1.5; expected at least 0 and at most 1"),
        ({"variant": "bm25+"}, "variant is 'bm25\\+'; expected one of lucene"),
        ({"stopwords": "klingon"}, "stopwords is 'klingon'; expected 'none' or a language"),
        ({"stemmer": "klingon"}, "stemmer is 'klingon'; expected 'none' or one of arabic"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        methods.get("bm25").Settings(**settings)
