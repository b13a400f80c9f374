import ast
import json
import shutil
from pathlib import Path

import pytest

from curate.documents import Fields, documents, open_pool, read_target
from curate.errors import CurateError, SettingsError
from curate.quickstart import LibrarySettings, build_library_pool, measure_enrichment
from curate.quickstart.library import MAX_CHARS, MIN_CHARS, Piece, read_library, read_module
from curate.schema import Document

FILLER = "    # " + "words that make it long enough to count as a document " * 4 + "\n"


@pytest.fixture(scope="module")
def library() -> list[Piece]:
    return list(read_library())


def write_package(root: Path, name: str, functions: int) -> None:
    (root / name).mkdir(parents=True)
    code = "".join(f"def {name}_{i}():\n{FILLER}    return {i}\n\n\n" for i in range(functions))
    (root / name / "__init__.py").write_text(code)


@pytest.mark.slow
def test_the_library_of_this_python_gives_thousands_of_documents(library: list[Piece]):
    assert len(library) > 3000
    assert len({p.id for p in library}) == len(library)
    assert all(MIN_CHARS <= len(p.text) <= MAX_CHARS for p in library)
    assert {p.kind for p in library} == {"docstring", "function", "class", "method"}
    assert len([p for p in library if p.source == "asyncio"]) > 256


def test_pieces_are_whole_and_none_lies_within_another(tmp_path: Path):
    shutil.copytree(Path(json.__file__).parent, tmp_path / "json")
    json_pieces = [p for p in read_library(tmp_path) if p.source == "json"]
    assert len(json_pieces) > 10
    for piece in json_pieces:
        if piece.kind in ("function", "method"):
            ast.parse(piece.text)
    texts = [p.text for p in json_pieces]
    assert not [1 for a in texts for b in texts if a is not b and a in b]


def test_code_is_cut_at_its_own_lines_whatever_else_ends_a_line(tmp_path: Path):
    path = tmp_path / "mod.py"
    body = f'{FILLER}    return "\u2028 \x0c"'
    path.write_text(f"x = 1\n\x0c\n@property\ndef first():\n{body}\n\n\ndef second():\n{body}\n", encoding="utf-8")
    pieces = list(read_module(path, Path("mod.py")))
    assert [p.id for p in pieces] == ["mod:first", "mod:second"]
    assert pieces[0].text == f"@property\ndef first():\n{body}"


def test_a_long_class_gives_its_head_and_its_methods(tmp_path: Path):
    path = tmp_path / "mod.py"
    methods = "".join(f"    def m{i}(self):\n{'    ' + FILLER}        return {i}\n\n" for i in range(12))
    head = f'class Long:\n    """{"What it is for. " * 15}"""'
    path.write_text(f"{head}\n\n{methods}")
    pieces = list(read_module(path, Path("mod.py")))
    assert [p.kind for p in pieces] == ["class"] + ["method"] * 12
    assert pieces[0].text == head
    assert pieces[1].id == "mod:Long.m0"
    assert pieces[1].text.startswith("def m0(self):\n")


def test_files_that_do_not_parse_and_folders_of_tests_are_passed_over(tmp_path: Path):
    write_package(tmp_path, "good", 2)
    write_package(tmp_path, "test", 2)
    write_package(tmp_path, "site-packages", 2)
    (tmp_path / "bad.py").write_text("def broken(:\n")
    (tmp_path / "latin.py").write_bytes(b"x = '\xff'\n")
    assert [p.id for p in read_library(tmp_path)] == ["good:good_0", "good:good_1"]


def test_a_python_without_sources_says_so(tmp_path: Path):
    with pytest.raises(CurateError, match="There are no Python source files"):
        list(read_library(tmp_path))


@pytest.mark.slow
def test_the_pool_reads_back_in_every_format_without_a_row_of_the_target(tmp_path: Path):
    built = build_library_pool(tmp_path, LibrarySettings(documents=600, target_rows=40))
    pool = open_pool(built.pool)
    assert {s.format for s in pool.shards} == {"jsonl", "parquet", "saved"}
    assert len(pool.shards) == 5
    rows = [d for shard in pool.shards for d in documents(shard, Fields())]
    assert all(isinstance(d, Document) for d in rows)
    held = read_target(built.target, Fields())
    assert not held.skipped
    assert len(rows) == built.documents == 600
    assert len(held.documents) == built.target_rows == 40
    assert not {d.content_hash for d in held.documents} & {d.content_hash for d in rows}
    assert {d.metadata["source"] for d in held.documents} == {"asyncio"}
    assert sum(d.metadata["source"] == "asyncio" for d in rows) == built.in_package
    assert built.base_rate == built.in_package / 600
    lines = built.target.read_bytes().split(b"\n")[:-1]
    assert [set(json.loads(line)) for line in lines] == [{"id", "text", "source", "kind"}] * 40


def test_the_same_library_gives_the_same_bytes(tmp_path: Path):
    write_package(tmp_path / "lib", "own", 30)
    write_package(tmp_path / "lib", "other", 30)
    for name in ("a", "b"):
        settings = LibrarySettings(package="own", documents=40, target_rows=10)
        build_library_pool(tmp_path / name, settings, root=tmp_path / "lib")
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) == 8
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_copies_of_a_target_row_do_not_reach_the_pool(tmp_path: Path):
    write_package(tmp_path / "lib", "own", 8)
    (tmp_path / "lib" / "copy.py").write_text((tmp_path / "lib" / "own" / "__init__.py").read_text())
    write_package(tmp_path / "lib", "other", 5)
    settings = LibrarySettings(package="copy", target_rows=2, documents=50)
    built = build_library_pool(tmp_path, settings, root=tmp_path / "lib")
    assert built.documents == 8 - 2 + 5


def test_enrichment_is_the_share_of_the_package_over_its_base_rate(tmp_path: Path):
    write_package(tmp_path / "lib", "own", 20)
    write_package(tmp_path / "lib", "other", 30)
    settings = LibrarySettings(package="own", target_rows=10)
    built = build_library_pool(tmp_path, settings, root=tmp_path / "lib")
    assert (built.documents, built.in_package, built.base_rate) == (40, 10, 0.25)
    rows = [{"id": str(i), "text": "t", "source": "own" if i < 3 else "other"} for i in range(4)]
    (tmp_path / "chosen.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = measure_enrichment(tmp_path / "chosen.jsonl", built)
    assert (found.selected, found.in_package, found.share, found.ratio) == (4, 3, 0.75, 3.0)


def test_a_package_that_is_unknown_or_too_small_is_refused(tmp_path: Path):
    write_package(tmp_path / "lib", "own", 5)
    with pytest.raises(CurateError, match="no package 'owm'") as caught:
        build_library_pool(tmp_path, LibrarySettings(package="owm"), root=tmp_path / "lib")
    assert "own" in str(caught.value)
    with pytest.raises(CurateError, match="gives 5 documents") as caught:
        build_library_pool(tmp_path, LibrarySettings(package="own", target_rows=3), root=tmp_path / "lib")
    assert "at most 2" in str(caught.value)
    with pytest.raises(SettingsError, match="documents is 0"):
        LibrarySettings(documents=0)
