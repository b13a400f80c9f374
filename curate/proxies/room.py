"""How many tokens go through a device at once: as many as its memory holds, learnt from the batches themselves.

The first batches are small, and what they needed tells how large the next may be. A batch that does not fit after all
is halved. So no run ends for a number that changes its rounding alone, and none needs to be told that number.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeVar

import torch

from curate.errors import CurateError, memory_is_out
from curate.memory import free_bytes, peak_of, release_memory

FIRST_TOKENS, GROWTH = 1024, 4
# Of the memory that is free: blocks of other sizes leave gaps, and later batches have longer sequences.
SHARE = 0.7
LEAST_TOKENS = 64


class Batch(Sized, Protocol):
    """Sequences that go through a device together."""

    @property
    def num_tokens(self) -> int:
        """Tokens, padding included."""
        ...

    def halves(self) -> tuple[Self, Self]:
        """Return the first half of the sequences and the second."""
        ...


B = TypeVar("B", bound=Batch)
R = TypeVar("R")


class Room:
    """The most tokens of a batch, for every kind of work by itself."""

    def __init__(
        self,
        most: int,
        *,
        device: torch.device | None = None,
        learns: bool = False,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """Take `most` tokens, padding included; with `learns` fewer, until the device has shown that more fit.

        `note` is told, once, when memory was out.
        """
        self.most, self.device, self.learns = most, device or torch.device("cpu"), learns
        self._note, self._told = note, False
        self._limits: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._needs: dict[str, dict[int, int]] = {}
        """Bytes by tokens of the batches so far."""
        self._last: dict[str, Batch] = {}

    def tokens(self, work: str) -> int:
        """Return the tokens that the next batch of this work may have."""
        return self._tokens.get(work, min(self.most, FIRST_TOKENS) if self.learns else self.most)

    def begin_anew(self, work: str) -> None:
        """Forget how large this work's batches were, but not that memory was out: so that equal work has equal batches,
        whatever was done before."""
        if self.learns:
            self._tokens.pop(work, None)
            self._needs.pop(work, None)

    def run(self, work: str, batches: Iterable[B], step: Callable[[B], R]) -> Iterator[tuple[B, R]]:
        """Yield each batch with what `step` returns for it; halve a batch that does not fit, and try again.

        `step` must leave nothing behind that a second try would add to. Raises CurateError when one sequence is too
        long for the device.
        """
        for batch in batches:
            waiting = [batch]
            while waiting:
                part = waiting.pop()
                try:
                    with self.watched(work, part):
                        result = step(part)
                except Exception as error:
                    self._shrink(work, error)
                else:
                    yield part, result
                    continue
                release_memory(self.device)  # after the error is gone, which holds on to what was computed
                first, second = part.halves()
                waiting += [second, first]

    def whole(self, work: str, attempt: Callable[[], R]) -> R:
        """Return what `attempt` does, which begins anew with smaller batches when one does not fit.

        It asks `tokens` for the size of its batches, and runs each inside `watched`.
        """
        while True:
            try:
                return attempt()
            except Exception as error:
                self._shrink(work, error)
            release_memory(self.device)

    @contextmanager
    def watched(self, work: str, batch: Batch) -> Iterator[None]:
        """Learn from what a batch needs inside the block."""
        self._last[work] = batch
        if not self.learns:
            yield
            return
        with peak_of(self.device) as held:
            yield
        for needed in held:
            self._learn(work, batch.num_tokens, needed)

    def foreseen_bytes(self) -> int:
        """Return what the largest batches will need beside the model, as far as this room has learnt it; or 0."""
        return max((round(self._per_token(work) * self.tokens(work)) for work in self._needs), default=0)

    def _per_token(self, work: str) -> float:
        """Return bytes per token; small batches need more than large ones do, for what comes once per batch."""
        needs = self._needs[work]
        return max(1.0, *(needed / tokens for tokens, needed in needs.items() if 2 * tokens >= max(needs)))

    def _learn(self, work: str, tokens: int, needed: int) -> None:
        free = free_bytes(self.device)
        if free is None or not tokens:
            return
        needs = self._needs.setdefault(work, {})
        needs[tokens] = max(needed, needs.get(tokens, 0))
        fitting = int(SHARE * free / self._per_token(work))
        limit = min(self.most, self._limits.get(work, self.most), GROWTH * max(*needs, FIRST_TOKENS))
        self._tokens[work] = max(LEAST_TOKENS, _power_of_two(min(fitting, limit)) if fitting < self.most else limit)

    def _shrink(self, work: str, error: Exception) -> None:
        """Halve the batches of this work after an error that means so; raise every other error."""
        batch = self._last.pop(work, None)  # an error before the next batch is not that batch's
        if not memory_is_out(error) or batch is None:
            raise error
        if len(batch) < 2:
            raise CurateError(
                f"One sequence of {batch.num_tokens:,} tokens does not fit into the memory of {self.device}.",
                hint="Give a smaller --context, --dtype bfloat16, or a smaller proxy.",
            ) from None
        self._limits[work] = self._tokens[work] = max(1, batch.num_tokens // 2)
        if self._note is not None and not self._told:
            self._note(
                f"{self.device} ran out of memory with a batch of {batch.num_tokens:,} tokens;"
                f" batches have at most {self._limits[work]:,} from now on (--batch-tokens sets this from the start)."
            )
        self._told = True

    def elsewhere(self, device: torch.device) -> "Room":
        """Return a room of the same kind on another device, which has learnt nothing yet."""
        return Room(self.most, device=device, learns=self.learns)

    def __getstate__(self) -> dict[str, Any]:
        """What one process has learnt is no other's: each may have a device of its own."""
        empty = {n: {} for n in ("_limits", "_tokens", "_needs", "_last")}
        return vars(self) | empty | {"_note": None}


def _power_of_two(number: int) -> int:
    """Return the largest power of two that is no larger: free memory differs from run to run, this seldom does."""
    return 1 << max(0, number.bit_length() - 1)
