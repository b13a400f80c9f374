"""How a run's documents become tokens in a selection: by its proxy's tokenizer, or by another one."""

from pathlib import Path
from typing import Any

from curate.errors import CurateError, SettingsError
from curate.scores.run import Run
from curate.selection.tokenised import TokenView

SHORTEST = 2
"""Tokens of a row: a first one, and one that it predicts."""


def refuse_conflicts(is_of_tokens: bool, *, pack: int | None, tokenizer: Path | str | None, map: bool) -> None:
    """Raise SettingsError for settings of tokens where none are written, and of rows where none are."""
    if map and is_of_tokens:
        raise SettingsError("Rows of tokens have no place on a map.", hint="Leave --map out, or --tokenised.")
    for name, value in (("pack", pack), ("tokenizer", tokenizer)):
        if value is not None and not is_of_tokens:
            raise SettingsError(f"{name} is {value}; documents are written as they are.", hint="Give --tokenised, too.")
    if pack is not None and pack < SHORTEST:
        raise SettingsError(f"pack is {pack}; expected at least {SHORTEST} tokens.")


def token_view(run: Run, tokenizer: Path | str | None = None, pack: int | None = None) -> TokenView:
    """Return how a run's documents are written as tokens. Raises CurateError where there is no tokenizer."""
    import xxhash

    from curate.proxies.proxy import load_proxys_tokenizer
    from curate.proxies.settings import ProxySettings
    from curate.proxies.tokens import Encoder, TokenSettings

    recorded = run.located_settings
    if tokenizer is None and not recorded.get("model"):
        raise SettingsError(f"{run.address} has no proxy.", hint="Name a tokenizer: --tokenizer DIR.")
    settings = ProxySettings(
        model=str(tokenizer or recorded["model"]),
        revision=None if tokenizer else recorded.get("revision"),
        chat_template=None if tokenizer else recorded.get("chat_template"),
    )
    try:
        opened = load_proxys_tokenizer(settings)
    except CurateError as error:
        raise SettingsError(
            f"{settings.model} gives no tokenizer: {error.message}", hint="Name another one: --tokenizer DIR."
        ) from error
    # What is to be cut into windows is encoded whole.
    encode = Encoder(opened, TokenSettings(context=SHORTEST, long="windows"))
    end: Any = opened.eos_token_id if opened.eos_token_id is not None else opened.sep_token_id
    words = f"{sorted(opened.get_vocab().items())} {opened.chat_template}"
    return TokenView(
        tokenizer=str(tokenizer or run.record.model),
        fingerprint=xxhash.xxh3_128_hexdigest(words.encode(errors="replace")),
        encode=encode,
        vocabulary=max(opened.get_vocab().values()) + 1,
        end=end,
        pack=pack,
    )
