import json
import re
from pathlib import Path

import pytest

import curate
from curate.errors import CurateError
from curate.folders.record import Arithmetic, RunRecord, without_consequences
from tests.small_runs import FINGERPRINTS, SETTINGS

DETAILS = {
    "columns": ["score"],
    "arithmetic": {"dtype": "bfloat16", "reference": "float32", "least": 0.95, "failed": "No room.", "more": 1},
    "moved": {"runs/a": {"spearman": None, "documents": 1, "top_tenth": 1, "stayed": 1}},
    "of a plug-in": {"deep": [None, 1.5]},
    "nothing": None,
}


def read(text: str) -> RunRecord:
    return RunRecord.read(text.encode(), where="run.json", kind="run")


def test_a_record_is_read_back_to_the_same_bytes() -> None:
    record = RunRecord.make(SETTINGS | {"path": Path("x"), "shape": (1, 2)}, FINGERPRINTS, DETAILS)
    again = read(record.text)
    assert again == record
    assert again.text == record.text
    assert json.loads(record.text) == {
        "format": 1,
        "settings": SETTINGS | {"path": "x", "shape": [1, 2]},
        "fingerprints": FINGERPRINTS,
        "details": DETAILS,
    }


def test_what_is_known_is_typed_and_what_a_plug_in_put_there_survives() -> None:
    record = RunRecord.make(SETTINGS, FINGERPRINTS, DETAILS)
    assert (record.method, record.model, record.target, record.pool) == ("dot", "tiny", ("val.jsonl",), ("pool/",))
    assert (record.fingerprints.pool, record.fingerprints.heldout) == ("aa", "")
    assert record.details.columns == ("score",)
    assert record.details.arithmetic == Arithmetic(dtype="bfloat16", reference="float32", least=0.95, failed="No room.")
    assert record.details.moved["runs/a"].spearman is None
    assert (record.details.coverage, record.details.holdout, record.details.target_rows) == (None, None, None)
    more = record.with_details({"columns": ["score", "score_a"], "context": 8})
    assert more.details.columns == ("score", "score_a")
    assert more.json["details"] == DETAILS | {"columns": ["score", "score_a"], "context": 8}
    assert (more.json["format"], more.settings) == (1, SETTINGS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "the format is 'list'"),
        ('{"format": 99}', "the format is 99; expected 1"),
        ('{"format": 1, "settings": {}}', "lacks fingerprints, details; it is not a run's record"),
    ],
)
def test_what_is_no_record_is_an_error(text: str, message: str) -> None:
    with pytest.raises(CurateError, match=message):
        read(text)


def test_nothing_of_a_record_is_read_by_its_name_outside_this_room() -> None:
    by_name = re.compile(r"\b(record|run)\.(settings|details|fingerprints)(\[|\.get\()")
    folder = Path(curate.__file__).parent
    for path in folder.rglob("*.py"):
        if path.parent.name != "folders" and path.name != "status.py":  # which shows settings as they were given
            assert not by_name.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("settings", "fingerprints", "left"),
    [
        (["background: 1", "method: 2", "method_settings.dim: 3"], [], ["method: 2"]),
        (["method_settings.seed: 1", "seed: 1"], [], ["seed: 1"]),
        (["method_settings.dim: 3", "background: 1"], [], ["method_settings.dim: 3", "background: 1"]),
        (["holdout: 1"], ["heldout: a", "pool: b", "target: c"], ["holdout: 1", "pool: b"]),
        ([], ["target: c"], ["target: c"]),
    ],
)
def test_what_follows_from_a_setting_that_differs_is_not_told(
    settings: list[str], fingerprints: list[str], left: list[str]
) -> None:
    causes, contents = without_consequences(settings, fingerprints)
    assert [*causes, *contents] == left
