"""Selecting documents, shards or tokens of a run, written as rows or as tokens; only tokens need a tokenizer."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import executors
from curate.errors import SettingsError, nearest
from curate.pipeline.embedding import mean_embedding
from curate.pipeline.token_view import named_tokenizer, proxys_tokenizer, refuse_conflicts, token_view, whole_encoder
from curate.progress import Reporter, Silent
from curate.schema import token_column
from curate.scores.run import Run
from curate.selection.formats import MEGATRON
from curate.selection.ranking import ranking_of
from curate.selection.select import select
from curate.selection.selection import Selection
from curate.selection.token_units import SMOOTHINGS
from curate.selection.tokens import TokenRequest, refuse_without_parts
from curate.selection.values import parse_budget, parse_top
from curate.selection.workers import Workers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from curate.proxies.tokens import Encoder

_WRITTEN_A_SECOND, _TOKENISED_A_SECOND = 5_000_000, 300_000  # tokens, by one worker, about


def run(
    run: Run | Path | str,
    *,
    unit: str = "document",
    top: str | float | int | None = None,
    budget: str | int | None = None,
    documents: str | float | int | None = None,
    smooth: str | None = None,
    format: str = "arrow",
    tokenised: bool = False,
    tokenizer: Path | str | None = None,
    pack: int | None = None,
    map: bool = False,
    out: Path | str | None = None,
    group: str | None = None,
    aggregate: str | None = None,
    workers: int | str = 1,
    reporter: Reporter | None = None,
    **options: Any,
) -> Selection:
    """Narrow a run's documents, and with `unit="token"` their tokens; write them to `out`, as they are or as tokens.

    With `unit="token"` `top` is a share of the tokens that can be chosen or a number of them, `budget` a number;
    `documents` narrows the documents first, to the best: a share or a number. `smooth`: "sentence", "line" or "turn",
    whose tokens have their mean score and are chosen together; "none" by default.
    `tokenised` writes `input_ids` and `labels` alone (-100 where a token carries no loss: prompts, the user's turns),
    whole documents with the tokenizer and chat template of the run's proxy, or with `tokenizer` and its own template.
    `pack` joins them to rows of so many tokens. `format="megatron"` writes the tokens as Megatron-LM reads them. `map`
    adds columns x and y, two principal components of the documents' mean input embeddings in the proxy. `workers`:
    processes that share the writing, shard by shard; "auto": as many as help. They decide no byte. `options`: all else
    that `curate.selection.select.select` takes. Raises CurateError, for a run without scores per token among
    others.
    """
    opened, reporter = run if isinstance(run, Run) else Run.open(run), reporter or Silent()
    choice = executors.choose(workers=workers, device="cpu")
    as_tokens = tokenised or format == MEGATRON
    refuse_conflicts(as_tokens, pack=pack, tokenizer=None if unit == "token" else tokenizer, map=map)
    options |= {"unit": unit, "group": group, "aggregate": aggregate, "format": format, "out": out}
    if unit == "token":
        _refuse_of_tokens(opened, smooth=smooth, format=format, group=group, aggregate=aggregate)
        portion = _portion(top, budget)
        if documents is not None:
            parse_top(documents, "--documents")
        options |= {"top": documents, "tokens": _request(opened, portion, smooth or "none", tokenizer, reporter)}
    else:
        _refuse_alone(documents=documents, smooth=smooth)
        options |= {"top": top, "budget": budget}
    if as_tokens:
        options["view"] = token_view(opened, tokenizer, pack)
    if map and out is not None:
        options["embed"] = mean_embedding(opened)
    options["hire"] = partial(_hired, choice, _TOKENISED_A_SECOND if as_tokens else _WRITTEN_A_SECOND, reporter)
    return select(opened, reporter=reporter, **options)


def _hired(choice: executors.Choice, tokens_per_second: float, reporter: Reporter, tokens: int) -> Workers | None:
    """Return the workers that write documents of so many tokens; None where this process alone does as well."""
    executor = choice.make(seconds=tokens / tokens_per_second)
    return None if executor.is_here else lambda work: executor.hired(work, tokens, reporter)


def _refuse_of_tokens(run: Run, *, smooth: str | None, format: str, group: str | None, aggregate: str | None) -> None:
    """Raise CurateError for settings that tokens cannot be chosen or written by, and for a run without their scores."""
    if format == MEGATRON:
        raise SettingsError(
            "Megatron's files hold no labels: every token would carry loss, chosen or not.",
            hint="Give --tokenised --format arrow, parquet or jsonl.zst.",
        )
    if aggregate == "round-robin":
        raise SettingsError("Groups do not choose tokens in turn.", hint="Leave --aggregate out, or give --group NAME.")
    if smooth not in (None, *SMOOTHINGS):
        raise SettingsError(
            f"smooth is {smooth!r}; expected {', '.join(SMOOTHINGS)}.", hint=nearest(smooth, list(SMOOTHINGS))
        )
    _refuse_unparted(run, group)


def _portion(top: str | float | int | None, budget: str | int | None) -> int | float:
    """Return how many tokens are wanted: a number, or a share of those that can be chosen."""
    if (top is None) == (budget is None):
        raise SettingsError(
            f"--unit token has {'neither' if top is None else 'both'} of --top and --budget; expected one of them.",
            hint="Give --top 20% of the tokens, or --budget 20M.",
        )
    return next(iter(parse_top(top).values())) if top is not None else parse_budget(budget)


def _refuse_alone(**settings: Any) -> None:
    for name, value in settings.items():
        if value is not None:
            raise SettingsError(f"--{name} is given; only tokens have it.", hint="Add --unit token.")


def _refuse_unparted(run: Run, group: str | None) -> None:
    """Raise CurateError for a run without scores per token, which says how to get them."""
    run.refuse_positions()
    record = run.record
    hint = "Score with it into a run of its own: curate score … --per-token --out runs/NAME."
    if record.is_prediction:
        hint = "These scores were predicted from another run's: select from a run of `curate score --per-token`."
    elif record.is_rescoring:
        hint = "Rescore with it into a run of its own: curate rescore … --per-token --out runs/NAME."
    refuse_without_parts(run, token_column(ranking_of(run, by=None, group=group, is_budget=False).column), hint)


def _request(run: Run, portion: int | float, smooth: str, other: Path | str | None, reporter: Reporter) -> TokenRequest:
    from curate.proxies.placed import placed

    encoder = whole_encoder(proxys_tokenizer(run))
    tokenizer, on_chats = None, None
    if other is not None:
        tokenizer = named_tokenizer(other)
        on_chats = _other_template(encoder, tokenizer, str(other))
    normalize = run.record.method_settings.get("normalize", "none")
    if normalize != "none":
        reporter.warn(
            f"the parts of a document's score are divided by its {'tokens' if normalize == 'length' else 'gradient'}"
            f" (normalize={normalize}): tokens of short documents weigh more. --normalize none compares tokens alone."
        )
    return TokenRequest(
        portion=portion,
        smooth=smooth,
        place=partial(placed, encoder),
        tokenizer=tokenizer,
        tokenizer_address=None if other is None else str(other),
        on_chats=on_chats,
    )


def _other_template(encoder: "Encoder", tokenizer: "PreTrainedTokenizerBase", name: str) -> str | None:
    """Return a warning where another tokenizer would write conversations otherwise than the proxy's."""
    from curate.proxies.templates import template_of

    if encoder.chat.template == template_of(tokenizer)[0]:
        return None
    return (
        f"conversations are written by the proxy's chat template, and {name} has another: score with that one"
        " (--chat-template FILE) where a model of it will be trained."
    )
