"""Chat templates: the one that is chosen, the shipped one, and what a template can take."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from curate.errors import SettingsError, nearest

SHIPPED = "shipped"
_OF_PROCESSOR = "chat_template.json"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\b")
_WORD = "zyxword"  # of no template's own text


def shipped_template() -> str:
    """Return the ChatML template that new proxies get."""
    return Path(__file__).with_name("chatml.jinja").read_text(encoding="utf-8").strip()


def choose_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give a tokenizer the shipped template, a file's, or one of its own by name. Raises SettingsError."""
    own = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    path = Path(name).expanduser()
    if name in own:
        template = own[name]
    elif name == SHIPPED:
        template = shipped_template()
    elif path.is_file():
        template = _of_file(path)
    else:
        of_model = f", a file or one of the model's ({', '.join(sorted(own))})" if own else " or a file"
        raise SettingsError(
            f"chat_template is {name!r}; expected {SHIPPED!r}{of_model}.", hint=nearest(name, [SHIPPED, *own])
        )
    tokenizer.chat_template = template


def _of_file(path: Path) -> str:
    """Return the template that a file is, or holds, as chat_template.json of a processor. Raises SettingsError."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return text
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    template = content.get("chat_template") if isinstance(content, dict) else None
    if not isinstance(template, str):
        raise SettingsError(
            f"{path}: expected a chat template, or an object of JSON with one as 'chat_template'.",
            hint="A template is written in Jinja, in a file with the ending .jinja.",
        )
    return template


def add_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Give a tokenizer without a template the one that a model's processor keeps beside it, where there is one."""
    path = folder / _OF_PROCESSOR
    if not tokenizer.chat_template and path.is_file():
        tokenizer.chat_template = _of_file(path)


def template_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return a tokenizer's template, the default one of several; or "" and why there is none."""
    template: Any = tokenizer.chat_template
    if isinstance(template, Mapping) and "default" not in template and len(template) != 1:
        return "", f"the model has several chat templates ({', '.join(sorted(template))}) and no default"
    if isinstance(template, Mapping):
        template = template.get("default") or next(iter(template.values()))
    return template or "", "" if template else "the model has no chat template"


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a template can take, as trials show."""

    strings: bool
    """Content as a string; some take lists of parts alone."""
    parts_of: frozenset[str]
    """The roles whose content may be a list of parts, of user and assistant."""
    calls: bool
    """Whether it writes calls of tools."""
    null: bool
    """Whether a call's turn may have no content; some write "None"."""
    marks: bool
    """Whether it marks the assistant's words."""


def traits_of(template: str, tokenizer: PreTrainedTokenizerBase) -> Traits:
    """Try a template on small conversations."""
    return _traits(template, _specials(tokenizer))


def leaves_out(role: str, template: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a template passes over turns of a role in silence, as many do with all that they don't know."""
    return _leaves_out(role, template, _specials(tokenizer))


@lru_cache
def _leaves_out(role: str, template: str, specials: tuple[tuple[str, str], ...]) -> bool:
    others = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = _rendered(template, [{"role": role, "content": _WORD}, *others], specials)
    return text is not None and _WORD not in text


def _specials(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((k, v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)))


@lru_cache
def _traits(template: str, specials: tuple[tuple[str, str], ...]) -> Traits:
    def tried(**turn: Any) -> str | None:
        others = [{"role": "user", "content": "a"}] if turn["role"] == "assistant" else []
        return _rendered(template, [*others, turn], specials)

    def takes(role: str, content: Any) -> bool:
        text = tried(role=role, content=content)
        return text is not None and _WORD in text and "'type'" not in text and '"type"' not in text

    parts = [{"type": "text", "text": _WORD}]
    parts_of = frozenset(role for role in ("user", "assistant") if takes(role, parts))

    def calling(content: str | None) -> list[str | None]:
        functions = [{"name": _WORD, "arguments": arguments} for arguments in ({"a": 1}, '{"a": 1}')]
        calls = ([{"id": "000000000", "type": "function", "function": f}] for f in functions)
        return [tried(role="assistant", content=content, tool_calls=call) for call in calls]

    null, empty = calling(None), calling("")
    return Traits(
        strings=takes("assistant", _WORD) or "assistant" not in parts_of,
        parts_of=parts_of,
        calls=not any([*null, *empty]) or any(text and _WORD in text for text in [*null, *empty]),
        null=any(text and _WORD in text and "None" not in text for text in null),
        marks=_GENERATION.search(template) is not None,
    )


def _rendered(template: str, messages: Sequence[dict[str, Any]], specials: tuple[tuple[str, str], ...]) -> str | None:
    try:
        named: dict[str, Any] = dict(specials)
        texts: Any = render_jinja_template([list(messages)], chat_template=template, **named)
    except Exception:  # a template is a program: a trial that fails tells what it does not take
        return None
    return texts[0][0]
