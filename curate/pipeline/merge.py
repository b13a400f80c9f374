"""Making one run of several that scored slices of a pool alike: their scores are one table, and ranks are over all."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from curate import methods
from curate.documents import Pool, identity, open_pool
from curate.errors import CurateError, SettingsError
from curate.executors.contract import Work
from curate.folders.kept import same_file
from curate.folders.local import refuse_place
from curate.folders.merging import Sequel
from curate.folders.record import differences, without_consequences
from curate.pipeline.ending import kinds_of, log, warn_of_mixed
from curate.pipeline.origin import decisions, fit_of, remember_shards
from curate.progress import Reporter, Silent, Task
from curate.scores.counts import count
from curate.scores.run import Run
from curate.scores.session import pool_of

# What runs may have given differently: the hashes of the contents say whether they are the same.
_ADDRESSES = frozenset({"pool", "fit_from", "target", "against", "model", "revision", "teacher"})
_SLICES = frozenset({"pool", "fit"})
_OF_SLICES = frozenset({"moved", "frequency_loss"})
"""Details that are of one slice."""
_NOT_KEPT = ("scores/", "skipped/", "marks/", "teacher/", "predicted/")
"""Folders of a run that hold no fit."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A shard of the merged pool, and where its scores are."""

    run: Run
    shard: str
    """Its name in that run's pool."""


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """What a merged run will hold."""

    runs: tuple[Run, ...]
    pool: Pool
    sources: Mapping[str, Source]
    """By the name that a shard has in the merged pool."""
    totals: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"runs": [run.address for run in self.runs], "shards": len(self.pool.shards), **self.totals}


def plan(runs: Sequence[Run | Path | str]) -> MergePlan:
    """Check that runs can be one, and say what that will hold; nothing is written.

    Raises SettingsError where they have scored differently, and where their pools overlap.
    """
    opened = tuple(run if isinstance(run, Run) else Run.open(run) for run in runs)
    if len(opened) < 2:
        raise SettingsError(f"{len(opened)} run is given; expected at least two.", hint="curate merge runs/a runs/b")
    for run in opened:
        _refuse_unfit(run)
    for run in opened[1:]:
        _refuse_other(opened[0], run)
    pools = [_pool_of(run) for run in opened]
    _refuse_overlap(opened, pools)
    by_identity = {
        identity(shard): Source(run=run, shard=shard.name)
        for run, pool in zip(opened, pools, strict=True)
        for shard in pool.shards
    }
    addresses = list(dict.fromkeys(address for pool in pools for address in pool.address))
    whole = open_pool(addresses, txt_lines=opened[0].record.fields.get("txt_lines", False))
    return MergePlan(
        runs=opened,
        pool=whole,
        sources={shard.name: by_identity[identity(shard)] for shard in whole.shards},
        totals=_sums([run.totals or {} for run in opened]),
    )


def run(runs: Sequence[Run | Path | str], out: Path | str, *, reporter: Reporter | None = None) -> Run:
    """Write a run that holds the scores of several, each of another slice of a pool, scored alike; return it.

    It is a run of the whole pool, byte by byte, as if that had been scored with the same fits. One that was stopped
    goes on. The runs stay as they are. Raises CurateError; see `plan`.
    """
    refuse_place(out, "--out")
    Run.refuse_foreign(out)
    reporter, started = reporter or Silent(), time.time()
    merging = plan(runs)
    with Run.start(
        out, settings=_settings(merging), fingerprints=_prints(merging), details=_details(merging)
    ) as merged:
        merged.log.begin(merged=merging.record()["runs"])
        remember_shards(merged, merging.pool)
        _keep_fits(merging.runs[0], merged)
        with reporter.stage("merge", total=len(merging.pool.shards), unit="shards") as task:
            _adopt_all(merging, merged, task)
        _refuse_lost(merged, merging.totals)
        log(merged, _work(merging, merged), {"merged": merging.record()["runs"]}, merge=time.time() - started)
        warn_of_mixed(merged, reporter)
        merged.finish(merging.totals)
    return merged


def _refuse_unfit(run: Run) -> None:
    record = run.record
    if not run.is_finished:
        raise CurateError(
            f"{run.address} is not finished; expected finished runs.",
            hint=f"Go on with it: curate score --continue {run.address}",
        )
    reason = (
        "holds the best of other runs, scored again"
        if record.is_rescoring
        else "was scored from a store"
        if record.store
        else "holds some of its pool's documents"
        if record.details.narrowed is not None
        else None
    )
    if reason is not None:
        raise SettingsError(
            f"{run.address} {reason}; expected runs of every document of a pool.",
            hint="Merge the runs of `curate score` or `curate predict` over whole slices of a pool.",
        )


def _refuse_other(first: Run, run: Run) -> None:
    """Raise SettingsError unless two runs score alike: by the same settings, contents and fits."""
    theirs, ours = (decisions(r, but=_ADDRESSES, but_contents=_SLICES) for r in (first, run))
    problem = f"{first.address} and {run.address} cannot be one run"
    hint = (
        f"Score the slice as the other was: curate score --fit-from {first.address}"
        f" --pool {' --pool '.join(run.record.pool)} --out …"
    )
    lines = differences(theirs, ours, had=f"{first.address} has", asked=f"{run.address} has")
    if lines := without_consequences(lines, ())[0]:
        raise SettingsError(f"{problem}:\n  " + "\n  ".join(lines), hint=hint)
    if fit_of(first) != fit_of(run) and "background" in methods.get(run.record.method or "").NEEDS:
        raise SettingsError(f"{problem}: each was fitted on a sample of its own pool.", hint=hint)


def _pool_of(run: Run) -> Pool:
    try:
        return pool_of(run)
    except CurateError as error:
        hint = "A merged run is one of the whole pool: its files have to lie where they lay, as they were."
        raise CurateError(error.message, hint=hint) from error


def _refuse_overlap(runs: Sequence[Run], pools: Sequence[Pool]) -> None:
    """Raise SettingsError where two runs have a shard in common: the same file, or a copy of the same name."""
    seen: dict[object, Run] = {}
    for run, pool in zip(runs, pools, strict=True):
        contents = pool.shard_fingerprints()
        for shard in pool.shards:
            keys: list[object] = [identity(shard)]
            if shard.size and shard.name in contents:
                keys.append((shard.name, contents[shard.name]))
            if other := next((seen[key] for key in keys if seen.get(key, run) is not run), None):
                raise SettingsError(
                    f"{other.address} and {run.address} have the shard {shard.name} in common; expected slices of a"
                    " pool that do not overlap.",
                    hint="Leave one of the runs out, or score its slice again without that shard.",
                )
            seen |= dict.fromkeys(keys, run)


def _sums(totals: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    skipped = sum((Counter(t["skipped"]) for t in totals), Counter())
    return {
        "documents": sum(t["documents"] for t in totals),
        "tokens": sum(t["tokens"] for t in totals),
        "skipped": dict(sorted(skipped.items())),
    }


def _settings(merging: MergePlan) -> dict[str, Any]:
    """Return the first run's settings, with addresses as they are found from here, and of all pools."""
    settings = merging.runs[0].located_settings | {"pool": list(merging.pool.address)}
    fits = (run.located_settings.get("fit_from") for run in merging.runs)
    return settings | ({"fit_from": next(filter(None, fits), None)} if "fit_from" in settings else {})


def _prints(merging: MergePlan) -> dict[str, str]:
    prints = {**merging.runs[0].record.json["fingerprints"], "pool": merging.pool.fingerprint()}
    fits = (run.record.fingerprints.fit for run in merging.runs)
    return prints | ({"fit": fit} if (fit := next(filter(None, fits), None)) else {})


def _details(merging: MergePlan) -> dict[str, Any]:
    details = {n: d for n, d in merging.runs[0].record.json["details"].items() if n not in _OF_SLICES}
    losses = [(run.record.details.frequency_loss, (run.totals or {})["tokens"]) for run in merging.runs]
    if tokens := sum(n for loss, n in losses if loss is not None):
        details["frequency_loss"] = round(sum(loss * n for loss, n in losses if loss is not None) / tokens, 4)
    return details | {"merged": merging.record()["runs"]}


def _keep_fits(source: Run, merged: Run) -> None:
    """Give a run the fits, and the rows kept aside, of another."""
    for file in source.folder.files():
        if "/" in file.name and not file.name.startswith(_NOT_KEPT) and not merged.folder.exists(file.name):
            merged.folder.put(file.name, partial(same_file, source.folder.local(file.name)))


def _adopt_all(merging: MergePlan, merged: Run, task: Task) -> None:
    """Write every part that a run lacks, in the pool's order; many of them become one file on the way."""
    sequel = Sequel()
    for part in merged.all_parts():
        for together in sequel.add(part):
            merged.merge(together)
    for index, shard in enumerate(merging.pool.shards):
        source = merging.sources[shard.name]
        for part in source.run.parts(source.shard)[len(merged.parts(shard.name)) :]:
            adopted = merged.adopt(source.run, part, index, shard=shard.name)
            for together in sequel.add(adopted):
                merged.merge(together)
        task.advance(1)


def _refuse_lost(merged: Run, totals: Mapping[str, Any]) -> None:
    """Raise CurateError unless a merged run holds as many rows as the runs had."""
    merged.refresh()
    if (counted := count(merged)) != totals:
        raise CurateError(
            f"{merged.address} holds {counted}; the runs had {totals}.",
            hint="Did another process change their folders meanwhile? Remove this one, and merge again.",
        )


def _work(merging: MergePlan, merged: Run) -> Work:
    """Return the work behind the parts, as the logs of the runs tell it."""
    kinds = {kind for run in merging.runs for kind in kinds_of(run)}
    skipped = sum(merging.totals["skipped"].values())
    documents, tokens = merging.totals["documents"], merging.totals["tokens"]
    return Work(documents=documents, tokens=tokens, skipped=skipped, parts=len(merged.all_parts()), kinds=kinds)
