import importlib
import pkgutil

import curate


def test_every_module_can_be_imported() -> None:
    """Linters take names in annotations for shapes, so an import that is missing shows only here."""
    names = [m.name for m in pkgutil.walk_packages(curate.__path__, "curate.") if not m.name.endswith("__main__")]
    assert len(names) > 150
    for name in names:
        importlib.import_module(name)
