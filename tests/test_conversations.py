"""The whole road for rows of conversations: by models with a chat template and without."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import curate
from curate.errors import CurateError, SettingsError
from curate.progress import Silent
from curate.proxies.templates import shipped_template
from tests.scoring import lines, make_project, make_rows

TURNS = ["the court shall hold", "that a party may not", "waive notice"]
SHAREGPT = [
    {"id": i, "conversations": [{"from": "human", "value": f"{i}?"}, {"from": "gpt", "value": TURNS[i % 3]}]}
    for i in range(8)
]
ALPACA = [{"instruction": f"add {i} and", "input": str(i), "output": "seven"} for i in range(4)]


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model `base` has no template, with a pool and a target of two other shapes."""
    folder = make_project(tmp_path_factory.mktemp("chat"), 8)
    base = shutil.copytree(folder / "proxy", folder / "base")
    (base / "chat_template.jinja").unlink()
    (folder / "sharegpt.jsonl").write_bytes(lines(SHAREGPT))
    (folder / "alpaca.jsonl").write_bytes(lines(ALPACA))
    (folder / "texts.jsonl").write_bytes(lines([*make_rows(20, 3), SHAREGPT[0], *make_rows(4, 5)]))
    return folder


def score(place: Path, out: Path, pool: str, target: str, model: str = "base", **settings: Any) -> curate.Run:
    reporter = settings.pop("reporter", Silent())
    return curate.score(
        pool=str(place / pool),
        target=str(place / target),
        model=str(place / model),
        method="dot",
        device="cpu",
        out=out,
        reporter=reporter,
        **settings,
    )


def test_pool_and_target_are_read_by_their_own_shapes_and_said_aloud(place: Path, tmp_path: Path) -> None:
    notes = Notes()
    run = score(place, tmp_path / "run", "sharegpt.jsonl", "alpaca.jsonl", "proxy", reporter=notes)
    assert run.totals is not None
    assert run.totals["documents"] == len(SHAREGPT)
    assert [n for n in notes.notes if "read as" in n] == [
        "pool read as: ShareGPT conversations (conversations).",
        "target read as: Alpaca instructions (instruction, output, input).",
    ]


@pytest.mark.parametrize("verb", ["score", "index"])
def test_a_pool_of_conversations_needs_a_template_before_it_is_scored(place: Path, tmp_path: Path, verb: str) -> None:
    pool = {"pool": str(place / "sharegpt.jsonl"), "model": str(place / "base"), "device": "cpu"}
    target = {"target": str(place / "alpaca.jsonl")} if verb == "score" else {}
    with pytest.raises(SettingsError, match="holds conversations, and the model has no chat template") as error:
        getattr(curate, verb)(out=tmp_path / "out", **pool, **target)
    assert "--chat-template shipped" in str(error.value.hint)


def test_a_target_of_conversations_needs_a_template(place: Path, tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match=r"no chat template|rows of the target"),
        pytest.raises(CurateError, match="scored token: ") as error,
    ):
        score(place, tmp_path / "run", "texts.jsonl", "sharegpt.jsonl")
    assert "--chat-template shipped" in str(error.value.hint)


def test_the_shipped_template_and_a_file_of_it_give_a_model_the_same_scores(place: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(shipped_template())
    tables = [
        score(place, tmp_path / name, "sharegpt.jsonl", "alpaca.jsonl", **settings).scores().collect()
        for name, settings in {
            "a": {"chat_template": "shipped"},
            "b": {"chat_template": str(tmp_path / "chat.jinja")},
            "c": {"model": "proxy"},
        }.items()
    ]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_a_conversation_among_texts_is_set_aside_by_a_model_without_template(place: Path, tmp_path: Path) -> None:
    run = score(place, tmp_path / "run", "texts.jsonl", "alpaca.jsonl", part_documents=8)
    assert run.totals is not None
    assert (run.totals["documents"], run.totals["skipped"]) == (24, {"chat template": 1})
    assert run.skipped().collect()["row"].to_list() == [20]


def test_a_shape_is_named_for_the_pool_and_for_the_target_apart(place: Path, tmp_path: Path) -> None:
    (tmp_path / "both.jsonl").write_bytes(lines([{"text": "add three and four", **row} for row in SHAREGPT]))
    pool, target = str(tmp_path / "both.jsonl"), str(place / "alpaca.jsonl")
    settings: dict[str, Any] = {"fields": {"format_as": "sharegpt"}, "target_fields": {"format_as": "alpaca"}}
    run = score(place, tmp_path / "run", pool, target, "proxy", **settings)
    assert run.scores().collect()["preview"][0] == f"0? {TURNS[0]}"
