"""Which background runs a study tries, and which averages of their scores."""

from collections.abc import Mapping, Sequence

import numpy as np
from adjoints import Background, step_of

from curate.methods.magic import SNAPSHOTS

OWN = (0.25, 0.5, 0.75)
EVERYWHERE = (0.03, 0.12, 0.25, 0.4, 0.5, 0.6, 0.75, 0.95)
MIDDLE = (0.5,)
TOGETHER = ((0.25, 0.5), (0.12, 0.5), (0.25, 0.4, 0.5), (0.12, 0.25, 0.4, 0.5, 0.6), EVERYWHERE)
"""Positions of one run whose scores are averaged."""
SETS: Mapping[str, list[Background]] = {
    "runs": [
        Background(name="run 1", positions=EVERYWHERE),
        Background(name="run 2", part=1, positions=MIDDLE),
    ],
    "recipes": [
        Background(name="epsilon 1e-10", recipe={"epsilon": 1e-10}, fewer=True),
        Background(name="epsilon 1e-17", recipe={"epsilon": 1e-17}, fewer=True),
        Background(name="a third of the learning rate", recipe={"learning_rate": 1 / 3}, fewer=True),
        Background(name="three times the learning rate", recipe={"learning_rate": 3}, fewer=True),
        Background(name="a tenth of warm-up", recipe={"warmup": 0.1}, fewer=True),
    ],
    "sizes": [
        Background(name="half the documents", share=0.5, fewer=True),
        Background(name="half the steps", recipe={"steps": 0.5}, fewer=True),
        Background(name="twice the documents", share=2, fewer=True),
        Background(name="twice the steps", recipe={"steps": 2}, fewer=True),
    ],
    "more-runs": [
        Background(name="run 3", part=2, positions=MIDDLE, fewer=True),
        Background(name="run 4", part=3, positions=MIDDLE, fewer=True),
    ],
}
RUNS = [background.name for background in (*SETS["runs"], *SETS["more-runs"])]
COVERED = ("linear layers", "all parameters")


def base_of(steps: int) -> str:
    """Name the scores that others are compared with: what `score --method magic` does unless told otherwise."""
    return f"{together(RUNS[0], SNAPSHOTS, steps)}, {COVERED[0]}"


def together(run: str, positions: Sequence[float], steps: int) -> str:
    """Name the mean over some snapshots of one run."""
    return f"{run}, mean of steps {' '.join(str(step_of(p, steps)) for p in positions)}"


def title(run: str, step: int, covered: str) -> str:
    """Name a snapshot's scores."""
    return f"{run}, step {step}, {covered}"


def averages(scores: Mapping[str, np.ndarray], steps: int) -> dict[str, np.ndarray]:
    """Return means over runs at one step, and over neighbouring steps of one run, where all of them are there.

    Raw, and with every snapshot's scores of a query divided by their spread, so that none drowns the others.
    """
    half, members = step_of(0.5, steps), dict[str, list[tuple[str, int]]]()
    for count in (2, len(RUNS)):
        members[f"mean of {count} runs, step {half}"] = [(run, half) for run in RUNS[:count]]
    for background in (b for several in SETS.values() for b in several):
        own = round(background.recipe.get("steps", 1) * steps)
        for positions in TOGETHER:
            name = together(background.name, positions, own)
            members[name] = [(background.name, step_of(p, own)) for p in positions]
    found = {}
    for name, snapshots in members.items():
        for covered in COVERED:
            names = [title(run, step, covered) for run, step in snapshots]
            if all(n in scores for n in names):
                queries = min(len(scores[n]) for n in names)
                several = [scores[n][:queries] for n in names]
                found[f"{name}, {covered}"] = np.mean(several, axis=0)
                found[f"{name}, weighed, {covered}"] = np.mean([_unit(s) for s in several], axis=0)
    return found


def _unit(scores: np.ndarray) -> np.ndarray:
    spread = scores.std(1, keepdims=True)
    return scores / np.where(spread > 0, spread, 1)
