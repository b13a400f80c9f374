"""The documents of a training run: their tokens, weights, order, and the batches that fit into memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor

from curate.errors import CurateError
from curate.proxies.devices import sent
from curate.proxies.room import Room
from curate.proxies.tokens import IGNORED, Encoded, TokenBatch, TokenSettings, batches
from curate.training.recipe import Recipe

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Sequences that go through the model together, and whose tokens they predict."""

    batch: TokenBatch
    places: Int[Tensor, "sequences tokens"]
    """Where the predicted token lies among all tokens of the `Corpus`; 0 where nothing is scored, as token 0 never is.
    """

    @property
    def scored(self) -> Tensor:
        return self.batch.labels != IGNORED

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def num_tokens(self) -> int:
        """Tokens, padding included."""
        return self.batch.num_tokens

    def halves(self) -> tuple["MicroBatch", "MicroBatch"]:
        """Return the first half of the sequences and the second."""
        middle = len(self) // 2
        first, second = self.batch.halves()
        return MicroBatch(batch=first, places=self.places[:middle]), MicroBatch(
            batch=second, places=self.places[middle:]
        )

    def to(self, device: torch.device) -> "MicroBatch":
        return MicroBatch(batch=self.batch.to(device), places=sent(self.places, device))


class Corpus:
    """Encoded documents in a fixed order; every token has a place among all their tokens."""

    def __init__(self, documents: Sequence[Encoded], settings: TokenSettings, *, room: Room) -> None:
        """`room` says how many tokens a micro-batch has."""
        self.documents, self.settings, self.room = tuple(documents), settings, room
        self.starts = np.concatenate([[0], np.cumsum([len(d.ids) for d in documents])]).astype(np.int64)
        self.scored = np.array([d.num_scored for d in documents], np.int64)
        if not self.scored.any():
            raise CurateError(
                f"None of {len(documents)} documents has a token that counts as loss.",
                hint="Documents need at least two tokens, and chat or prompt/completion rows an answer.",
            )

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def num_tokens(self) -> int:
        return int(self.starts[-1])

    def spread(self, values: Float[Tensor, "documents"]) -> Float[Tensor, "all_tokens"]:
        """Give every token its document's value."""
        return values.repeat_interleave(torch.from_numpy(np.diff(self.starts)))

    def gather(self, values: Float[Tensor, "all_tokens"]) -> Float[Tensor, "documents"]:
        """Add up every document's tokens."""
        owner = torch.arange(len(self)).repeat_interleave(torch.from_numpy(np.diff(self.starts)))
        return torch.zeros(len(self), dtype=values.dtype).index_add_(0, owner, values)

    def split(self, values: Float[Tensor, "all_tokens"]) -> list[Tensor]:
        """Cut a value per token into a tensor per document."""
        return list(values.split(np.diff(self.starts).tolist()))

    def run(
        self, work: str, documents: Sequence[int], step: Callable[[MicroBatch], R]
    ) -> Iterator[tuple[MicroBatch, R]]:
        """Yield these documents' micro-batches, each with what `step` returns for it; see `Room.run`."""
        return self.room.run(work, self.microbatches(documents, work), step)

    def microbatches(self, documents: Sequence[int], work: str = "gradients") -> Iterator[MicroBatch]:
        """Yield these documents' sequences, shortest first, as many at a time as the room has for this work."""
        pieces = [(i, start, piece) for i in documents for start, piece in self._windows(self.documents[i])]
        sequences = {n: piece for n, (_, _, piece) in enumerate(pieces)}
        for batch in batches(sequences, self.settings, budget=lambda: self.room.tokens(work)):
            places = torch.zeros_like(batch.labels)
            for i, n in enumerate(batch.documents):
                document, start, piece = pieces[n]
                begin = int(self.starts[document]) + start + 1  # what position 0 predicts
                places[i, : len(piece.ids) - 1] = torch.arange(begin, begin + len(piece.ids) - 1)
            owners = tuple(pieces[n][0] for n in batch.documents)
            places.masked_fill_(batch.labels == IGNORED, 0)
            yield MicroBatch(batch=TokenBatch(ids=batch.ids, labels=batch.labels, documents=owners), places=places)

    def _windows(self, document: Encoded) -> Iterator[tuple[int, Encoded]]:
        """Yield (start, window) of every window that carries loss, one token shared between neighbours."""
        ids, context = document.ids, self.settings.context
        for start in range(0, max(1, len(ids) - 1), context - 1):
            scored = document.scored[start : start + context].copy()
            scored[:1] = False
            if scored.any():
                yield start, Encoded(ids=ids[start : start + context], scored=scored, truncated=False)

    def fingerprint(self) -> str:
        """Return a hash of all tokens and of which of them count, in order."""
        digest = xxhash.xxh3_128(repr((self.settings, len(self))).encode())
        for document in self.documents:
            digest.update(np.int64(len(document.ids)).tobytes())
            digest.update(np.ascontiguousarray(document.ids, np.int32).tobytes())
            digest.update(np.ascontiguousarray(document.scored, bool).tobytes())
        return digest.hexdigest()


def order(recipe: Recipe, documents: int) -> list[tuple[int, ...]]:
    """Return the documents of every step: one seeded permutation after the other, cut into batches of equal size.

    A batch may reach over the end of an epoch, so that none is smaller than the others.
    """
    steps, size = recipe.num_steps(documents), recipe.batch_size
    epochs = -(-steps * size // documents)
    permutations = [np.random.default_rng([recipe.seed, e]).permutation(documents) for e in range(epochs)]
    stream = np.concatenate(permutations)
    return [tuple(int(i) for i in stream[k * size : (k + 1) * size]) for k in range(steps)]
