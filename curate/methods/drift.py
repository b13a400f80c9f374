"""Drift: by which share a document's loss falls when the proxy is trained on the target for a few steps.

What the target teaches lowers the loss of documents like it (arXiv 2605.09404). Two forward passes per document and one
more per group, no gradient of a document and no curvature: an honest baseline for all that have them. The score is
(ℓ_before - ℓ_after) / ℓ_before; every group has a training of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curate.gradients.documents import Batching, document_losses
from curate.gradients.frozen import FrozenPass
from curate.gradients.scored import Scored
from curate.methods.contract import Inputs
from curate.methods.shared.target import usable_groups
from curate.proxies.tokens import Encoded
from curate.settings import option, settings
from curate.training.microbatches import Corpus
from curate.training.recipe import Recipe
from curate.training.replay import Training
from curate.training.snapshots import in_proxys_precision, scoring_proxy, trainable

NEEDS = frozenset({"model", "training"})
STEPS, BATCH = 16, 16


@settings
class Settings:
    """The short training on the target."""

    recipe: Recipe = option(
        factory=lambda: Recipe(steps=STEPS, batch_size=BATCH),
        help="YAML file of the training on the target; --set gives its settings by name.",
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class DriftScorer:
    """Compare documents' losses before and after the trainings."""

    before: FrozenPass
    after: Sequence[FrozenPass]
    """One per column of scores."""

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's drift by each training, and its loss before."""
        before = document_losses(self.before, encoded, batching)
        falls = [before - document_losses(after, encoded, batching) for after in self.after]
        tiny = torch.finfo(before.dtype).tiny
        return Scored(scores=torch.stack(falls, 1) / before.clamp_min(tiny)[:, None], losses=before)


def prepare(inputs: Inputs, settings: Settings) -> DriftScorer:
    """Train on the target, and on each of its groups where there are several, or read what the run keeps."""
    recipe = in_proxys_precision(settings.recipe, inputs.proxy)
    rows, groups = usable_groups(inputs.target, inputs.proxy, inputs.batching, inputs.reporter)
    whole = [inputs.target.encoded[i] for i in rows]
    targets = [whole, *groups.values()] if len(groups) > 1 else [whole]
    keys = inputs.proxy_keys | {
        "target": inputs.target.fingerprint,
        "groups": tuple(inputs.target.groups),
        "recipe": sorted(recipe.as_dict().items()),
    }
    after: list[FrozenPass] = []
    with inputs.reporter.stage("training on the target", total=len(targets), unit="trainings") as stage:
        for column, documents in enumerate(targets):
            parameters = inputs.kept.get(
                "target/drift", keys | {"column": column}, lambda d=documents: _trained(inputs, recipe, d)
            )
            after.append(FrozenPass(scoring_proxy(inputs.proxy, recipe, parameters)))
            stage.advance(1)
    return DriftScorer(before=FrozenPass(inputs.proxy), after=after)


def _trained(inputs: Inputs, recipe: Recipe, documents: Sequence[Encoded]) -> dict[str, Tensor]:
    """Return the proxy's parameters after the training on documents."""
    corpus = Corpus(documents, inputs.batching.tokens, room=inputs.batching.room)
    recipe = replace(recipe, batch_size=min(recipe.batch_size, len(documents)))
    return dict(Training(trainable(inputs.proxy, recipe), corpus, recipe).run().parameters)
