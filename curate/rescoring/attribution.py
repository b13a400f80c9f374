"""Score a shortlist by trainings on it: in-run, by the adjoint, and their spread over orders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from curate.amounts import size
from curate.errors import SettingsError
from curate.executors.contract import Chunk
from curate.executors.tables import part_tables
from curate.folders.kept import Kept, workplace
from curate.folders.tensors import TENSORS
from curate.gradients.direction_scoring import DirectionScorer
from curate.gradients.directions import DirectionEngine
from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.methods.contract import EncodedTarget
from curate.methods.shared.target import finite_losses, group_columns, group_shares, usable_groups
from curate.progress import Reporter
from curate.proxies.proxy import Proxy
from curate.proxies.token_texts import TokenTexts
from curate.proxies.tokens import Encoded
from curate.rescoring.settings import RescoreSettings
from curate.scores.run import Run
from curate.training.adjoint import snapshot
from curate.training.leaving_out import as_tensors, check, reported
from curate.training.microbatches import Corpus
from curate.training.rates import HELD_OUT, Trial, chosen, held_out, table, trials, tried
from curate.training.recipe import Recipe
from curate.training.replay import Replay, Training
from curate.training.snapshots import directions_of, in_proxys_precision, scoring_proxy, trainable
from curate.training.walk import refuse_rough, step_at, walk

ADJOINT, SPREAD = "score_adjoint", "score_spread"
_FOR_ONE_HELD_OUT = 4
"""Documents beside the shortlist, of which one is held out to tell learning rates apart."""


@dataclass(frozen=True, kw_only=True)
class Rescoring:
    """The inputs of the trainings on a shortlist, read and encoded."""

    settings: RescoreSettings
    proxy: Proxy
    target: EncodedTarget
    chunks: Sequence[Chunk]
    """The shortlist, by shard."""
    others: Sequence[Encoded]
    """Documents to train on beside it."""
    batching: Batching
    columns: Sequence[str]
    reporter: Reporter

    def __post_init__(self) -> None:
        if taken := {ADJOINT, SPREAD} & set(self.columns):
            raise SettingsError(
                f"A group's scores would have the column {taken.pop()}, which has another meaning here.",
                hint="Rename that group in the target's column (--group-by).",
            )

    @cached_property
    def shortlist(self) -> list[Encoded]:
        """Every document of the chunks, in their order."""
        return [e for chunk in self.chunks for e in chunk.encoded]

    @cached_property
    def usable(self) -> list[int]:
        """Positions of those with a finite loss."""
        return [i for i, ok in enumerate(finite_losses(self.proxy, self.shortlist, self.batching)) if ok]

    @cached_property
    def trained(self) -> list[Encoded]:
        """The documents of the training: the usable part of the shortlist, then the others."""
        return [*(self.shortlist[i] for i in self.usable), *self._others[1]]

    @cached_property
    def _others(self) -> tuple[list[Encoded], list[Encoded]]:
        """The others whose loss tells learning rates apart, where several are tried, and those to train on.

        Raises SettingsError where they are too few for both.
        """
        finite = finite_losses(self.proxy, self.others, self.batching)
        others = [d for d, ok in zip(self.others, finite, strict=True) if ok]
        count = min(HELD_OUT, len(others) // _FOR_ONE_HELD_OUT) if self.settings.rates else 0
        if self.settings.rates and not count:
            raise SettingsError(
                f"{len(others)} documents are beside the shortlist; learning rates are told apart by some of at least"
                f" {_FOR_ONE_HELD_OUT}.",
                hint="Raise --background, lower --shortlist, or leave --rates out.",
            )
        apart = {round(i * len(others) / count) for i in range(count)}
        return [others[i] for i in sorted(apart)], [d for i, d in enumerate(others) if i not in apart]

    @cached_property
    def _usable_target(self) -> tuple[list[int], dict[str, list[Encoded]]]:
        return usable_groups(self.target, self.proxy, self.batching, self.reporter)

    @property
    def groups(self) -> dict[str, list[Encoded]]:
        """The usable target documents of each group, under names for folders."""
        return self._usable_target[1]

    def recipe(self, repeat: int = 0, rate: float | None = None) -> Recipe:
        """Return the recipe of one repeat, which has its own order, with another learning rate if one is given."""
        recipe = in_proxys_precision(self.settings.recipe, self.proxy)
        return replace(
            recipe,
            seed=recipe.seed + repeat,
            batch_size=min(recipe.batch_size, len(self.trained)),
            learning_rate=rate or recipe.learning_rate,
        )

    def training(self, repeat: int = 0, rate: float | None = None) -> Training:
        """Return one repeat's training."""
        recipe = self.recipe(repeat, rate)
        # Adapters start alike in every repeat: what differs is the order.
        start = replace(recipe, seed=self.settings.recipe.seed)
        return Training(trainable(self.proxy, start), self.corpus(self.trained), recipe)

    def corpus(self, documents: Sequence[Encoded]) -> Corpus:
        return Corpus(documents, self.batching.tokens, room=self.batching.room)

    def attribute(self, run: Run) -> None:
        """Train and walk back for every repeat, write the parts, and record the measurements."""
        tried_rates = self._trials(run) if self.settings.rates else []
        taken = chosen(tried_rates, accept_rough=self.settings.accept_rough) if tried_rates else None
        if taken is not None:
            self.reporter.note(table(tried_rates, taken))
        rate = None if taken is None else taken.rate
        repeats = [self._kept(run, repeat, rate) for repeat in range(self.settings.repeats)]
        agreement = [round(float(kept["smoothness"]), 4) for kept in repeats]
        if not self.settings.accept_rough:
            refuse_rough(min(agreement))
        columns = group_columns(group_shares(self.target, self._usable_target[0]))
        self._write(run, repeats, columns)
        steps = int(repeats[0]["steps"])
        losses = [float(k["target_losses"] @ columns[0]) for k in repeats]
        measured = {"smoothness": agreement, "steps": steps, "documents": len(self.trained), "target_loss": losses}
        if self.settings.check:
            measured["check"] = reported(repeats[0], self.target.names, self.reporter)
        if taken is not None:
            measured |= {"rates": [t.details() for t in tried_rates], "learning_rate": taken.rate}
        run.add_details(magic=measured)

    def _trials(self, run: Run) -> list[Trial]:
        """Return how the first training comes out with every learning rate, tried now or kept in the run."""
        rates = [self.settings.recipe.learning_rate * multiple for multiple in self.settings.rates]
        names = list(self.groups)
        keys = self._keys(self.training(), 0) | {"rates": rates}
        kept = Kept(run.folder, TENSORS).get(
            "attribution/rates", keys, lambda: tried(rates, lambda rate: self._kept(run, 0, rate))
        )
        return trials(rates, kept, names)

    def _kept(self, run: Run, repeat: int, rate: float | None) -> dict[str, Tensor]:
        training = self.training(repeat, rate)
        keys = self._keys(training, repeat)
        fingerprint = str(keys["training"])
        with workplace(run.folder, "training") as folder:
            kept = Kept(run.folder, TENSORS)
            return kept.get("attribution/magic", keys, lambda: self._attributed(training, folder / fingerprint, repeat))

    def _keys(self, training: Training, repeat: int) -> dict[str, object]:
        keys: dict[str, object] = {
            "training": training.fingerprint(),
            "target": [self.corpus(rows).fingerprint() for rows in self.groups.values()],
            "snapshot": self.settings.snapshot,
            "shortlist": len(self.usable),
        }
        if self._checks(repeat):
            keys["check"] = self.settings.check
        return keys

    def _checks(self, repeat: int) -> bool:
        """Return whether a repeat's training is checked: the first, since the others differ in their order alone."""
        return repeat == 0 and self.settings.check > 0

    def _attributed(self, training: Training, folder: Path, repeat: int) -> dict[str, Tensor]:
        """Train once, walk back from every group, and score the shortlist both ways."""
        settings, steps = self.settings, training.steps
        replay = Replay(training, folder, checkpoints=settings.checkpoints, keep_gradients=settings.keep_gradients)
        needs = replay.plan()
        self.reporter.note(
            f"Training {repeat + 1} of {settings.repeats}: {steps} steps on {len(self.trained):,} documents,"
            f" {needs.tokens:,} tokens; up to {size(needs.disk_bytes)} on disk until it is done,"
            f" {size(needs.state_bytes)} of memory for parameters and moments."
        )
        step = step_at(settings.snapshot, steps)
        targets = {name: self.corpus(rows) for name, rows in self.groups.items()}
        rough = settings.accept_rough or bool(settings.rates)  # a rough trial is set aside, not refused
        walked = walk(replay, targets, self.reporter, snapshots=[step], accept_rough=rough)
        checked: dict[str, Tensor] = {}
        if self._checks(repeat):
            checked = as_tensors(check(replay, targets, walked.adjoints, self.reporter, retrainings=settings.check))
            if settings.rates:
                checked["held_out"] = held_out(replay, self.corpus(self._others[0]))
        snapshots = [snapshot(replay, name, step) for name in targets]
        proxy = scoring_proxy(self.proxy, replace(training.recipe, seed=settings.recipe.seed), snapshots[0].parameters)
        directions = directions_of(proxy, [s.directions for s in snapshots])
        wide = torch.promote_types(proxy.dtype, torch.float32)
        scorer = DirectionScorer(
            engines=[DirectionEngine(proxy, directions)], columns=torch.eye(len(snapshots), dtype=wide)
        )
        shortlist = [self.shortlist[i] for i in self.usable]
        adjoint = scorer(shortlist, self.batching)
        assert adjoint.losses is not None
        assert adjoint.norms is not None
        tokens = sum(len(d.ids) for d in shortlist)
        return {
            "scores": torch.stack([a.scores[: len(shortlist)] for a in walked.adjoints.values()], 1),
            "token_scores": torch.stack([a.token_scores[:tokens] for a in walked.adjoints.values()], 1),
            "adjoint": adjoint.scores,
            "losses": adjoint.losses,
            "norms": adjoint.norms,
            "target_losses": torch.tensor([a.loss for a in walked.adjoints.values()], dtype=torch.float64),
            "smoothness": torch.tensor(walked.smoothness.agreement, dtype=torch.float64),
            "steps": torch.tensor(steps),
            **checked,
        }

    def _write(self, run: Run, repeats: Sequence[dict[str, Tensor]], columns: Tensor) -> None:
        by_repeat = torch.stack([kept["scores"] for kept in repeats]) @ columns.T
        values = {"scores": by_repeat.mean(0)}
        for name in ("adjoint", "losses", "norms"):
            values[name] = torch.stack([kept[name].double() for kept in repeats]).mean(0)
        extra = {ADJOINT: values["adjoint"] @ columns[0]}
        if len(repeats) > 1:
            extra[SPREAD] = by_repeat[:, :, 0].std(0)
        tokens = None
        if self.settings.per_token:
            mean = torch.stack([kept["token_scores"] for kept in repeats]).mean(0) @ columns.T
            tokens = list(mean.split([len(self.shortlist[i].ids) for i in self.usable]))
        texts, position_of, offset = TokenTexts(self.proxy.tokenizer), {i: n for n, i in enumerate(self.usable)}, 0
        for chunk in self.chunks:
            positions = [position_of.get(offset + i) for i in range(len(chunk.encoded))]
            offset += len(chunk.encoded)
            table, skipped = part_tables(chunk, _scored(positions, values, tokens, chunk), self.columns, texts)
            position_of_row = {d.row: n for d, n in zip(chunk.documents, positions, strict=True)}
            kept_rows = [position_of_row[r] for r in table.column("row").to_pylist()]
            table = _with_columns(table, {k: v[kept_rows].numpy() for k, v in extra.items()}, after=self.columns[-1])
            run.write_part(chunk.span, table, skipped)


def _scored(
    positions: Sequence[int | None], values: dict[str, Tensor], tokens: Sequence[Tensor] | None, chunk: Chunk
) -> Scored:
    """Return the scores of one chunk's documents; NaN for those that could not be trained on."""
    indices = torch.tensor([-1 if n is None else n for n in positions])

    def of(name: str) -> Tensor:
        chosen = values[name][indices]
        chosen[indices < 0] = torch.nan
        return chosen

    by_token = None
    if tokens is not None:
        width = values["scores"].shape[1]
        by_token = [
            torch.full((len(e.ids), width), torch.nan, dtype=torch.float64) if n is None else tokens[n]
            for n, e in zip(positions, chunk.encoded, strict=True)
        ]
    return Scored(scores=of("scores"), losses=of("losses"), norms=of("norms"), tokens=by_token)


def _with_columns(table: pa.Table, columns: dict[str, Any], *, after: str) -> pa.Table:
    """Insert columns after another; a pool's column of the same name was renamed on reading."""
    for name, values in reversed(columns.items()):
        array = pa.array(np.asarray(values, np.float32))
        table = table.add_column(table.column_names.index(after) + 1, name, array)
    return table
