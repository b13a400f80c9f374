"""Mean of a document's token embeddings, those that the proxy begins with; nothing is passed forward."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from curate.proxies.tokens import Encoded
from curate.students.contract import Inputs, Reader

NEEDS = frozenset({"model"})


def read(inputs: Inputs) -> Reader:
    """Return what looks tokens up in the proxy's input embeddings."""
    embedding = inputs.model[0].model.get_input_embeddings()
    assert isinstance(embedding.weight, Tensor)
    table = embedding.weight.detach().float()

    @torch.no_grad()
    def means(encoded: Sequence[Encoded]) -> np.ndarray:
        lengths = [len(e.ids) for e in encoded]
        ids = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *(e.ids.astype(np.int64) for e in encoded)]))
        starts = torch.tensor(np.cumsum([0, *lengths])[:-1], dtype=torch.int64)
        return embedding_bag(ids.to(table.device), table, starts.to(table.device), mode="mean").cpu().numpy()

    return means
