"""Plot the figures as PNG files, with reproducible bytes."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from curate.folders.local import put_file

_ACROSS, _INCHES = 3, 3.6
_COLOURS = ("#1f4e8c", "#c8553d", "#2f855a", "#8c6bb1", "#b7791f", "#4a5568", "#319795", "#97266d")


def predicted_against_measured(
    predicted: Mapping[str, np.ndarray], measured: np.ndarray, titles: Mapping[str, str], path: Path | str
) -> None:
    """Draw a panel per method: every retraining and query a point, each query in its own standard deviations.

    Arrays are `[subsets, queries]`; without standardising, few queries of large changes would fill the picture.
    """
    across = min(_ACROSS, len(predicted))
    down = -(-len(predicted) // across)
    figure = Figure(figsize=(_INCHES * across, _INCHES * down), layout="constrained")
    change = _standardised(measured)
    for i, (name, values) in enumerate(predicted.items()):
        axes = figure.add_subplot(down, across, i + 1)
        axes.plot(_standardised(values).ravel(), change.ravel(), ".", markersize=2, alpha=0.35, color=_COLOURS[0])
        axes.axline((0, 0), slope=1, color="#999999", linewidth=0.8)
        axes.set_title(titles[name], fontsize=9)
        axes.set_xlabel("predicted rise of loss (σ of its query)", fontsize=8)
        axes.set_ylabel("measured rise of loss (σ of its query)", fontsize=8)
        axes.tick_params(labelsize=7)
    _save(figure, path)


def learning_curves(arms: Sequence[Mapping[str, Any]], untrained: Mapping[str, float], path: Path | str) -> None:
    """Draw the loss of the target, and of other text, by tokens trained on: a line per arm, the seeds' range around it.

    Each arm: `name`, `tokens` `[points]`, and `target` and `other` `[seeds][points]`.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for i, (kind, title) in enumerate((("target", "held-out target"), ("other", "other text"))):
        axes = figure.add_subplot(1, 2, i + 1)
        axes.axhline(untrained[kind], color="#999999", linewidth=0.8, linestyle="--", label="untrained")
        for j, arm in enumerate(arms):
            losses, tokens = np.array(arm[kind]), np.array(arm["tokens"])
            colour, style = _COLOURS[j % len(_COLOURS)], "-" if j < len(_COLOURS) else ":"
            axes.plot(tokens, losses.mean(0), style, color=colour, linewidth=1.4, label=arm["name"])
            axes.fill_between(tokens, losses.min(0), losses.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("tokens trained on", fontsize=9)
        axes.set_ylabel("loss, nats per token", fontsize=9)
        axes.tick_params(labelsize=8)
    figure.axes[0].legend(fontsize=8)
    _save(figure, path)


def _standardised(values: np.ndarray) -> np.ndarray:
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 0, spread, 1)


def _save(figure: Figure, path: Path | str) -> None:
    FigureCanvasAgg(figure)
    put_file(path, partial(figure.savefig, format="png", dpi=150, metadata={"Software": None}))
