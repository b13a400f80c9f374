"""Making a proxy from a sample of the pool."""

from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from curate.documents import open_pool
from curate.errors import SettingsError
from curate.progress import Reporter
from curate.settings import gathered, given
from curate.training.settings import WarmupSettings
from curate.training.warmup import Warmup, warmup

OUT = Path("proxy")


def run(
    settings: WarmupSettings | None = None,
    out: Path | str = OUT,
    *,
    reporter: Reporter | None = None,
    **values: Any,
) -> Warmup:
    """Train a new model, or fine-tune a given one, on a sample of the pool, into a folder. Raises CurateError."""
    settings = gathered(WarmupSettings, settings, values)
    if not settings.pool:
        raise SettingsError("A warm-up needs a pool.", hint="curate warmup --pool FOLDER")
    if settings.model and "shape" in given(settings) and (shaped := given(settings.shape)):
        flags = [_flag(f) for f in fields(settings.shape) if f.name in shaped]
        raise SettingsError(
            f"{', '.join(flags)}: for a new model, but --model names one to fine-tune.", hint="Leave one of them out."
        )
    pool = open_pool(settings.pool, txt_lines=settings.fields.txt_lines)
    return warmup(pool, out, settings=settings, reporter=reporter)


def _flag(field: Field[Any]) -> str:
    return field.metadata["option"].flags[0] if field.metadata["option"].flags else f"--{field.name.replace('_', '-')}"
