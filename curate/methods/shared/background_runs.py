"""Training runs on parts of the background, and scorers along the directions from walking back through them."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from curate.amounts import counted, size
from curate.errors import CurateError
from curate.folders.kept import Kept, workplace
from curate.folders.tensors import TENSORS_ON_DISK, OnDisk
from curate.gradients.direction_scoring import DirectionScorer
from curate.gradients.directions import DirectionEngine, Directions
from curate.gradients.one_at_a_time import OneAtATime, Shelf
from curate.memory import available_bytes
from curate.methods.contract import EncodedTarget, Inputs
from curate.methods.shared.background_plan import RunSettings
from curate.methods.shared.runs_scorer import RunsScorer
from curate.methods.shared.target import finite_losses, group_columns, group_shares, usable_groups
from curate.proxies.devices import all_finite
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoded
from curate.training.adjoint import Sampling, snapshot
from curate.training.leaving_out import as_tensors, check, left_out, reported
from curate.training.microbatches import Corpus
from curate.training.rates import HELD_OUT, Trial, chosen, held_out, table, trials, tried
from curate.training.replay import DivergedError, Replay, Training
from curate.training.smoothness import LEAST_AGREEMENT
from curate.training.snapshots import covered, directions_of, in_proxys_precision, scoring_proxy, trainable
from curate.training.walk import refuse_rough, step_at, walk

CONTROL = "control"
SHARE = 0.5
"""Of the memory that is left, what the snapshots of all runs may take together."""
_FOR_ONE_HELD_OUT = 4
"""Documents of the background, of which one is held out to tell learning rates apart."""


class BackgroundRuns:
    """Train on each part of the background and walk back from every group of the target."""

    def __init__(self, inputs: Inputs, settings: RunSettings) -> None:
        self.inputs, self.settings = inputs, settings
        self.recipe = in_proxys_precision(settings.recipe, inputs.proxy)
        self.parts = settings.runs

    def scorer(self) -> RunsScorer:
        """Return the scorer along all runs' directions, computed now or kept in the run."""
        tried_rates = self._trials() if self.settings.rates else []
        if tried_rates:
            taken = chosen(tried_rates, accept_rough=self.settings.accept_rough)
            self.inputs.reporter.note(table(tried_rates, taken))
            self.recipe = replace(self.recipe, learning_rate=taken.rate)
            for trial in tried_rates:
                if trial.rate != taken.rate:
                    self._with(trial.rate).forget(0)
        kept_runs = [self._kept(part) for part in range(self.parts)]
        shelf = self._shelf(kept_runs)
        self._report(kept_runs, (shelf.take(0) if isinstance(shelf, Shelf) else shelf[0]).proxy, tried_rates)
        columns = group_columns(kept_runs[0]["shares"].to(torch.promote_types(self.inputs.proxy.dtype, torch.float32)))
        passes = [len(self._passes(kept)) for kept in kept_runs]
        starts = [sum(passes[:part]) for part in range(self.parts)]
        runs = [list(range(start, start + count)) for start, count in zip(starts, passes, strict=True)]

        def along(chosen: Sequence[Sequence[int]]) -> DirectionScorer:
            return self._along(shelf, [i for run in chosen for i in run], columns)

        apart = []
        if self.parts > 1:
            apart = [
                (_hashes(kept), along([run for run in runs if run is not trained]))
                for kept, trained in zip(kept_runs, runs, strict=True)
            ]
        return RunsScorer(usual=along(runs), apart=apart)

    def _passes(self, kept: Mapping[str, Tensor]) -> list[list[int]]:
        """Return the snapshots of every pass that a run takes over the pool.

        Away from the step of its snapshot a direction ranks documents alike (examples/magic/STUDY.md), but an adapter's
        gradient is in proportion to its other factor, which grows from 0.
        """
        steps = kept["snapshots"].tolist()
        together = (self.settings.passes or ("each" if self.recipe.lora_rank else "one")) == "one"
        return [steps] if together else [[step] for step in steps]

    def _shelf(self, kept_runs: Sequence[OnDisk]) -> Sequence[DirectionEngine] | Shelf[DirectionEngine]:
        """Return all runs' engines, one per pass; on a shelf where they do not fit into memory together."""
        passes = [(kept, steps) for kept in kept_runs for steps in self._passes(kept)]
        loads = [partial(self._engine, kept, steps) for kept, steps in passes]
        device, number = self.inputs.proxy.device, self.inputs.proxy.dtype.itemsize
        needed = number * sum(
            entries for kept, steps in passes for n, entries in kept.sizes.items() if n.startswith(f"{steps[0]}.")
        )
        available = available_bytes(device)
        if available is None or needed <= SHARE * available or len(loads) == 1:
            return [load() for load in loads]
        self.inputs.reporter.note(
            f"the snapshots' parameters and directions take {size(needed)}, of {size(available)} that are left:"
            " documents go through one snapshot after the other."
        )
        return Shelf(loads)

    def _engine(self, kept: Mapping[str, Tensor], steps: Sequence[int]) -> DirectionEngine:
        """Return the engine along the mean of some snapshots' directions, with the parameters of the earliest."""
        proxy = scoring_proxy(self.inputs.proxy, self.recipe, _under(f"{steps[0]}.parameters.", kept))
        directions = _under(f"{steps[0]}.directions.", kept)
        for step in steps[1:]:
            directions = {n: u + kept[f"{step}.directions.{n}"] for n, u in directions.items()}
        return DirectionEngine(proxy, {n: u / len(steps) for n, u in directions.items()})

    def _along(
        self,
        engines: Sequence[DirectionEngine] | Shelf[DirectionEngine],
        indices: Sequence[int],
        columns: Float[Tensor, "columns groups"],
    ) -> DirectionScorer:
        """Return the scorer by the mean over some of the passes."""
        return DirectionScorer(
            engines=OneAtATime(engines, indices) if isinstance(engines, Shelf) else [engines[i] for i in indices],
            columns=columns / len(indices),
            normalize=self.settings.normalize,
            per_token=self.inputs.per_token,
        )

    def _with(self, rate: float) -> "BackgroundRuns":
        """Return the same runs with another learning rate."""
        runs = copy(self)
        runs.recipe = replace(self.recipe, learning_rate=rate)
        return runs

    def _trials(self) -> list[Trial]:
        """Return how the first run comes out with every learning rate, tried now or kept in the run."""
        rates = [self.recipe.learning_rate * multiple for multiple in self.settings.rates]
        keys = self._keys(0) | {"rates": self.settings.rates}

        def make() -> dict[str, Tensor]:
            _ = self._dealt, self._usable  # once: the copies of all rates share them
            return tried(rates, lambda rate: self._with(rate)._kept(0))

        return trials(rates, self.inputs.kept.get("target/rates", keys, make), self._checked_groups)

    @property
    def _checked_groups(self) -> list[str]:
        return [*self.inputs.target.names, *([CONTROL] if self.inputs.against is not None else [])]

    def forget(self, part: int) -> None:
        """Remove what the run keeps of a part."""
        self.inputs.kept.forget("target/magic", self._keys(part))

    def _keys(self, part: int) -> dict[str, object]:
        inputs = self.inputs
        keys = inputs.proxy_keys | {
            "target": inputs.target.fingerprint,
            "groups": tuple(inputs.target.groups),
            "against": None if inputs.against is None else inputs.against.fingerprint,
            "background": inputs.background_fingerprint,
            "recipe": sorted(self.recipe.as_dict().items()),
            "parts": self.parts,
            "part": part,
            "snapshots": self.settings.snapshots,
            "share": self.settings.curvature_share,
        }
        if self._checks(part):
            keys["check"] = self.settings.check
        if self.settings.rates:
            keys["held out"] = True
        return keys

    def _kept(self, part: int) -> OnDisk:
        keys, kept = self._keys(part), self.inputs.kept
        key = xxhash.xxh3_64_hexdigest(repr(sorted(keys.items())).encode())
        on_disk = Kept(kept.folder, TENSORS_ON_DISK, kept.neighbours, refusal=kept.refusal)
        with workplace(kept.folder, "training") as folder:
            tensors = on_disk.get("target/magic", keys, lambda: self._train(part, folder / key))
        assert isinstance(tensors, OnDisk)
        return tensors

    def _checks(self, part: int) -> bool:
        """Return whether a part's run is checked: the first, since the others differ in nothing but documents."""
        return part == 0 and self.settings.check > 0

    def _train(self, part: int, folder: Path) -> dict[str, Tensor]:
        """Train on a part, walk back from all targets to the snapshots, and return the tensors that scoring takes."""
        documents = self._dealt[part]
        recipe = replace(self.recipe, batch_size=min(self.recipe.batch_size, len(documents)))
        training = Training(trainable(self.inputs.proxy, recipe), self._corpus(documents), recipe)
        replay = Replay(training, folder, checkpoints=self.settings.checkpoints)
        plan, steps = replay.plan(), training.steps
        self.inputs.reporter.note(
            f"run {part + 1} of {self.parts}: {steps} steps on {len(documents):,} documents, {plan.tokens:,} tokens;"
            f" up to {size(plan.disk_bytes)} on disk until it is done, {size(plan.state_bytes)} of memory"
            " for parameters and moments."
        )
        snapshots = sorted({step_at(share, steps) for share in self.settings.snapshots})
        targets = {name: self._corpus(documents_of_group) for name, documents_of_group in self._targets.items()}
        walked = walk(
            replay,
            targets,
            self.inputs.reporter,
            snapshots=snapshots,
            until=snapshots[0],
            sampling=self._sampling(part, training, since=snapshots[0]),
            accept_rough=self.settings.accept_rough or bool(self.settings.rates),
        )
        losses = [walked.adjoints[name].loss for name in targets if name != CONTROL]
        hashes = [bytes.fromhex(d.content_hash) for d in documents if d.content_hash]
        tensors = {
            "shares": group_shares(self.inputs.target, self._usable[0]),
            "losses": torch.tensor(losses, dtype=torch.float64),
            "smoothness": torch.tensor(walked.smoothness.agreement, dtype=torch.float64),
            "snapshots": torch.tensor(snapshots),
            "size": torch.tensor([steps, len(documents)]),
            "hashes": torch.from_numpy(np.frombuffer(b"".join(hashes), np.uint8).copy()).view(len(hashes), -1),
        }
        if self._checks(part):
            retrainings, since = self.settings.check, snapshots[0]
            checked = check(
                replay, targets, walked.adjoints, self.inputs.reporter, retrainings=retrainings, since=since
            )
            tensors |= as_tensors(checked)
            if self.settings.rates:
                tensors["held_out"] = held_out(replay, self._corpus(self._dealt[self.parts]))
        for step in snapshots:
            parameters, directions = self._at(replay, step, list(targets))
            tensors |= {f"{step}.parameters.{n}": p for n, p in parameters.items()}
            tensors |= {f"{step}.directions.{n}": u for n, u in directions.items()}
        return tensors

    def _sampling(self, part: int, training: Training, *, since: int) -> Sampling | None:
        """Return how a part's ways back sample documents: those that the check leaves out get scores."""
        if self.settings.curvature_share == 1:
            return None
        retrainings = self.settings.check if self._checks(part) else 0
        checked = left_out(training, retrainings, since=since)
        return Sampling(share=self.settings.curvature_share, documents=frozenset(i for left in checked for i in left))

    def _at(self, replay: Replay, step: int, targets: Sequence[str]) -> tuple[dict[str, Tensor], Directions]:
        """Return the parameters before a step, and the groups' directions there, less the control set's."""
        by_group = {name: snapshot(replay, name, step) for name in targets}
        control = by_group.pop(CONTROL, None)
        parameters = next(iter(by_group.values())).parameters
        proxy = scoring_proxy(self.inputs.proxy, self.recipe, parameters)
        directions = directions_of(proxy, [kept.directions for kept in by_group.values()])
        if control is not None:
            control_directions = directions_of(proxy, [control.directions])
            directions = {n: u - control_directions[n] for n, u in directions.items()}
        if not all_finite(directions.values()):
            raise DivergedError(
                f"The adjoint at step {step} is not finite.", hint="Lower learning_rate, or give later snapshots."
            )
        return parameters, directions

    @cached_property
    def _dealt(self) -> list[list[Encoded]]:
        """Deal the background's documents out to the runs, each content to one run only.

        Where several learning rates are tried, last come the documents whose loss tells them apart.
        """
        drawn = list(self.inputs.background())
        with self.inputs.reporter.stage("background", total=len(drawn), grows="background") as stage:
            finite = finite_losses(self.inputs.proxy, drawn, self.inputs.batching)
            stage.advance(len(finite))
        usable = [d for d, ok in zip(drawn, finite, strict=True) if ok]
        if len(usable) < len(drawn):
            self.inputs.reporter.note(f"{len(drawn) - len(usable)} background document(s) left out: loss not finite.")
        distinct = list({d.content_hash or str(i): d for i, d in enumerate(usable)}.values())
        held = max(1, min(HELD_OUT, len(distinct) // _FOR_ONE_HELD_OUT)) if self.settings.rates else 0
        if len(distinct) < self.parts + held:
            raise CurateError(
                f"{len(distinct)} usable background document(s) for {counted(self.parts, 'training run')}"
                f"{' and one that tells learning rates apart' if held else ''}.",
                hint="Raise --background, or lower the method's setting `runs`.",
            )
        order = np.random.default_rng([self.recipe.seed, 1]).permutation(len(distinct))
        parts = [order[held + part :: self.parts] for part in range(self.parts)]
        return [[distinct[i] for i in sorted(part)] for part in (*parts, *([order[:held]] if held else []))]

    @cached_property
    def _usable(self) -> tuple[list[int], dict[str, list[Encoded]]]:
        return self._groups_of(self.inputs.target)

    @cached_property
    def _targets(self) -> dict[str, list[Encoded]]:
        """Return every group's usable documents, and the control set's."""
        targets, against = dict(self._usable[1]), self.inputs.against
        if against is not None:
            (targets[CONTROL],) = self._groups_of(against.ungrouped())[1].values()
        return targets

    def _groups_of(self, target: EncodedTarget) -> tuple[list[int], dict[str, list[Encoded]]]:
        return usable_groups(target, self.inputs.proxy, self.inputs.batching, self.inputs.reporter)

    def _corpus(self, documents: Sequence[Encoded]) -> Corpus:
        batching = self.inputs.batching
        return Corpus(documents, batching.tokens, room=batching.room)

    def _report(self, kept_runs: Sequence[Mapping[str, Tensor]], proxy: Proxy, tried_rates: Sequence[Trial]) -> None:
        """Report and record the runs' smoothness and check. Raises CurateError where a run is too rough."""
        agreement = [round(float(kept["smoothness"]), 4) for kept in kept_runs]
        snapshots, steps = kept_runs[0]["snapshots"].tolist(), int(kept_runs[0]["size"][0])
        parameters = _under(f"{snapshots[0]}.parameters.", kept_runs[0])
        tracked, trained = covered(proxy, parameters)
        listed = " and ".join(map(str, snapshots))
        parts = "linear layers, input embedding and head" if proxy.tables else "linear layers alone"
        self.inputs.reporter.note(
            f"training runs' smoothness {', '.join(f'{a:.2f}' for a in agreement)} (1: smooth, below {LEAST_AGREEMENT}:"
            f" not to be trusted); documents are scored at step {listed} of {steps}, by {parts}:"
            f" {tracked:,} of {trained:,} trained parameters."
        )
        measured: dict[str, object] = {}
        if self.settings.check:
            measured["check"] = reported(kept_runs[0], self._checked_groups, self.inputs.reporter)
        if tried_rates:
            measured["rates"] = [trial.details() for trial in tried_rates]
            measured["learning_rate"] = self.recipe.learning_rate
        self.inputs.record(
            {
                "magic": {
                    "smoothness": agreement,
                    "snapshots": snapshots,
                    "steps": steps,
                    "documents": [int(kept["size"][1]) for kept in kept_runs],
                    "target_loss": [kept["losses"].tolist() for kept in kept_runs],
                    "trained_parameters": trained,
                    "tracked_parameters": tracked,
                    **measured,
                }
            }
        )
        if not self.settings.accept_rough:
            refuse_rough(min(agreement))


def _under(prefix: str, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): kept[n] for n in kept if n.startswith(prefix)}


def _hashes(kept: Mapping[str, Tensor]) -> frozenset[str]:
    return frozenset(bytes(row.tolist()).hex() for row in kept["hashes"])
