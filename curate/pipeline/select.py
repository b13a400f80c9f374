"""Select documents by a run's scores, and write them as they are or as tokens. Imports torch for tokens alone."""

from pathlib import Path
from typing import Any

from curate.pipeline.embedding import mean_embedding
from curate.pipeline.token_view import refuse_conflicts, token_view
from curate.scores.run import Run
from curate.selection.formats import MEGATRON
from curate.selection.select import Selection, select


def run(
    run: Run,
    *,
    format: str = "arrow",
    tokenised: bool = False,
    tokenizer: Path | str | None = None,
    pack: int | None = None,
    map: bool = False,
    out: Path | str | None = None,
    **how: Any,
) -> Selection:
    """Narrow a run's documents by filters, then by size; write them to `out`, as they are or as tokens.

    `tokenised` writes `input_ids` and `labels` (-100 where a token carries no loss: prompts, the user's turns), whole
    documents with the tokenizer and chat template of the run's proxy, or with `tokenizer` and its own template. `pack`
    joins them to rows of so many tokens. `format="megatron"` writes the tokens as Megatron-LM reads them. `map`
    adds columns x and y, two principal components of the documents' mean input embeddings in the proxy. `how`: all else
    that `curate.selection.select.select` takes, `filters`, `top` and `budget` among it. Raises CurateError.
    """
    is_of_tokens = tokenised or format == MEGATRON
    refuse_conflicts(is_of_tokens, pack=pack, tokenizer=tokenizer, map=map)
    view = token_view(run, tokenizer, pack) if is_of_tokens and out is not None else None
    embed = mean_embedding(run) if map and out is not None else None
    return select(run, format=format, view=view, embed=embed, out=out, **how)
