"""Choosing tokens, on the whole road: what carries loss in the dump is what was chosen, and nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

import curate
from curate.cli import main
from curate.documents import Fields, documents, open_pool
from curate.errors import CurateError, SettingsError
from curate.progress import Silent
from curate.proxies.tokens import Encoder, TokenSettings
from curate.schema import Document
from curate.selection.labels import labelled
from tests.scoring import lines, make_project, make_rows
from tests.selection.test_labels import falling_back

CHATS = [
    {
        "messages": [
            {"role": "system", "content": "the court"},
            {"role": "user", "content": f"may a party waive notice {i}?"},
            {"role": "assistant", "content": "a party may not. the court shall hold"},
            {"role": "user", "content": "that"},
            {"role": "assistant", "content": f"waive {i} not"},
        ]
    }
    for i in range(4)
]
PROMPTS = [{"prompt": "the ship rode a grey swell\n", "completion": f"gulls cried over {i} sails"} for i in range(4)]


class Warnings(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = make_project(tmp_path_factory.mktemp("tokens"), 4)
    (place / "pool" / "e.jsonl").write_bytes(lines([*CHATS, *make_rows(3, 7), *PROMPTS]))
    falling_back().save_pretrained(place / "other")
    return place


def scored(project: Path, name: str, **settings: Any) -> curate.Run:
    return curate.score(
        **{"target": str(project / "val.jsonl"), "pool": str(project / "pool"), **settings},
        model=str(project / "proxy"),
        method="dot",
        device="cpu",
        group_by="task",
        part_documents=5,
        out=project / "runs" / name,
        reporter=Silent(),
    )


@pytest.fixture(scope="module", params=[pytest.param("truncate", marks=pytest.mark.slow), "windows"])
def run(request: pytest.FixtureRequest, project: Path) -> curate.Run:
    return scored(project, request.param, long=request.param, per_token=True)


def dump(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / "train").glob("*.arrow"))
    return pa.concat_tables([pa.ipc.open_stream(f).read_all() for f in files]).to_pylist()


def read(project: Path) -> Iterator[Document]:
    for shard in open_pool(str(project / "pool")).shards:
        yield from (d for d in documents(shard, Fields()) if isinstance(d, Document))


def expected(project: Path, run: curate.Run, column: str, share: float) -> dict[tuple[str, int], set[int]]:
    """The tokens of the best parts by plain sorting; of text whose tokens all hold whole characters."""
    tokenizer = AutoTokenizer.from_pretrained(project / "proxy")
    long = run.record.settings["long"]
    encoder = Encoder(tokenizer, TokenSettings(context=64, long=long))
    parts = {(r["shard"], r["row"]): r[column] for r in run.scores().collect().to_dicts()}
    candidates = []
    for order, document in enumerate(read(project)):
        (encoded,) = encoder([document])
        if (of_document := parts.get((document.shard, document.row))) is not None:
            assert len(of_document) == len(encoded.ids)
            place = (document.shard, document.row)
            candidates += [(-of_document[t], order, t, place) for t in np.flatnonzero(encoded.scored).tolist()]
    candidates.sort()
    best: dict[tuple[str, int], set[int]] = {}
    for *_, t, place in candidates[: round(share * len(candidates))]:
        best.setdefault(place, set()).add(t)
    return best


def by_place(out: Path, project: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of a dump by shard and row: the pool's in its order, without those that were dropped."""
    dropped = pl.read_parquet(out / "rejected" / "rejected.parquet").select("shard", "row").rows()
    kept = [p for d in read(project) if (p := (d.shard, d.row)) not in dropped]
    return dict(zip(kept, dump(out), strict=True))


def test_the_best_tokens_of_the_pool_carry_loss_and_no_others(project: Path, run: curate.Run, tmp_path: Path) -> None:
    for group, column in ((None, "token_scores"), ("b", "token_scores_b")):
        out = tmp_path / column
        selection = curate.select(run, unit="token", top="30%", group=group, decontaminate=False, out=out)
        chosen = expected(project, run, column, 0.3)
        rows = by_place(out, project)
        assert {p: {t for t, i in enumerate(r["labels"]) if i >= 0} for p, r in rows.items()} == chosen
        assert selection.tokens == sum(map(len, chosen.values()))
        assert selection.documents == len(chosen) < run.totals["documents"]
        figures = selection.token_figures
        assert figures.carrying_loss == figures.chosen == selection.tokens
        assert figures.candidates == run.totals["tokens"]
        assert figures.tokens == sum(len(r["input_ids"]) for r in rows.values())


def test_spans_and_labels_say_the_same_of_every_shape(project: Path, run: curate.Run, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(project / "proxy")
    curate.select(run, unit="token", top="50%", out=tmp_path / "out")
    rows = by_place(tmp_path / "out", project)
    shapes = set()
    for row in rows.values():
        text, answers = row["text_of_spans"], []
        if row["text"] is not None:
            assert text == row["text"]
        elif row["completion"] is not None:
            assert text == row["prompt"] + row["completion"]
            answers = [row["completion"]]
        else:
            answers = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
            assert all(answer in text for answer in answers)
        shapes.add(len(answers))
        spans = row["spans"]
        assert spans
        if answers:
            places = [(text.index(a), text.index(a) + len(a) + len("<|im_end|>\n")) for a in answers]
            assert all(any(a <= start < end <= b for a, b in places) for start, end in spans)
        special = not text.startswith("<|im_start|>")
        assert labelled(text, spans, tokenizer, special=special) == (row["input_ids"], row["labels"])
    assert shapes == {0, 1, 2}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["tokens"]["text_column"] == "text_of_spans"


def test_another_tokenizer_learns_the_same_characters(project: Path, run: curate.Run, tmp_path: Path) -> None:
    other = AutoTokenizer.from_pretrained(project / "other")
    reporter = Warnings()
    options: dict[str, Any] = {"unit": "token", "top": "40%", "smooth": "line"}
    curate.select(run, **options, out=tmp_path / "proxy", reporter=reporter)
    selection = curate.select(
        run, **options, tokenizer=project / "other", out=tmp_path / "other", format="parquet", reporter=reporter
    )
    ours = dump(tmp_path / "proxy")
    theirs = pl.read_parquet(tmp_path / "other" / "train" / "*.parquet").to_dicts()
    assert [r["spans"] for r in ours] == [r["spans"] for r in theirs]
    for row in theirs:
        text, spans = row["text_of_spans"], row["spans"]
        assert len(row["input_ids"]) != len(ours[0]["input_ids"])
        offsets = other(text, return_offsets_mapping=True)["offset_mapping"]
        assert len(offsets) == len(row["labels"])
        learnt = {c for (a, b), i in zip(offsets, row["labels"], strict=True) if i >= 0 for c in range(a, b)}
        chosen = {c for a, b in spans for c in range(a, b)}
        assert chosen - set(range(offsets[0][1])) <= learnt
        for a, b in offsets:
            if not chosen & set(range(a, b)):
                assert not learnt & set(range(a, b))
    assert any("chat template" in w for w in reporter.warnings)
    assert selection.token_figures.tokenizer == str(project / "other")
    assert selection.token_figures.carrying_loss == sum(i >= 0 for r in theirs for i in r["labels"])
    assert selection.token_figures.carrying_loss != selection.token_figures.chosen


def test_chosen_tokens_have_places_on_a_map_or_are_packed_with_their_labels_alone(
    project: Path, run: curate.Run, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"unit": "token", "top": "30%", "decontaminate": False}
    curate.select(run, map=True, out=tmp_path / "mapped", **how)
    mapped = dump(tmp_path / "mapped")
    assert all(np.isfinite([row["x"], row["y"]]).all() for row in mapped)
    chosen = [t for row in mapped for t in row["labels"] if t >= 0]
    assert len(chosen) > 100
    packed = curate.select(run, tokenised=True, pack=2048, out=tmp_path / "packed", **how)
    end = AutoTokenizer.from_pretrained(project / "proxy").eos_token_id
    learnt = [t for row in dump(tmp_path / "packed") for t in row["labels"] if t >= 0]
    assert [t for t in learnt if t != end] == [t for t in chosen if t != end]
    assert packed.token_count is not None
    assert packed.token_count.documents == len(mapped)


def test_turns_are_chosen_whole(project: Path, run: curate.Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"unit": "token", "smooth": "turn", "reporter": Warnings()}
    selection = curate.select(run, **options, top="60%", out=tmp_path / "out")
    for row in dump(tmp_path / "out"):
        if row["text"] is not None:
            (span,) = row["spans"]  # all of a plain text, as far as it was scored
            assert span[0] == 0
    assert 0.5 < selection.tokens / selection.token_figures.candidates <= 0.6
    with pytest.raises(CurateError, match="Nothing is left") as error:
        curate.select(run, **options, budget=1, out=tmp_path / "less")
    assert "--smooth" in (error.value.hint or "")
    assert any("1 tokens are wanted; 0 are chosen" in w for w in options["reporter"].warnings)


def test_documents_are_narrowed_before_their_tokens(project: Path, run: curate.Run, tmp_path: Path) -> None:
    best = curate.select(run, top="25%", out=tmp_path / "documents")
    both = curate.select(run, unit="token", documents="25%", top="20%", out=tmp_path / "tokens")
    assert set(by_place(tmp_path / "tokens", project)) <= set(by_place(tmp_path / "documents", project))
    assert both.token_figures.candidates == best.tokens
    assert both.tokens == round(0.2 * best.tokens)
    assert [s.name for s in both.stages] == ["decontaminate", "top", "tokens"]
    for part in both.composition:
        share, before = part.tokens / both.tokens, part.pool_tokens / both.tokens_before
        assert part.enrichment == pytest.approx(share / before)
    assert both.stages[-1].documents_dropped == best.documents - both.documents


def test_the_same_settings_give_the_same_bytes_and_the_command_does_what_the_function_does(
    project: Path, run: curate.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--unit", "token", "--top", "20%", "--documents", "50%", "--smooth", "sentence", "--format", "jsonl.zst"]
    main(["select", str(run.path), *options, "--out", str(tmp_path / "a")])
    assert "chosen (" in capsys.readouterr().out
    settings: dict[str, Any] = {"unit": "token", "top": "20%", "documents": "50%", "smooth": "sentence"}
    curate.select(run, **settings, format="jsonl.zst", out=tmp_path / "b", reporter=Warnings())
    names = sorted(str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*.*"))
    assert "train/00000.jsonl.zst" in names
    for name in names:
        one, other = (tmp_path / "a" / name).read_bytes(), (tmp_path / "b" / name).read_bytes()
        if name == "manifest.json":
            assert {**json.loads(one), "seconds": 0, "fingerprint": 0} == {
                **json.loads(other), "seconds": 0, "fingerprint": 0
            }  # fmt: skip
        elif name != "HANDOVER.md":  # which names the folder
            assert one.partition(b"description:")[0] == other.partition(b"description:")[0]


def test_characters_of_several_tokens_come_whole(project: Path, tmp_path: Path) -> None:
    (project / "odd").mkdir()
    (project / "odd" / "a.jsonl").write_bytes(lines([{"text": f"café 🙂🙂 naïve {i}\n\n  жук " * 3} for i in range(6)]))
    odd = scored(project, "odd", pool=str(project / "odd"), per_token=True, normalize="length")
    tokenizer = AutoTokenizer.from_pretrained(project / "proxy")
    reporter = Warnings()
    selection = curate.select(
        odd, unit="token", top="50%", out=tmp_path / "out", tokenizer=project / "other", reporter=reporter
    )
    assert [w.partition(":")[0] for w in reporter.warnings] == [
        "the parts of a document's score are divided by its tokens (normalize=length)"  # and nothing of conversations
    ]
    selection = curate.select(odd, unit="token", top="50%", out=tmp_path / "out", overwrite=True, reporter=reporter)
    for row in dump(tmp_path / "out"):
        assert (row["input_ids"], row["labels"]) == labelled(row["text"], row["spans"], tokenizer)
        assert "text_of_spans" not in row
    assert odd.totals["tokens"] > selection.token_figures.candidates > selection.tokens > 0  # cut within a character


def test_a_run_without_token_scores_is_refused_before_anything_is_done(project: Path, tmp_path: Path) -> None:
    plain = scored(project, "plain")
    (project / "pool").rename(tmp_path / "gone")
    try:
        with pytest.raises(CurateError, match="no scores per token") as error:
            curate.select(plain, unit="token", top="20%", out=tmp_path / "out")
    finally:
        (tmp_path / "gone").rename(project / "pool")
    assert "--per-token" in (error.value.hint or "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "token"}, "neither of --top and --budget"),
        ({"unit": "token", "top": "2%", "budget": 3}, "both of --top and --budget"),
        ({"unit": "token", "budget": "20%"}, "expected a number of tokens"),
        ({"unit": "token", "top": "2%", "smooth": "word"}, "smooth is 'word'"),
        ({"unit": "token", "top": "2%", "documents": "0%"}, "--documents: expected more than 0"),
        ({"unit": "token", "top": "2%", "aggregate": "round-robin"}, "do not choose tokens in turn"),
        ({"unit": "token", "top": "2%", "group": "c"}, "has no group"),
        ({"top": "2%", "smooth": "line"}, "only tokens have it"),
        ({"unit": "word", "top": "2%"}, "The unit is 'word'"),
    ],
)
def test_what_cannot_be_asked_is_refused(run: curate.Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        curate.select(run, **options)


def test_a_tokenizer_that_has_changed_is_told(project: Path, run: curate.Run, tmp_path: Path) -> None:
    proxy = project / "proxy" / "tokenizer.json"
    before = proxy.read_bytes()
    proxy.write_bytes((project / "other" / "tokenizer.json").read_bytes())
    try:
        with pytest.raises(CurateError, match="has other tokens than when it was scored"):
            curate.select(run, unit="token", top="20%", out=tmp_path / "out")
    finally:
        proxy.write_bytes(before)
    assert not (tmp_path / "out").exists()
