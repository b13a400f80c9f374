"""Lines that are nearly JSON: what is said of them works when it is done."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from curate.documents import Fields, check_fields, documents, open_pool
from curate.errors import CurateError
from curate.schema import Document

ROWS = [{"text": "it's a"}, {"text": "b, {c}"}]
PYTHON = "".join(f"{row}\n" for row in ROWS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("".join(json.dumps(row) + ",\n" for row in ROWS), "Lines end in commas"),
        ("".join(json.dumps(row) + ", \r\n" for row in ROWS), "Lines end in commas"),
        ("".join(f"\x1e{json.dumps(row)}\n" for row in ROWS), "a separator of records"),
        (PYTHON, "as Python has dicts"),
        ("".join(json.dumps(json.dumps(row)) + "\n" for row in ROWS), "JSON in strings"),
        ("".join(json.dumps(row["text"]) + "\n" for row in ROWS), "texts without a name"),
        (json.dumps([row["text"] for row in ROWS]), "texts without a name"),
    ],
)
def test_lines_that_are_nearly_json_are_refused_with_the_command_that_mends_them(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content.encode())
    with pytest.raises(CurateError) as refused:
        check_fields(open_pool(path), Fields())
    assert said in str(refused.value.hint)
    command = str(refused.value.hint).split(": ", 1)[1].replace("FILE", "a.jsonl").replace("NEW", "b.jsonl")
    command = command.replace("python ", f"{sys.executable} ", 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    (shard,) = open_pool(tmp_path / "b.jsonl").shards
    found = [d.text for d in documents(shard, Fields()) if isinstance(d, Document)]
    assert found == [row["text"] for row in ROWS]


def test_what_is_no_dict_of_pythons_gets_no_such_advice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{'a': b}\n", encoding="utf-8")
    with pytest.raises(CurateError, match="none of the first lines is an object") as refused:
        check_fields(open_pool(tmp_path), Fields())
    assert "jq -c . FILE" in str(refused.value.hint)
