"""Which background runs a study tries, and which averages of their scores."""

from collections.abc import Mapping

import numpy as np
from adjoints import Background, step_of

OWN = (0.25, 0.5, 0.75)
EVERYWHERE = (0.03, 0.12, 0.25, 0.4, 0.5, 0.6, 0.75, 0.95)
AROUND = ((0.4, 0.5, 0.6), (0.25, 0.4, 0.5, 0.6, 0.75))
SETS: Mapping[str, list[Background]] = {
    "runs": [
        Background(name="run 1", positions=EVERYWHERE),
        Background(name="run 2", part=1),
    ],
    "more-runs": [
        Background(name="run 3", part=2),
        Background(name="run 4", part=3),
    ],
    "sizes": [
        Background(name="half the documents", share=0.5, fewer=True),
        Background(name="twice the documents", share=2, fewer=True),
        Background(name="half the steps", recipe={"steps": 0.5}, fewer=True),
        Background(name="twice the steps", recipe={"steps": 2}, fewer=True),
    ],
    "recipes": [
        Background(name="epsilon 1e-17", recipe={"epsilon": 1e-17}, fewer=True),
        Background(name="epsilon 1e-10", recipe={"epsilon": 1e-10}, fewer=True),
        Background(name="three times the learning rate", recipe={"learning_rate": 3}, fewer=True),
        Background(name="a third of the learning rate", recipe={"learning_rate": 1 / 3}, fewer=True),
        Background(name="a tenth of warm-up", recipe={"warmup": 0.1}, fewer=True),
    ],
}
RUNS = [background.name for background in (*SETS["runs"], *SETS["more-runs"])]
COVERED = ("linear layers", "all parameters")


def middle(steps: int) -> str:
    """Name the scores that others are compared with: one run, the step in its middle, what the tool tracks."""
    return title(RUNS[0], step_of(0.5, steps), COVERED[0])


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
    for positions in AROUND:
        those = [step_of(position, steps) for position in positions]
        members[f"{RUNS[0]}, mean of steps {' '.join(map(str, those))}"] = [(RUNS[0], s) for s in those]
    found = {}
    for name, snapshots in members.items():
        for covered in COVERED:
            names = [title(run, step, covered) for run, step in snapshots]
            if all(n in scores for n in names):
                found[f"{name}, {covered}"] = np.mean([scores[n] for n in names], axis=0)
                found[f"{name}, weighed, {covered}"] = np.mean([_unit(scores[n]) for n in names], axis=0)
    return found


def _unit(scores: np.ndarray) -> np.ndarray:
    spread = scores.std(1, keepdims=True)
    return scores / np.where(spread > 0, spread, 1)
