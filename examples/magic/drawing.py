"""Documents of a pool that a model's warm-up has not seen, all of one length."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from curate.documents import Fields, open_pool, sample_rows
from curate.errors import CurateError
from curate.proxies.tokens import Encoded, Encoder, TokenSettings
from curate.schema import Document

CANDIDATES = 3  # times as many documents are drawn as are needed, since short ones and copies are left out
CHARACTERS = 16  # a token has fewer


def draw(
    model: str, pools: Sequence[str], tokenizer: PreTrainedTokenizerBase, tokens: int, count: int, seed: int
) -> list[Encoded]:
    """Return the first `tokens` tokens of `count` documents, in seeded order, no two of them alike.

    Raises CurateError when the pool has too few that are long enough.
    """
    seen = seen_in_warmup(model)
    drawn = sample_rows(open_pool(pools), CANDIDATES * count + len(seen), seed + 1, Fields())
    fresh = [d for d in drawn if d.content_hash not in seen and d.text is not None]
    cut = [replace(d, text=(d.text or "")[: CHARACTERS * tokens]) for d in fresh]
    encoded = [e for e in Encoder(tokenizer, TokenSettings(context=tokens))(cut) if len(e.ids) == tokens]
    distinct = list({e.ids.tobytes(): e for e in encoded}.values())
    if len(distinct) < count:
        raise CurateError(
            f"{', '.join(pools)}: {len(distinct)} documents of {tokens} tokens that the model has not seen;"
            f" the study takes {count}.",
            hint="Give a larger pool, or fewer --documents, --background-runs or --tokens.",
        )
    order = np.random.default_rng(seed).permutation(len(distinct))[:count]
    # Methods that read words read what the others see.
    return [replace(distinct[i], text=tokenizer.decode(distinct[i].ids)) for i in order]


def seen_in_warmup(model: str) -> frozenset[str]:
    """Return the content hashes of the sample that `curate warmup` drew for this model; none for any other model."""
    path = Path(model) / "warmup.json"
    if not path.exists():
        return frozenset()
    record = json.loads(path.read_text(encoding="utf-8"))
    settings = record["settings"]
    pool, fields = open_pool(record["pool"]["address"]), Fields(**settings["fields"])
    if pool.fingerprint() != record["pool"]["fingerprint"]:
        raise CurateError(f"The pool that {model} was warmed up on has changed; its documents cannot be kept apart.")
    sample: list[Document] = sample_rows(pool, settings["documents"], settings["seed"], fields)
    return frozenset(d.content_hash for d in sample)
