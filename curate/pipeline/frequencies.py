"""How well token frequencies alone predict a pool's text: a proxy that is no better has learned nothing of it."""

from collections.abc import Iterable

import numpy as np

from curate.documents import Pool
from curate.pipeline.request import first_documents
from curate.proxies.settings import PassSettings
from curate.proxies.tokens import Encoded, Encoder
from curate.scores.run import Run

DOCUMENTS = 32  # of each of the first shards


def record_frequency_loss(run: Run, pool: Pool, settings: PassSettings, encoder: Encoder) -> None:
    """Keep the loss of token frequencies in a run's record, for its report; of the first documents of some shards."""
    if run.record.details.frequency_loss is None:
        documents = first_documents(pool, settings.fields, DOCUMENTS)
        if (loss := frequency_loss(encoder(documents))) is not None:
            run.add_details(frequency_loss=round(loss, 4))


def frequency_loss(documents: Iterable[Encoded]) -> float | None:
    """Return the entropy of single tokens that carry loss, in nats; None where there are none.

    Entropy of a sample is too low, by (kinds - 1) / (2 tokens) in the first order (Miller 1955).
    """
    tokens = np.concatenate([np.zeros(0, np.int32), *(d.ids[d.scored] for d in documents)])
    if not len(tokens):
        return None
    counts = np.unique(tokens, return_counts=True)[1]
    shares = counts / len(tokens)
    return float(-(shares * np.log(shares)).sum() + (len(counts) - 1) / (2 * len(tokens)))
