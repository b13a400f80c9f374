"""A pool: its shards in order, and a fingerprint that a moved copy keeps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import orjson
import xxhash

from curate.documents.addresses import find_shards
from curate.documents.files import compression_of, local_path, open_binary
from curate.documents.shards import Shard
from curate.errors import CurateError, SettingsError

_BLOCK = 1 << 16
_PROBES = 8
_NAMED = 12


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The candidates: shards sorted by name."""

    address: tuple[str, ...]
    """As the user gave it."""
    shards: tuple[Shard, ...]
    ignored: tuple[str, ...] = ()
    """Other files at the address, such as a dataset card."""
    other_splits: tuple[str, ...] = ()
    """Shards of splits that were not asked for."""
    configurations: tuple[str, ...] = ()
    """What a dataset's card names as parts of it, where all are read."""

    @property
    def listing(self) -> str:
        """What is read and what is not, in one line for people."""
        line = f"{len(self.shards):,} shard{'s' if len(self.shards) != 1 else ''}"
        if empty := [s.name for s in self.shards if s.size == 0]:
            line += f"; without a byte: {_listed(empty)}"
        plain = {s.name: _unpacked(s.name) for s in self.shards}
        if twice := _sharing(plain):
            line += f"; by their names the same, plain and compressed: {', '.join(twice[:_NAMED])}"
        stems = {name: str(PurePosixPath(name).with_suffix("")) for name in plain.values()}
        if twice := _sharing(stems):
            line += f"; by their names the same, in several formats: {', '.join(twice[:_NAMED])}"
        if self.ignored:
            line += f"; not read: {_listed(self.ignored)}"
        if self.other_splits:
            line += f"; of other splits, which FOLDER:SPLIT reads: {_listed(self.other_splits)}"
        if self.configurations:
            some = ", ".join(self.configurations[:_NAMED]) + (" …" if len(self.configurations) > _NAMED else "")
            line += f"; all of the card's configurations, each of which FOLDER:NAME reads: {some}"
        return line

    @property
    def is_one_file(self) -> bool:
        """Whether it is one file, and all that there is at its address."""
        return len(self.shards) == 1 and not self.ignored and not self.other_splits

    def fingerprint(self) -> str:
        """Hash the shards' names, sizes and a cheap digest of their content; 32 hex digits.

        Local files give their first and last 64 KiB and eight blocks between; stored objects the digest their
        store told when listed. Times and absolute paths take no part, so a moved pool is the same pool.
        """
        parts = [(s.name, s.size, self._digests[s.name]) for s in self.shards]
        return xxhash.xxh3_128_hexdigest(orjson.dumps(parts))

    def shard_fingerprints(self) -> dict[str, str]:
        """Return size and digest of every shard by name; shards whose store tells no digest are left out."""
        return {s.name: f"{s.size}-{digest}" for s in self.shards if (digest := self._digests[s.name])}

    def digested(self, shard: Shard) -> Shard:
        """Return a shard of it that knows its digest, by which `refuse_changed` tells whether the file is another."""
        return replace(shard, digest=self._digests[shard.name])

    @cached_property
    def _digests(self) -> dict[str, str | None]:
        return {s.name: _digest(s) for s in self.shards}


def refuse_changed(shard: Shard) -> None:
    """Raise CurateError for a local file whose size or digest is another than its shard's, where that knows them."""
    path = local_path(shard.url)
    if path is None or not path.exists():
        return
    is_sized = shard.size is None or path.stat().st_size == shard.size
    if is_sized and (shard.digest is None or _digest(shard) == shard.digest):
        return
    raise CurateError(
        f"{shard.url}: the file has changed while the pool was read.",
        hint="Repeat the command once nothing writes the pool any more.",
    )


def open_pool(address: str | Path | Sequence[str | Path], *, txt_lines: bool = False) -> Pool:
    """Open a pool: a folder, glob, file, `save_to_disk` folder, hub id or url, or a list of those.

    A local path wins over a hub id (`org/name`, `org/name@revision`, `org/name:split`). Of a folder whose card or files
    name splits, `train` is read, or what `folder:split` names. A file reached twice
    is one shard; equal names from different addresses get as many leading folders as tell them apart. `txt_lines`:
    every line of a .txt file is a document (`Fields.txt_lines`).
    Raises CurateError when an address holds nothing readable.
    """
    addresses = (address,) if isinstance(address, str | Path) else tuple(address)
    if not addresses:
        raise SettingsError("No address was given.", hint="Name a folder, a glob, a file, a hub dataset id or a url.")
    shards: dict[str, Shard] = {}
    ignored: set[str] = set()
    other_splits: set[str] = set()
    configurations: dict[str, None] = {}
    for item in addresses:
        if not str(item):
            raise SettingsError("An address is empty.", hint="Name a folder, a glob, a file, a hub id or a url.")
        listing = find_shards(str(item))
        ignored.update(listing.ignored)
        other_splits.update(listing.other_splits)
        configurations.update(dict.fromkeys(listing.configurations))
        for shard in listing.shards:
            by_line = txt_lines and shard.format == "txt"
            shards.setdefault(identity(shard), replace(shard, format="txt_lines") if by_line else shard)
    return Pool(
        address=tuple(str(a) for a in addresses),
        shards=tuple(sorted(_with_unique_names(list(shards.values())), key=lambda s: s.name)),
        ignored=tuple(sorted(ignored)),
        other_splits=tuple(sorted(other_splits)),
        configurations=tuple(configurations),
    )


def _sharing(keys: Mapping[str, str]) -> list[str]:
    """Return the names whose key is that of another, too."""
    counts = Counter(keys.values())
    return [name for name, key in keys.items() if counts[key] > 1]


def _unpacked(name: str) -> str:
    """Return a shard's name without the suffix of its compression."""
    return str(PurePosixPath(name).with_suffix("")) if compression_of(name) else name


def _listed(names: Sequence[str]) -> str:
    """Name files, those of one ending by their number where there are several."""
    by_ending: dict[str, list[str]] = {}
    for name in names:
        suffixes = PurePosixPath(name).suffixes
        ending = "".join(suffixes[-2:] if compression_of(name) else suffixes[-1:])
        by_ending.setdefault(ending or name, []).append(name)
    clauses = [files[0] if len(files) == 1 else f"{len(files):,} {ending}" for ending, files in by_ending.items()]
    return ", ".join(clauses[:_NAMED]) + (f" and {len(clauses) - _NAMED} more kinds" if len(clauses) > _NAMED else "")


def identity(shard: Shard) -> str:
    """Return what tells a shard's file from others, by whatever address it was reached."""
    path = local_path(shard.url)
    return str(path.resolve()) if path is not None else shard.url


def _with_unique_names(shards: list[Shard]) -> list[Shard]:
    counts = Counter(s.name for s in shards)
    depth = 0
    while max(counts.values()) > 1:
        depth += 1
        previous = counts
        shards = [replace(s, name=_longer(s, depth)) if previous[s.name] > 1 else s for s in shards]
        counts = Counter(s.name for s in shards)
        if depth > 64:
            raise CurateError(f"Two shards have the same name: {counts.most_common(1)[0][0]}.")
    return shards


def _longer(shard: Shard, depth: int) -> str:
    """Return the shard's name with one more leading folder of its url."""
    path = local_path(shard.url)
    parts = path.absolute().parts if path is not None else PurePosixPath(shard.url.split("://")[-1]).parts
    keep = len(PurePosixPath(shard.name).parts) + 1
    return "/".join(p.strip("/") for p in parts[-keep:]) if keep <= len(parts) else f"{depth}/{shard.name}"


def _digest(shard: Shard) -> str | None:
    if local_path(shard.url) is None:
        return shard.digest
    digest = xxhash.xxh3_128()
    size = shard.size or 0
    starts = {0, max(0, size - _BLOCK)} | {size * i // (_PROBES + 1) for i in range(1, _PROBES + 1)}
    with open_binary(shard.url) as stream:
        for start in sorted(starts):
            stream.seek(start)
            digest.update(stream.read(_BLOCK))
    return digest.hexdigest()
