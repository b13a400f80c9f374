"""Compare arms on one proxy: train each, measure all on the same rows, reuse the arms already trained."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from curate.documents import Fields, Overlap, read_target
from curate.documents.set_aside import sentences
from curate.folders.codecs import JSON
from curate.folders.folder import Folder
from curate.folders.kept import Kept
from curate.folders.local import open_folder
from curate.gradients.documents import Batching
from curate.progress import Reporter, Task
from curate.proof.arms import ALL, Arm
from curate.proof.choices import Choices
from curate.proof.fitting import Curve, Measure, fit
from curate.proof.places import draw
from curate.proof.progress import ARMS, UNTRAINED
from curate.proof.reading import usable
from curate.proof.selection import Selected
from curate.proof.settings import VerifySettings
from curate.proof.sharing import share
from curate.proof.spool import Excluded, SpooledCorpus, key_of, spooled, token_batches
from curate.proof.verdict import LEAST_STEPS, Outcome, Verification
from curate.proxies.proxy import Proxy
from curate.proxies.tokens import Encoder
from curate.schema import Document
from curate.training.microbatches import Corpus
from curate.training.recipe import Recipe
from curate.training.snapshots import in_proxys_precision, trainable

MOST_PASSES = 4
"""Over a small selection, from which on another pass teaches little (arXiv 2305.16264)."""
_OTHER_SEED = 7919  # keeps the sample of other text apart from the random arms' draws


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All arms on one proxy."""

    settings: VerifySettings
    selected: Selected
    fields: Fields
    """Of the pool's documents."""
    held_out: Sequence[Document]
    out: Path
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
        model = trainable(self.proxy, self.recipe)
        target, other = (self._corpus(usable(documents, self.encoder)[1]) for documents in (self.held_out, self.other))
        return Measure(model=model, target=target, other=other)

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

    def compare(self) -> Verification:
        arms = self.choices.arms(self.tokens, self.settings.all_times)
        shared = self._shared_key()
        trainings = [(arm, seed) for arm in arms for seed in range(self.settings.seeds)]
        names = [self._name(UNTRAINED, key_of(shared)), *(self._name(*self._key(arm, seed)) for arm, seed in trainings)]
        self._share(names, back=False)
        untrained = self._kept(UNTRAINED, key_of(shared), self._untrained)
        curves: dict[str, list[Curve]] = {arm.name: [] for arm in arms}
        counts: dict[str, dict[str, int]] = {}
        total, last_arm = sum(self.steps(arm.times) for arm, _ in trainings), arms[-1]
        longer = f"; {ALL}: {last_arm.times:.3g} times as many" if last_arm.name == ALL else ""
        self.reporter.note(
            f"{len(trainings)} trainings ({len(arms)} arms, {self.settings.seeds} seeds) of {self.tokens:,} tokens in"
            f" {self.steps(1)} steps each{longer}."
        )
        if self.settings.tokens is None and self.tokens > self.selected.budget:
            self.reporter.note(
                f"the selection's {self.selected.tokens:,} tokens are too few for {LEAST_STEPS} steps: its arm trains"
                f" on {self.tokens / self.selected.tokens:.2g} passes over them."
            )
        with self.reporter.stage("training", total=total, unit="steps") as task:
            for arm, seed in trainings:
                make = partial(self._trained, arm, seed, untrained, task)
                trained = self._kept(*self._key(arm, seed), make)
                curves[arm.name].append(Curve(**trained["curve"]))
                counts.setdefault(arm.name, trained["counts"])
        self._share(names, back=True)
        self._folder.remove("spools")
        outcomes = tuple(
            Outcome(name=a.name, times=a.times, counts=counts[a.name], curves=tuple(curves[a.name])) for a in arms
        )
        return Verification(
            selection=str(self.settings.selection),
            tokens=self.tokens,
            steps=self.steps(1),
            held_out=len(self.measure.target),
            others=len(self.measure.other),
            outcomes=outcomes,
            untrained=untrained,
            out=str(self.out),
        )

    def _trained(self, arm: Arm, seed: int, untrained: dict[str, float], task: Task) -> dict[str, Any]:
        """Train one arm from one seed."""
        name = f"{arm.name}-{seed}" if arm.per_seed else arm.name
        folder = self.out / "spools" / f"{name}-{key_of(self._shared_key(), arm.key, arm.per_seed and seed)}"
        counts = spooled(
            folder, lambda: arm.documents(seed), self.encoder, self.excluded, what=name, reporter=self.reporter
        )
        corpus = SpooledCorpus(folder, self.batching.tokens, room=self.batching.room)
        recipe = replace(self.recipe, seed=self.recipe.seed + seed)
        steps = self.steps(arm.times)
        batches = token_batches(corpus.scored, tokens=round(arm.times * self.tokens), steps=steps, seed=recipe.seed)
        curve = fit(self.measure, corpus, recipe, batches, points=self.settings.points, untrained=untrained, task=task)
        if arm.per_seed:
            self._folder.remove(f"spools/{folder.name}")
        return {"curve": curve.as_dict(), "counts": counts}

    def _untrained(self) -> dict[str, float]:
        target, other = self.measure(self.measure.model.parameters())
        return {"target": float(target.mean()), "other": other}

    def _kept(self, name: str, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the value kept under this key; make it first if need be."""
        return Kept(self._folder.child(ARMS), JSON).at(self._name(name, key), make)

    def _key(self, arm: Arm, seed: int) -> tuple[str, str]:
        """Return a training's name for people, and a hash of all that decides it."""
        key = key_of(self._shared_key(), arm.key, arm.times, self.tokens, self.steps(arm.times), seed)
        return f"{arm.name}-{seed}", key

    def _name(self, name: str, key: str) -> str:
        return f"{name.replace(' ', '-').replace('%', '')}-{key}"

    def _share(self, names: Sequence[str], *, back: bool) -> None:
        """Take the trainings that other verifications keep, or give them this one's."""
        if self.bank is None:
            return
        folders = (self._folder.child(ARMS), open_folder(self.bank))
        source, target = folders if back else folders[::-1]
        taken = share([f"{name}{JSON.suffix}" for name in names], source, target, self.reporter)
        if taken and not back:
            self.reporter.note(f"{taken} trainings and losses of other verifications are used again, from {self.bank}.")

    @property
    def bank(self) -> Path | None:
        """Where trainings are shared; None where the selection's run is gone and no place was given."""
        runs = self.selected.run.path.parent
        banks = Path(self.settings.banks) if self.settings.banks else runs / "banks" if runs.is_dir() else None
        return None if banks is None else banks / ARMS

    @property
    def _folder(self) -> Folder:
        return open_folder(self.out)

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

    def _corpus(self, documents: Sequence[Any]) -> Corpus:
        return Corpus(documents, self.batching.tokens, room=self.batching.room)


def enough_tokens(selected: int, step_tokens: float) -> int:
    """Return a selection's tokens, or as many as the least steps of a verdict take, but no more than few passes."""
    return max(selected, min(math.ceil(LEAST_STEPS * step_tokens), MOST_PASSES * selected))
