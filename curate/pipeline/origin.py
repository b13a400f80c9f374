"""What a run takes over from another: its fits, so that new shards are scored along directions that exist already.

A pool that grows is another pool, and whatever was fitted on a sample of it would be fitted anew; scores before and
after would compare by rank only. With `fit_from` a run takes curvature, directions and training runs from an older one,
and the older one's scores of every shard that has not changed: only new shards are computed, and all scores compare.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.documents import Pool, open_pool, sample_rows
from curate.errors import CurateError, SettingsError
from curate.folders.folder import put_json, read_json
from curate.folders.record import decisive, differences
from curate.progress import Reporter
from curate.score_settings import ScoreSettings, background_fingerprint
from curate.scores.run import SHARDS, Run

if TYPE_CHECKING:
    from curate.proxies.tokens import Encoded, Encoder

# What fits depend on beside the contents of model, target and background.
DECISIVE = ("method", "modules", "dtype", "device", "context", "long", "background", "seed")


def remember_shards(run: Run, pool: Pool) -> None:
    """Write down what the shards of a run's pool were, for runs that take over its scores."""
    put_json(run.folder, SHARDS, pool.shard_fingerprints())


def unchanged(run: Run, pool: Pool) -> list[str]:
    """Return the names of a pool's shards that are as the run scored them, as far as their content's digest tells."""
    scored = read_json(run.folder, SHARDS) if run.folder.exists(SHARDS) else {}
    now = pool.shard_fingerprints()
    return [s.name for s in pool.shards if s.name in now and scored.get(s.name) == now[s.name] and run.parts(s.name)]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The run that fits come from."""

    run: Run
    background: str
    """Fingerprint of the sample that its fits were made on, wherever it was drawn."""

    @classmethod
    def open(cls, path: Path | str, settings: Mapping[str, Any]) -> "Origin":
        """Open the run; raise SettingsError where settings that its fits depend on differ from these."""
        run = Run.open(path)
        mine, theirs = ({k: s.get(k) for k in DECISIVE} for s in (run.record.settings, settings))
        if lines := differences(mine, theirs):
            raise SettingsError(
                f"Nothing can be taken from {run.address}:\n  " + "\n  ".join(lines),
                hint="Leave these settings out (they come from that run), or score without --fit-from.",
            )
        return cls(run=run, background=fit_of(run))

    def refuse_other_model(self, fingerprints: Mapping[str, str]) -> None:
        """Raise SettingsError unless the run was scored with a model, and states of its training, of these."""
        if not self.run.record.fingerprints.same_model(fingerprints):
            raise SettingsError(
                f"Nothing can be taken from {self.run.address}: it was scored with another model.",
                hint="Give the model that it was scored with, or score without --fit-from.",
            )

    def no_background(self) -> Sequence["Encoded"]:
        """Raise CurateError: something is to be fitted that the run does not keep."""
        raise CurateError(
            f"{self.run.address} does not keep all that these settings need, and with --fit-from nothing is fitted"
            " anew.",
            hint="Give the target, control set and method settings that it was prepared with, or leave --fit-from out.",
        )

    def drawn_background(self, pool: Pool, encoder: "Encoder") -> list["Encoded"]:
        """Draw again the sample that the fits were made on, from a pool that has grown or where it was drawn first.

        Raises CurateError where neither holds the shards as they were.
        """
        root = self.run
        while fit_from := root.located_settings.get("fit_from"):
            root = Run.open(fit_from)
        settings = ScoreSettings.from_record(root.located_settings)
        drawn_from = _as_it_was(pool, root)
        if drawn_from is None:
            drawn_from = _as_it_was(open_pool(settings.pool, txt_lines=settings.fields.txt_lines), root)
        if drawn_from is None:
            raise CurateError(
                f"The pool has changed since {root.address} was fitted on a sample of it, which is needed again.",
                hint="Give the pool with those shards as they were (--pool), or score without --fit-from.",
            )
        sample = sample_rows(drawn_from, settings.background or 0, settings.seed, settings.fields)
        return [e for e in encoder(sample) if e.num_scored > 0]

    def give_parts(self, run: Run, pool: Pool, reporter: Reporter) -> None:
        """Write into a run all parts of shards that are as they were, unless the two runs score differently."""
        if lines := self._differences(run):
            reporter.note(f"every shard is scored, since {self.run.address} scores differently: {'; '.join(lines)}.")
            return
        same = set(unchanged(self.run, pool))
        for index, shard in enumerate(pool.shards):
            if shard.name in same:
                for part in self.run.parts(shard.name)[len(run.parts(shard.name)) :]:
                    run.adopt(self.run, part, index)
        reporter.note(
            f"{len(same)} of {len(pool.shards)} shards are as {self.run.address} scored them: their scores are taken."
        )

    def _differences(self, run: Run) -> list[str]:
        ours, theirs = (
            decisions(r, but=("pool", "fit_from"), but_contents=("pool", "fit"))
            | {"narrowed": r.record.json["details"].get("narrowed")}
            for r in (run, self.run)
        )
        return differences(theirs, ours, asked="now")


def fit_of(run: Run) -> str:
    """Return the fingerprint of the sample that a run's fits were made on, wherever it was drawn."""
    prints = run.record.fingerprints
    return prints.fit or background_fingerprint(prints.pool, ScoreSettings.from_record(run.record.settings))


def decisions(run: Run, *, but: Collection[str], but_contents: Collection[str]) -> dict[str, Any]:
    """Return the settings, and the hashes of the contents, that decide a run's scores, without those that are named."""
    settings, contents = decisive(run.record.settings), run.record.json["fingerprints"]
    settings |= {"scores per position": run.record.scores_positions}
    return {n: value for n, value in settings.items() if n not in but} | {
        f"content of {n}": value for n, value in contents.items() if n not in but_contents
    }


def _as_it_was(pool: Pool, run: Run) -> Pool | None:
    """Return the shards that a run's pool had; None where they are not all there, unchanged."""
    if run.folder.exists(SHARDS):
        names = read_json(run.folder, SHARDS)
        pool = replace(pool, shards=tuple(s for s in pool.shards if s.name in names))
    return pool if pool.fingerprint() == run.record.fingerprints.pool else None
