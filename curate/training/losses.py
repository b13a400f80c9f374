"""Losses of documents under parameters that are handed in, without a gradient."""

import torch
from jaxtyping import Float
from torch import Tensor

from curate.training.language import LanguageModel
from curate.training.microbatches import Corpus
from curate.training.optimisers import Tensors


def mean_losses(model: LanguageModel, parameters: Tensors, corpus: Corpus) -> Float[Tensor, "documents"]:
    """Return every document's mean loss per scored token, in nats and float64; 0 where none is scored.

    Their mean is what `adjoint.target_loss` differentiates.
    """
    device = model.device
    parameters = {n: p.to(device) for n, p in parameters.items()}
    token_losses = torch.zeros(corpus.num_tokens, dtype=torch.float64)
    run = corpus.run("losses", range(len(corpus)), lambda batch: model.losses(parameters, batch).cpu().double())
    for batch, losses in run:
        token_losses.index_add_(0, batch.places[batch.scored], losses[batch.scored])
    return corpus.gather(token_losses) / torch.from_numpy(corpus.scored).clamp_min(1)
