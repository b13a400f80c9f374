"""How a run's documents become tokens in a selection: by its proxy's tokenizer, or by another one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import CurateError, SettingsError
from curate.scores.run import Run
from curate.selection.tokenised import TokenView

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from curate.proxies.settings import ProxySettings
    from curate.proxies.tokens import Encoder

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


def token_view(run: Run, other: Path | str | None = None, pack: int | None = None) -> TokenView:
    """Return how a run's documents are written as tokens, by its proxy's tokenizer or another.

    Raises SettingsError where there is none.
    """
    tokenizer = proxys_tokenizer(run) if other is None else named_tokenizer(other)
    return _view(tokenizer, str(other or run.record.model), pack)


def view_by(proxy: "ProxySettings") -> TokenView:
    """Return how documents are written as tokens by a proxy's tokenizer. Raises SettingsError where there is none."""
    tokenizer = _loaded("model", model=proxy.model, revision=proxy.revision, chat_template=proxy.chat_template)
    return _view(tokenizer, proxy.model)


def _view(tokenizer: "PreTrainedTokenizerBase", name: str, pack: int | None = None) -> TokenView:
    import xxhash

    end: Any = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    words = f"{sorted(tokenizer.get_vocab().items())} {tokenizer.chat_template}"
    return TokenView(
        tokenizer=name,
        fingerprint=xxhash.xxh3_128_hexdigest(words.encode(errors="replace")),
        encode=whole_encoder(tokenizer),
        vocabulary=max(tokenizer.get_vocab().values()) + 1,
        end=end,
        pack=pack,
    )


def proxys_tokenizer(run: Run) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a run's proxy, with the run's chat template. Raises SettingsError where there is none."""
    recorded = run.located_settings
    if not recorded.get("model"):
        raise SettingsError(f"{run.address} has no proxy.", hint="Name a tokenizer: --tokenizer DIR.")
    return _loaded("model", **{n: recorded[n] for n in ("model", "revision", "chat_template") if n in recorded})


def named_tokenizer(address: Path | str) -> "PreTrainedTokenizerBase":
    """Load a tokenizer by its address. Raises SettingsError where there is none."""
    return _loaded("tokenizer", model=str(address))


def _loaded(setting: str, /, **settings: Any) -> "PreTrainedTokenizerBase":
    from curate.proxies.proxy import load_proxys_tokenizer
    from curate.proxies.settings import ProxySettings

    try:
        return load_proxys_tokenizer(ProxySettings(**settings), setting=setting)
    except CurateError as error:
        hint = "Name another one: --tokenizer DIR." if setting == "model" else error.hint
        raise SettingsError(error.message, hint=hint) from error


def whole_encoder(tokenizer: "PreTrainedTokenizerBase", vocabulary: int | None = None) -> "Encoder":
    """Return what encodes documents of which nothing is cut off, for a model with so many embeddings."""
    from curate.proxies.tokens import Encoder, TokenSettings

    # What is to be cut into windows is encoded whole.
    return Encoder(tokenizer, TokenSettings(context=SHORTEST, long="windows", vocabulary=vocabulary))
