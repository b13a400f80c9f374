"""What a command has left: its files, and the rows that they hold."""

import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

PAGE = 4096
_SECONDS = re.compile(rb'("[a-z_]*seconds":) [\d.e-]+')
_ROWS = ("scores", "rows", "skipped")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file but logs of sessions and locks, by name; what a killed process forgot is among them.

    Of records, the seconds that something took are left out.
    """
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {
        str(p.relative_to(folder)): _SECONDS.sub(rb"\1 0", p.read_bytes()) if p.suffix == ".json" else p.read_bytes()
        for p in files
        if p.name != "log.jsonl" and not p.name.endswith(".lock")
    }


def pages(folder: Path) -> int:
    """Return how many pages of a disk hold the files."""
    return sum(1 + p.stat().st_size // PAGE for p in folder.rglob("*"))


def rows_in(folder: Path) -> Counter[tuple[str, int]]:
    """Count how often every row of the pool, by shard and number, is scored or set aside in a run or a store."""
    rows: Counter[tuple[str, int]] = Counter()
    for path in (p for kind in _ROWS for p in folder.glob(f"**/{kind}/**/*.parquet")):
        table = pq.read_table(path, columns=["shard", "row"])
        rows.update(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))
    return rows


def differences(result: dict[str, bytes], reference: dict[str, bytes]) -> list[str]:
    """Name the files that are missing, too many or not the same."""
    return sorted(name for name in result.keys() | reference.keys() if result.get(name) != reference.get(name))
