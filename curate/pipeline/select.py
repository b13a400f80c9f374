"""Select documents by a run's scores, and write them as they are or as tokens. Imports torch for tokens alone."""

from pathlib import Path
from typing import Any

from curate.errors import SettingsError
from curate.scores.run import Run
from curate.selection.formats import MEGATRON
from curate.selection.select import Selection, select
from curate.selection.tokenised import TokenView

_SHORTEST = 2


def run(
    run: Run,
    *,
    format: str = "arrow",
    tokenised: bool = False,
    tokenizer: Path | str | None = None,
    pack: int | None = None,
    out: Path | str | None = None,
    **how: Any,
) -> Selection:
    """Narrow a run's documents by filters, then by size; write them to `out`, as they are or as tokens.

    `tokenised` writes `input_ids` and `labels` (-100 where a token carries no loss: prompts, the user's turns), whole
    documents with the tokenizer and chat template of the run's proxy, or with `tokenizer` and its own template. `pack`
    joins them to rows of so many tokens. `format="megatron"` writes the tokens as Megatron-LM reads them. `how`: all
    else that `curate.selection.select.select` takes, `filters`, `top` and `budget` among it. Raises CurateError.
    """
    is_of_tokens = tokenised or format == MEGATRON
    for name, value in (("pack", pack), ("tokenizer", tokenizer)):
        if value is not None and not is_of_tokens:
            raise SettingsError(f"{name} is {value}; documents are written as they are.", hint="Give --tokenised, too.")
    if pack is not None and pack < _SHORTEST:
        raise SettingsError(f"pack is {pack}; expected at least {_SHORTEST} tokens.")
    tokens = token_view(run, tokenizer, pack) if is_of_tokens and out is not None else None
    return select(run, format=format, tokens=tokens, out=out, **how)


def token_view(
    run: Run, tokenizer: Path | str | None = None, pack: int | None = None, *, offsets: bool = False
) -> TokenView:
    """Return how a run's documents are written as tokens; `offsets`: so that spans can choose among them.

    Raises CurateError where there is no tokenizer, or it gives no offsets.
    """
    import xxhash

    from curate.proxies.proxy import tokenizer_of
    from curate.proxies.settings import ProxySettings
    from curate.proxies.tokens import Encoder, TokenSettings

    recorded = run.located_settings
    if tokenizer is None and not recorded.get("model"):
        raise SettingsError(f"{run.address} has no proxy.", hint="Name a tokenizer: --tokenizer DIR.")
    names = ("model", "revision", "chat_template") if tokenizer is None else ()
    settings = ProxySettings(**({"model": str(tokenizer)} | {n: recorded[n] for n in names if recorded.get(n)}))
    opened = tokenizer_of(settings)
    # What is to be cut into windows is encoded whole.
    encode = Encoder(opened, TokenSettings(context=_SHORTEST, long="windows", offsets=offsets))
    end = opened.eos_token_id if opened.eos_token_id is not None else opened.sep_token_id
    words = f"{sorted(opened.get_vocab().items())} {opened.chat_template}"
    return TokenView(
        tokenizer=str(tokenizer) if tokenizer is not None else run.record.settings["model"],
        fingerprint=xxhash.xxh3_128_hexdigest(words.encode(errors="replace")),
        encode=encode,
        vocabulary=max(opened.get_vocab().values()) + 1,
        end=end,
        pack=pack,
    )
