import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import curate

CHANGES = {
    *("fcntl", "atomic_write", "atomic_folder", ".rename", ".unlink", ".write_bytes", ".write_text"),
    *("os.remove", "os.rename", "os.replace", "os.unlink", "shutil.copyfile", "shutil.move", "shutil.rmtree"),
}

# What changes files by itself, and why its files are no results that a `Folder` could hold.
OTHERS = {
    "documents/holdout.py": "the rows kept aside, in a run's folder",
    "quickstart/pool.py": "a pool to try things on: shards in every format that is read",
    "selection/dump.py": "a dataset, which appears whole by its own rename",
    "selection/formats.py": "files of that dataset, in the layout of `datasets`",
    "selection/megatron.py": "files of that dataset, in Megatron-LM's layout",
    "selection/spool.py": "what a selection sorts on its way",
    "training/checkpoints.py": "thousands of states of a training run, the passing ones not durable",
    "training/gradient_log.py": "gradients of a training run that memory does not hold, removed when they are used",
    "training/moments.py": "a file of a proxy's folder",
    "training/passing.py": "states of a training run that memory does not hold, removed when they are used",
    "training/warmup.py": "the record in a proxy's folder",
}


def test_every_module_can_be_imported() -> None:
    """Linters take names in annotations for shapes, so an import that is missing shows only here."""
    names = [m.name for m in pkgutil.walk_packages(curate.__path__, "curate.") if not m.name.endswith("__main__")]
    assert len(names) > 150
    for name in names:
        importlib.import_module(name)


def test_results_are_written_through_folders_alone() -> None:
    root = Path(curate.__file__).parent
    changing = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if path.parent.name != "folders" and CHANGES & set(_used(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert changing == set(OTHERS)


def _used(tree: ast.AST) -> Iterator[str]:
    """Yield modules, functions and methods that a module names, the last as `.name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield f".{node.attr}"
            if isinstance(node.value, ast.Name):
                yield f"{node.value.id}.{node.attr}"


def test_a_shell_completes_the_public_names() -> None:
    assert set(curate.__all__) < set(dir(curate))
