"""Compare arms on one proxy: train each, measure all on the same rows, reuse the arms already trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from curate.documents import Fields, Overlap, read_target
from curate.documents.set_aside import sentences
from curate.executors.contract import Executor
from curate.folders.codecs import JSON
from curate.folders.folder import Folder
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.folders.local_folder import LocalFolder
from curate.gradients.documents import Batching
from curate.progress import Reporter
from curate.proof.arms import ALL, Arm
from curate.proof.choices import Choices
from curate.proof.fitting import ArmTraining, ArmWork, Curve, Measure
from curate.proof.places import draw
from curate.proof.progress import ARMS, UNTRAINED
from curate.proof.reading import usable
from curate.proof.selection import Selected
from curate.proof.settings import VerifySettings, banks_beside
from curate.proof.sharing import share
from curate.proof.spool import Excluded, key_of, spooled
from curate.proof.verdict import LEAST_STEPS, Outcome, Verification
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoder
from curate.schema import Document
from curate.training.recipe import Recipe
from curate.training.snapshots import in_proxys_precision

MOST_PASSES = 4
"""Over a small selection, from which on another pass teaches little (arXiv 2305.16264)."""
SPOOLS = "spools"
_OTHER_SEED = 7919  # keeps the sample of other text apart from the random arms' draws


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All arms on one proxy."""

    settings: VerifySettings
    selected: Selected
    fields: Fields
    """Of the pool's documents."""
    held_out: Sequence[Document]
    out: Folder
    proxy: Proxy
    encoder: Encoder
    batching: Batching
    choices: Choices
    reporter: Reporter

    @cached_property
    def recipe(self) -> Recipe:
        return in_proxys_precision(self.settings.recipe, self.proxy)

    @cached_property
    def other(self) -> list[Document]:
        settings, fields = self.settings, self.fields
        if settings.other:
            other = read_target(settings.other, fields)
            for sentence in sentences(other.skipped, "other"):
                self.reporter.warn(sentence)
            return other.documents
        places = draw([self.choices.index], settings.seed + _OTHER_SEED, documents=settings.other_documents)
        return list(places.read(self.choices.pool, fields))

    @cached_property
    def excluded(self) -> Excluded:
        hashes = frozenset(d.content_hash for d in [*self.held_out, *self.other])
        return Excluded(hashes=hashes, overlap=Overlap(d.plain_text for d in self.held_out))

    @cached_property
    def measure(self) -> Measure:
        target, other = (usable(documents, self.encoder)[1] for documents in (self.held_out, self.other))
        return Measure.of(self.proxy, self.recipe, self.batching, target, other)

    @cached_property
    def tokens(self) -> int:
        """Tokens that every arm trains on: the selection's, and where these are too few to tell, passes over them."""
        return self.settings.tokens or enough_tokens(self.selected.budget, self.step_tokens)

    @property
    def step_tokens(self) -> float:
        """Tokens of a batch: the recipe's batch size times the run's mean length."""
        return self.recipe.batch_size * self.selected.mean_tokens

    def steps(self, times: float) -> int:
        return max(1, round(times * self.tokens / self.step_tokens))

    def compare(self, executor: Executor) -> Verification:
        """Have an executor train what is missing, and compare."""
        arms = self.choices.arms(self.tokens, self.settings.all_times)
        seeds, last_arm = range(self.settings.seeds), arms[-1]
        trainings = [(arm, seed) for arm in arms for seed in seeds]
        untrained_file = file_name(UNTRAINED, key_of(self._shared_key))
        names = [untrained_file, *(self._file(arm, seed) for arm, seed in trainings)]
        self._share(names, back=False)
        untrained = self._kept.at(untrained_file, self._untrained)
        longer = f"; {ALL}: {last_arm.times:.3g} times as many" if last_arm.name == ALL else ""
        self.reporter.note(
            f"{len(arms) * len(seeds)} trainings ({len(arms)} arms, {len(seeds)} seeds) of {self.tokens:,} tokens in"
            f" {self.steps(1)} steps each{longer}."
        )
        if self.settings.tokens is None and self.tokens > self.selected.budget:
            self.reporter.note(
                f"the selection's {self.selected.tokens:,} tokens are too few for {LEAST_STEPS} steps: its arm trains"
                f" on {self.tokens / self.selected.tokens:.2g} passes over them."
            )
        self._train(trainings, untrained, executor)
        self._share(names, back=True)
        scratch = self.out.scratch(SPOOLS)
        LocalFolder(scratch.parent).remove(SPOOLS)
        outcomes = tuple(self._outcome(arm, [self._trained(arm, seed) for seed in seeds]) for arm in arms)
        return Verification(
            selection=str(self.settings.selection),
            tokens=self.tokens,
            steps=self.steps(1),
            held_out=len(self.measure.target),
            others=len(self.measure.other),
            outcomes=outcomes,
            untrained=untrained,
            out=self.out.address,
            is_of_tokens=self.selected.is_of_tokens,
        )

    def _train(self, trainings: Sequence[tuple[Arm, int]], untrained: Mapping[str, float], executor: Executor) -> None:
        """Train what is not kept: the longest first, so that no worker is left with one at the end."""
        missing = [(arm, seed) for arm, seed in trainings if self._trained(arm, seed) is None]
        missing.sort(key=lambda training: -training[0].times)
        if not missing:
            return
        work = ArmWork(
            proxy=self.proxy.settings,
            fingerprint=self.proxy.fingerprint(),
            recipe=self.recipe,
            batching=self.batching,
            target=self.measure.target.documents,
            other=self.measure.other.documents,
            points=self.settings.points,
            untrained=untrained,
            folder=self._kept.folder,
            measure=self.measure,
        )
        total = sum(self.steps(arm.times) for arm, _ in missing)
        with self.reporter.stage("training", total=total, unit="steps") as task:
            jobs = (self._job(arm, seed) for arm, seed in missing)
            with executor.hired(work, len(missing), self.reporter) as do_all:
                do_all(jobs, task)

    def _job(self, arm: Arm, seed: int) -> ArmTraining:
        """Write a training's documents to disk, unless they are there, and return the job."""
        name = f"{arm.name}-{seed}" if arm.per_seed else arm.name
        folder = self.out.scratch(SPOOLS) / f"{name}-{key_of(self._shared_key, arm.key, arm.per_seed and seed)}"
        counts = spooled(
            folder, lambda: arm.documents(seed), self.encoder, self.excluded, what=name, reporter=self.reporter
        )
        return ArmTraining(
            name=self._file(arm, seed),
            spool=folder,
            counts=counts,
            tokens=round(arm.times * self.tokens),
            steps=self.steps(arm.times),
            seed=seed,
            is_last=arm.per_seed,
        )

    def _trained(self, arm: Arm, seed: int) -> dict[str, Any] | None:
        """Return what is kept of an arm's training from a seed."""
        return self._kept.find(self._file(arm, seed))

    def _file(self, arm: Arm, seed: int) -> str:
        key = key_of(self._shared_key, arm.key, arm.times, self.tokens, self.steps(arm.times), seed)
        return file_name(f"{arm.name}-{seed}", key)

    def _outcome(self, arm: Arm, trained: Sequence[Any]) -> Outcome:
        curves = tuple(Curve(**t["curve"]) for t in trained)
        first = trained[0]
        return Outcome(
            name=arm.name, times=arm.times, counts=first["counts"], curves=curves, read_tokens=first.get("read_tokens")
        )

    def _untrained(self) -> dict[str, float]:
        target, other = self.measure(self.measure.model.parameters())
        return {"target": float(target.mean()), "other": other}

    @property
    def _kept(self) -> Kept[Any]:
        return Kept(self.out.child(ARMS), JSON)

    def _share(self, names: Sequence[str], *, back: bool) -> None:
        """Take the trainings that other verifications keep, or give them this one's."""
        if self.bank is None:
            return
        folders = (self.out.child(ARMS), self.bank)
        source, target = folders if back else folders[::-1]
        taken = share([f"{name}{JSON.suffix}" for name in names], source, target, self.reporter)
        if taken and not back:
            self.reporter.note(
                f"{taken} trainings and losses of other verifications are used again, from {self.bank.address}."
            )

    @property
    def bank(self) -> Folder | None:
        """Where trainings are shared; None where the selection's run is gone and no place was given."""
        run = self.selected.run
        is_there = run.path.parent.is_dir() if run.folder.is_here else run.folder.exists(run.RECORD)
        banks = self.settings.banks or (banks_beside(run) if is_there else None)
        return None if banks is None else open_folder(banks).child(ARMS)

    @cached_property
    def _shared_key(self) -> str:
        recipe: Mapping[str, Any] = self.recipe.as_dict()
        return key_of(
            2,
            self.proxy.fingerprint(),
            sorted(recipe.items()),
            self.batching.tokens,
            self.proxy.device.type,
            self.settings.points,
            self.measure.target.fingerprint(),
            self.measure.other.fingerprint(),
        )


def file_name(name: str, key: str) -> str:
    """Return the name of the file that keeps a training."""
    return f"{name.replace(' ', '-').replace('%', '')}-{key}"


def enough_tokens(selected: int, step_tokens: float) -> int:
    """Return a selection's tokens, or as many as the least steps of a verdict take, but no more than few passes."""
    return max(selected, min(math.ceil(LEAST_STEPS * step_tokens), MOST_PASSES * selected))
