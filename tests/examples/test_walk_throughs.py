"""Every command and every line of Python of README and walk-throughs runs, at a small size."""

import shutil
from pathlib import Path

import pytest

from tests.examples.walking import ROOT, blocks, walk
from tests.scoring import make_pool, make_proxy_folder, make_target

EXAMPLES = ROOT / "examples"
adapted = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's, on loading


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the pretraining page was gone through."""
    folder = tmp_path_factory.mktemp("pretraining")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        walk(EXAMPLES / "pretraining.md")
    return folder


@pytest.mark.slow
@adapted
def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_proxy_folder(tmp_path / "instruct")
    make_pool(tmp_path / "pile", 25)
    make_target(tmp_path / "val.jsonl")
    exec(next(b.code for b in blocks(EXAMPLES / "fine-tuning.md") if b.language == "python"), {})  # chats and target
    walk(ROOT / "README.md")
    assert {"selected", "chosen", "report.html", "from-python"} <= {p.name for p in tmp_path.iterdir()}


@pytest.fixture
def there(walked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with all that the pretraining page makes, entered."""
    shutil.copytree(walked, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


@pytest.mark.slow
def test_pretraining(walked: Path) -> None:
    assert (walked / "selected" / "README.md").is_file()
    assert (walked / "runs" / "grown" / "run.json").is_file()
    assert (walked / "from-python" / "manifest.json").is_file()


@pytest.mark.slow
@adapted
def test_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_proxy_folder(tmp_path / "instruct")
    walk(EXAMPLES / "fine-tuning.md")
    assert (tmp_path / "lora" / "adapter_config.json").is_file()
    assert list((tmp_path / "chosen" / "train").iterdir())


@pytest.mark.slow
@adapted
def test_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_proxy_folder(tmp_path / "instruct")
    shutil.copytree(EXAMPLES / "less", tmp_path / "examples" / "less")
    walk(EXAMPLES / "less" / "README.md")
    assert len(list((tmp_path / "proxies" / "less" / "checkpoints").iterdir())) == 4
    assert list((tmp_path / "by-turns" / "train").iterdir())


@pytest.mark.slow
def test_trust(there: Path) -> None:
    walk(EXAMPLES / "trust.md")
    assert (there / "compared.html").is_file()
    assert list(there.glob("**/predicted.png"))
    assert list(there.glob("**/curves.png"))


@pytest.mark.slow
def test_cascade(there: Path) -> None:
    walk(EXAMPLES / "cascade.md")
    assert (there / "best" / "manifest.json").is_file()


@pytest.mark.slow
def test_stores(there: Path) -> None:
    walk(EXAMPLES / "stores" / "README.md")
    assert (there / "apart" / "manifest.json").is_file()


@pytest.mark.slow
def test_magic(there: Path) -> None:
    walk(EXAMPLES / "magic" / "README.md")
    assert (there / "by-magic" / "manifest.json").is_file()
