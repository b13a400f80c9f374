"""Which of a pool's documents a run scores, where not all: a seeded sample, or the best of another run."""

from dataclasses import asdict, dataclass, replace

import xxhash

from curate.documents import Pool, rows_of_all
from curate.documents.choices import Drawn, Listed, write_listed
from curate.documents.shards import Choice
from curate.errors import CurateError, SettingsError
from curate.folders.local import open_folder
from curate.folders.record import Narrowed, canonical
from curate.score_settings import ScoreSettings
from curate.scores.narrowing import best_sql, documents_stood_for, ranking_columns
from curate.scores.run import Run
from curate.scores.session import open_session

CHOSEN = "chosen.parquet"


@dataclass(frozen=True, kw_only=True)
class Narrowing:
    """What decides which documents are scored. A value: it pickles."""

    sample: float | None = None
    """A share of the pool's rows, or about that number."""
    seed: int = 0
    only: Run | None = None
    """The run whose documents are scored."""
    columns: tuple[str, ...] = ()
    """Of that run: by any of them a document has to be among the best."""
    top: float | None = None
    """A share, or a number; None: every document of that run."""

    @classmethod
    def of(cls, settings: ScoreSettings, pool: Pool) -> "Narrowing":
        """Return what settings choose. Raises CurateError where the other run is not one, finished, of this pool."""
        if settings.only is None:
            return cls(sample=settings.sample, seed=settings.seed)
        only = Run.open(settings.only)
        if not only.is_finished:
            raise CurateError(
                f"{only.address} is not finished: which documents are its best is not known yet.",
                hint=f"Go on with it: curate score --continue {only.address}",
            )
        _refuse_other_pool(only, settings, pool)
        columns = () if settings.top is None else ranking_columns(only, settings.group)
        return cls(only=only, columns=columns, top=settings.top)

    def fingerprints(self) -> dict[str, str]:
        """Return the hash of the other run, where there is one."""
        if self.only is None:
            return {}
        return {"only": identity(self.only)}

    @property
    def lineage(self) -> list[Run]:
        """The runs that narrow the pool, as far as they are there: the other run, and the one it was learned from."""
        if self.only is None:
            return []
        teacher = self.only.located_settings.get("teacher")
        if teacher is None or not open_folder(teacher).exists(Run.RECORD):
            return [self.only]
        return [self.only, Run.open(teacher)]

    @property
    def _of(self) -> int:
        """How many documents the other run stands for."""
        assert self.only is not None
        return documents_stood_for(self.only, (self.only.totals or {})["documents"])

    @property
    def _best_sql(self) -> str:
        return best_sql(self.columns, self.top, self._of)

    def measure(self, pool: Pool) -> Narrowed:
        """Return how many documents are chosen, and of how many."""
        if self.only is not None:
            with open_session(self.only) as session:
                documents = session.count(self._best_sql)
            assert documents is not None
            return Narrowed(documents=documents, of=self._of, columns=self.columns, top=self.top)
        assert self.sample is not None
        rows = round(rows_of_all(pool.shards))
        share = self.sample if isinstance(self.sample, float) else min(1.0, self.sample / max(1, rows))
        return Narrowed(documents=round(share * rows), of=rows, share=share, seed=self.seed)

    def begin(self, run: Run, pool: Pool) -> None:
        """Decide once for a run which documents it scores, and keep that in its folder and its record."""
        if run.record.details.narrowed is not None:
            return
        if self.only is not None:
            with open_session(self.only) as session:
                best = session.query(f"{self._best_sql} ORDER BY shard, row")
                write_listed(run.folder, CHOSEN, best.batches())
        run.add_details(narrowed=asdict(self.measure(pool)))


def identity(run: Run) -> str:
    """Return the hash of what a finished run has scored, and how."""
    content = {part: run.record.json[part] for part in ("settings", "fingerprints")}
    return xxhash.xxh3_128_hexdigest(canonical(content | {"totals": run.totals}).encode())


def narrowed(run: Run, pool: Pool) -> Pool:
    """Return a pool of which only those rows are read that a run has chosen; all where it has not."""
    if run.record.details.narrowed is None:
        return pool
    share, seed = run.record.details.narrowed.share, run.record.details.narrowed.seed

    def choice(shard: str) -> Choice:
        if share is None:
            return Listed(folder=run.folder, name=CHOSEN, shard=shard)
        return Drawn(seed=seed, shard=shard, share=share)

    return replace(pool, shards=tuple(replace(s, choice=choice(s.name)) for s in pool.shards))


def _refuse_other_pool(only: Run, settings: ScoreSettings, pool: Pool) -> None:
    scored = only.record.fingerprints.pool
    if (now := pool.fingerprint()) != scored:
        raise CurateError(
            f"{', '.join(pool.address)} is not the pool that {only.address} scored: its files are others, or have"
            f" changed since (the fingerprint is {now}; expected {scored}).",
            hint=f"Score the pool as it is now by {only.record.method} into another run first, or put its files back.",
        )
    if only.record.fields.get("txt_lines", False) != settings.fields.txt_lines:
        raise SettingsError(
            f"txt_lines is {settings.fields.txt_lines}; {only.address} read text files otherwise.",
            hint="Give, or leave out, --txt-lines as that run did: its rows are others.",
        )
