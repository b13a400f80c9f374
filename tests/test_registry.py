"""The registry, and a method, a filter and a format of installed packages through the real commands."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from curate import executors, methods, students
from curate.cli import group
from curate.documents import formats, open_pool, rows
from curate.documents.formats import format_of, readable
from curate.errors import CurateError, SettingsError
from curate.fields import SHAPES
from curate.registry import Registry
from curate.selection.filters import find_filter, named_filters
from tests.installing import install
from tests.scoring import make_proxy_folder, make_target

METHOD = '''
"""Weighted: the number of scored tokens, times a weight."""
from dataclasses import dataclass
import torch
from curate.gradients.scored import Scored

OFFERS = frozenset()

@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: float = 1.0

def prepare(inputs, settings):
    def score(encoded, batching):
        counts = torch.tensor([settings.weight * e.num_scored for e in encoded], dtype=torch.float64)
        return Scored(scores=counts[:, None].expand(-1, inputs.target.columns))
    return score
'''
FILTER = """-- summary: keep documents of few tokens
-- param: most  int  required  the largest number of tokens that is kept
SELECT * FROM candidates WHERE n_tokens <= $most
"""
FORMAT = '''
"""Records between form feeds: a title on the first line, the text below."""
from curate.documents.streamed import Streamed

def records(blocks, shard):
    line = 1
    for record in b"".join(blocks).split(b"\\x0c"):
        yield line, record
        line += record.count(b"\\n")

def decode(record, number):
    title, _, text = record.decode().partition("\\n")
    return {"title": title, "text": text}

FORMAT = Streamed(endings=(".pages",), records=records, decode=decode)
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the search path that packages can be installed into."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def install_all(site: Path, mark: str) -> None:
    """Install one package with a method, a filter and a format; `mark` tells its modules from those of other tests."""
    install(
        site,
        f"curate-{mark}",
        entry_points={
            "curate.methods": {"weighted": f"{mark}.weighted"},
            "curate.filters": {"at_most": f"{mark}.sql"},
            "curate.formats": {f"{mark}_pages": f"{mark}.pages"},
        },
        files={
            f"{mark}/__init__.py": "",
            f"{mark}/weighted.py": METHOD,
            f"{mark}/pages.py": FORMAT,
            f"{mark}/sql/at_most.sql": FILTER,
        },
    )


def pages(folder: Path) -> Path:
    folder.mkdir(parents=True)
    texts = [f"title {i}\n" + "the court shall hold that " * (i + 1) for i in range(8)]
    (folder / "a.pages").write_text("\x0c".join(texts))
    return folder


def test_a_package_brings_a_method_a_filter_and_a_format(site: Path, tmp_path: Path) -> None:
    install_all(site, "bringing")
    make_proxy_folder(tmp_path / "proxy")
    target, pool = make_target(tmp_path / "val.jsonl"), pages(tmp_path / "pool")
    asked = [
        "score",
        "--target",
        str(target),
        "--pool",
        str(pool),
        "--model",
        str(tmp_path / "proxy"),
        "--device",
        "cpu",
    ]
    asked += ["--method", "weighted", "--set", "weight=-2", "--out", str(tmp_path / "run")]
    CliRunner().invoke(group, asked, catch_exceptions=False)
    scores = pl.read_parquet(tmp_path / "run" / "scores" / "*.parquet")
    assert scores["score"].to_list() == (-2.0 * scores["n_tokens"]).to_list()
    assert scores["title"].to_list() == [f"title {i}" for i in range(8)]

    most = int(scores["n_tokens"].sort()[2])
    asked = [
        "select",
        str(tmp_path / "run"),
        "--filter",
        "at_most",
        "-p",
        f"most={most}",
        "--out",
        str(tmp_path / "out"),
    ]
    CliRunner().invoke(group, [*asked, "--format", "parquet"], catch_exceptions=False)
    kept = pl.read_parquet(tmp_path / "out" / "train" / "*.parquet")
    assert kept["title"].to_list() == [f"title {i}" for i in range(3)]
    listed = CliRunner().invoke(group, ["select", "--list-filters"], catch_exceptions=False).stdout
    assert "at_most: keep documents of few tokens" in listed


def test_names_come_without_importing_anything(site: Path) -> None:
    install_all(site, "unimported")
    (site / "unimported" / "__init__.py").write_text("raise RuntimeError('imported')")
    assert {"weighted", "dot"} <= set(methods.names())
    assert "contract" not in methods.names()
    assert "unimported" not in sys.modules
    code = "import sys; from curate import methods; assert 'weighted' in methods.names(); print('torch' in sys.modules)"
    path = f"{site}:{Path(__file__).parents[1]}"
    made = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert (made.stdout.strip(), made.returncode) == ("False", 0), made.stderr


def test_a_package_that_cannot_be_imported_is_named(site: Path) -> None:
    install_all(site, "broken")
    (site / "broken" / "weighted.py").write_text("import a_module_that_is_not_there")
    with pytest.raises(CurateError, match=r"'weighted' of the package curate-broken 1\.0 .*a_module_that_is_not_there"):
        methods.get("weighted")
    (site / "broken" / "pages.py").write_text("raise RuntimeError('out of order')")
    with pytest.raises(CurateError, match=r"'broken_pages' of the package curate-broken .*Error: out of order"):
        open_pool(Path(__file__).parent)
    (site / "broken" / "sql" / "at_most.sql").unlink()
    with pytest.raises(CurateError, match=r"'at_most': broken\.sql holds no at_most\.sql"):
        find_filter("at_most")


def test_a_module_that_lacks_what_a_method_needs_is_refused(site: Path) -> None:
    files = {"lacking.py": "class Settings: ...\n"}
    install(site, "lacking", entry_points={"curate.methods": {"half": "lacking"}}, files=files)
    with pytest.raises(CurateError, match=r"'half' of the package lacking 1\.0 .lacking. has no prepare"):
        methods.get("half")


def test_a_name_that_two_sources_offer_is_refused_with_both(site: Path) -> None:
    for package, name in (("one", "twice"), ("two", "twice"), ("three", "dedup")):
        files = {f"{package}_sql/{name}.sql": FILTER}
        install(site, package, entry_points={"curate.filters": {name: f"{package}_sql"}}, files=files)
    with pytest.raises(CurateError, match=r"'twice' is offered by the package one 1\.0 and by the package two 1\.0"):
        find_filter("twice")
    with pytest.raises(CurateError, match=r"'dedup' is offered by curate itself and by the package three 1\.0"):
        find_filter("dedup")
    assert find_filter("top").name == "top"
    with pytest.raises(CurateError, match="is offered by"):
        named_filters()


def test_two_formats_of_one_suffix_are_refused(site: Path) -> None:
    text = FORMAT.replace(".pages", ".csv")
    install(site, "other-csv", entry_points={"curate.formats": {"csv2": "other_csv"}}, files={"other_csv.py": text})
    with pytest.raises(CurateError, match=r"The formats 'csv' and 'csv2' both read \.csv"):
        format_of("a.csv")


def test_a_format_of_a_package_is_read_compressed_too(site: Path, tmp_path: Path) -> None:
    import zstandard

    install_all(site, "compressed")
    (tmp_path / "a.pages.zst").write_bytes(zstandard.compress(b"one\na\x0ctwo\nb"))
    assert format_of("A.PAGES.ZST") == "compressed_pages"
    assert ".pages" in readable()
    found = [row for _, row in rows(open_pool(tmp_path / "a.pages.zst").shards[0])]
    assert found == [{"title": "one", "text": "a"}, {"title": "two", "text": "b"}]


def test_an_unknown_name_comes_with_the_nearest(tmp_path: Path) -> None:
    for name in ("ham.txt", "_spam.txt", "rules.txt"):
        (tmp_path / name).write_text("")
    registry = Registry(
        kind="dish",
        group="curate.dishes",
        folder=tmp_path,
        ending=".txt",
        leave_out=frozenset({"rules"}),
        otherwise="Or.",
    )
    assert registry.names() == ("ham",)
    assert registry.source("ham") == tmp_path / "ham.txt"
    with pytest.raises(SettingsError) as error:
        registry.source("hem")
    assert (error.value.message, error.value.hint) == ("There is no dish 'hem'.", "Did you mean 'ham'? Or.")
    with pytest.raises(SettingsError):
        registry.source("_spam")


@pytest.mark.parametrize(
    "offered",
    [methods._REGISTRY, students._REGISTRY, executors._REGISTRY, formats._REGISTRY, SHAPES],
    ids=["methods", "students", "executors", "formats", "shapes"],
)
def test_what_is_offered_by_name_is_one_and_no_helper_beside_it(offered: Registry) -> None:
    """A file that several of a folder share is not named in help, nor in an error's list of what is known."""
    for name in offered.names():
        module = offered.get(name)
        assert all(hasattr(module, member) for member in offered.needs), f"{offered.package}.{name}"
