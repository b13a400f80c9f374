"""LoRA adapters as settings, also in the form `r=8,alpha=16,dropout=0.1,targets=q_proj+v_proj`. Free of torch."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from curate.amounts import parse_int
from curate.errors import SettingsError
from curate.settings import Count, Number, above, build, least, option, settings

_EXAMPLE = "As in r=8,alpha=16,dropout=0.1,targets=q_proj+v_proj, or a rank alone."


def _joined(value: Any) -> Any:
    """Turn layers joined by + into a list of them."""
    return [t.strip() for t in value.split("+")] if isinstance(value, str) else value


@settings
class Lora:
    """Which adapters a model gets (Hu et al. 2021, arXiv 2106.09685); they alone are trained."""

    r: Annotated[Count, least(1)] = option(help="Rank.")
    alpha: Annotated[Number, above(0)] | None = option(default=None, help="Scale: α/r.", shown="twice the rank")
    dropout: Annotated[Number, Field(ge=0, lt=1)] = option(default=0.0, help="Of an adapter's input.")
    targets: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_joined)] = option(
        default=(), help="Ends of the names of layers that get adapters.", shown="every linear layer of the decoder"
    )

    @property
    def scale(self) -> float:
        """α: the given one, or twice the rank."""
        return self.alpha if self.alpha is not None else 2.0 * self.r


def parse_lora(value: Any) -> Any:
    """Return adapters from their text, a rank alone, or names and values. Raises SettingsError naming the bad part."""
    if value is None or isinstance(value, Lora):
        return value
    return build(Lora, value if isinstance(value, Mapping) else _pairs(str(value)), owner="lora", prefix="lora: ")


def _pairs(text: str) -> dict[str, str]:
    if "=" not in text:
        try:
            parse_int(text)
        except ValueError:
            raise SettingsError(
                f"lora: r is {text!r}; expected a whole number, the rank, or names with their values.", hint=_EXAMPLE
            ) from None
        return {"r": text.strip()}
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (t.strip() for t in part.partition("="))
        if not (name and equals and value):
            raise SettingsError(f"lora: {part.strip()!r} is no NAME=VALUE.", hint=_EXAMPLE)
        if name in pairs:
            raise SettingsError(f"lora: {name} is given twice.", hint=_EXAMPLE)
        pairs[name] = value
    if "r" not in pairs:
        raise SettingsError(f"lora: r, the rank, is missing in {text!r}.", hint=_EXAMPLE)
    return pairs


LoraText = Annotated[Lora, BeforeValidator(parse_lora)]
