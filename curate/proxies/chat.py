"""Conversations as text, by a chat template, with the stretches that the assistant wrote."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import orjson
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from curate.proxies.templates import Traits, leaves_out, template_of, traits_of
from curate.schema import carries_loss, message_text

Messages = list[dict[str, Any]]
Range = tuple[int, int]
# Stands for a turn's content: private characters, which no content begins or ends with.
_STAND_IN = "\ue0c0turn\ue0c1"
_THOUGHT_END = "</think>"
_KNOWN = frozenset({"system", "user", "assistant", "tool"})
_NO_CALLS = "the template does not write tool calls"


class Chat:
    """Write conversations by a tokenizer's template. A template is a program: its calls may raise anything."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.template, self.lacking = template_of(tokenizer)
        """The template, or "" and why there is none."""

    @cached_property
    def traits(self) -> Traits:
        return traits_of(self.template, self.tokenizer)

    def text(self, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> str:
        """Return a conversation's text."""
        return self._written(messages, tools)[1]

    def learnt(self, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> tuple[str, list[Range]]:
        """Return a conversation's text, and the stretches of characters of the turns that carry loss.

        Raises TemplateError where these cannot be located.
        """
        turns, whole = self._written(messages, tools)
        wanted = [i for i, turn in enumerate(turns) if carries_loss(turn)]
        if not self.traits.marks:
            return whole, [self._turn(turns, i, whole, tools) for i in wanted]
        whole, marks = self._marked(turns, tools)
        return whole, self._checked(turns, wanted, whole, marks, tools)

    def _written(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> tuple[Messages, str]:
        """Return the turns in a form that the template takes, and their text. Raises what the template does."""
        turns, problem = [self._form(dict(m)) for m in messages], None
        for form in _forms(turns):
            try:
                text = self._render(form, tools)
            except Exception as error:
                problem = problem or error
                continue
            if all(name in text for turn in form for name in _called(turn)):
                return form, text
        raise problem or TemplateError(_NO_CALLS)

    def _form(self, turn: dict[str, Any]) -> dict[str, Any]:
        turn = turn if turn["role"] in _KNOWN else self._of_known_role(turn)
        traits, content = self.traits, turn.get("content")
        calls = turn.get("tool_calls")
        if calls and not traits.calls and not message_text(turn).strip():
            raise TemplateError(_NO_CALLS)
        if calls and content is None and not traits.null:
            return turn | {"content": ""}
        if isinstance(content, str) and not traits.strings:
            return turn | {"content": [{"type": "text", "text": content}]}
        if isinstance(content, list) and not self._takes_parts(turn["role"]):
            if others := [p.get("type", "unknown") for p in content if not isinstance(p.get("text"), str)]:
                raise TemplateError(f"a part of type {others[0]!r} is no text")
            return turn | {"content": message_text(turn)}
        return turn

    def _of_known_role(self, turn: dict[str, Any]) -> dict[str, Any]:
        """Return a turn that the template writes: what it does not know as the developer's is the system's."""
        role = turn["role"]
        if not leaves_out(role, self.template, self.tokenizer):
            return turn
        if role == "developer" and not leaves_out("system", self.template, self.tokenizer):
            return turn | {"role": "system"}
        raise TemplateError(f"the template leaves out turns of the role {role!r}")

    def _takes_parts(self, role: str) -> bool:
        return ("assistant" if role == "assistant" else "user") in self.traits.parts_of

    def _render(self, turns: Messages, tools: Any, *, prompt: bool = False) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                turns, tools=tools, chat_template=self._named(tools), tokenize=False, add_generation_prompt=prompt
            )
        )

    def _named(self, tools: Any) -> str:
        """Return the template for a conversation with these tools: some models have one of that name."""
        templates: Any = self.tokenizer.chat_template
        return (
            templates["tool_use"]
            if tools and isinstance(templates, dict) and "tool_use" in templates
            else self.template
        )

    def _marked(self, turns: Messages, tools: Any) -> tuple[str, list[Range]]:
        specials: dict[str, Any] = dict(self.tokenizer.special_tokens_map)
        rendered: Any = render_jinja_template(
            [turns], tools=tools, chat_template=self._named(tools), return_assistant_tokens_mask=True, **specials
        )
        texts, marks = rendered
        return texts[0], [(start, stop) for start, stop in marks[0] if stop > start]

    def _checked(self, turns: Messages, wanted: list[int], whole: str, marks: list[Range], tools: Any) -> list[Range]:
        """Return the marks of the turns that are wanted, or the turns themselves where marks reach beyond them."""
        answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        paired = len(marks) == len(answers)
        holds_all, holds_others = _compared(turns, "\n".join(whole[start:stop] for start, stop in marks))
        if holds_all and not holds_others and (paired or wanted == answers):
            return [m for i, m in zip(answers, marks, strict=True) if i in wanted] if paired else marks
        try:
            stretches = {i: self._turn(turns, i, whole, tools) for i in answers}
        except TemplateError:
            if holds_all and wanted == answers:  # a short word of the user's may stand in an answer by chance
                return marks
            raise
        if all(any(a <= start and stop <= b for a, b in stretches.values()) for start, stop in marks):
            chosen = [stretches[i] for i in wanted]
            return [m for m in marks if any(a <= m[0] and m[1] <= b for a, b in chosen)]
        return [stretches[i] for i in wanted]

    def _turn(self, turns: Messages, i: int, whole: str, tools: Any) -> Range:
        """Return where a turn of the assistant's stands: a difference of renderings of the conversation's beginnings.

        Where the template writes a turn otherwise once others follow, or opens its prompt with what finished turns do
        not have, the content is located instead.
        """
        try:
            before = self._render(turns[:i], tools, prompt=True) if i else ""
            after = self._render(turns[: i + 1], tools)
        except Exception:  # some templates refuse a beginning of what they take whole
            return self._located(turns, i, whole, tools)
        if whole.startswith(before) and whole.startswith(after):
            return len(before), len(after)
        return self._located(turns, i, whole, tools)

    def _located(self, turns: Messages, i: int, whole: str, tools: Any) -> Range:
        """Find a turn by what changes when its content is replaced; the end of the turn belongs to it."""
        content: Any = _STAND_IN
        if isinstance(turns[i].get("content"), list):
            content = [{"type": "text", "text": content}]
        changed = [*turns[:i], turns[i] | {"content": content}, *turns[i + 1 :]]
        other = self._render(changed, tools)
        start = _shared(whole, other)
        words = message_text(turns[i]).rsplit(_THOUGHT_END, 1)[-1].strip()
        ending = self._ending(changed[: i + 1], tools)
        if not words:  # a template may set its calls apart from words alone
            rest = whole[start:].lstrip()
            if other[start:].removeprefix(_STAND_IN).lstrip() == rest:
                return start, len(whole) - len(rest) + _shared(rest, ending.lstrip())
        stop = len(whole) - _shared(whole[start:][::-1], other[start:][::-1])
        if whole[:start] + _STAND_IN + whole[stop:] != other or words not in whole[start:stop]:
            raise TemplateError(
                f"the template rewrites earlier turns (turn {i + 1}: {message_text(turns[i])[:40]!r}), so that the"
                " assistant's tokens cannot be told from the rest; a template that marks the assistant's turn with"
                " {% generation %} … {% endgeneration %} has no such need"
            )
        return start, stop + _shared(whole[stop:], ending)

    def _ending(self, turns: Messages, tools: Any) -> str:
        """Return what the template writes behind the last turn's content."""
        try:
            return self._render(turns, tools).partition(_STAND_IN)[2]
        except Exception:  # some templates refuse a beginning of what they take whole
            return str(self.tokenizer.eos_token or "")


def _shared(one: str, other: str) -> int:
    """Return the number of characters that two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _forms(turns: Messages) -> Iterator[Messages]:
    """Yield turns as they are, then with arguments of calls as objects and as JSON; all without null content, too."""
    forms: list[Messages] = []
    for content in (None, ""):
        for change in (None, _parsed, _written_out):
            form = [_changed(turn, content, change) for turn in turns]
            if form not in forms:
                yield form
            forms.append(form)


def _changed(turn: dict[str, Any], content: str | None, change: Callable[[Any], Any] | None) -> dict[str, Any]:
    if turn.get("content") is None and content is not None:
        turn = turn | {"content": content}
    if change is None or not isinstance(calls := turn.get("tool_calls"), list):
        return turn
    return turn | {"tool_calls": [_with_arguments(call, change) for call in calls]}


def _with_arguments(call: Any, change: Callable[[Any], Any]) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    return call | {"function": function | {"arguments": change(function["arguments"])}}


def _parsed(arguments: Any) -> Any:
    try:
        return orjson.loads(arguments or "{}") if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _written_out(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False, default=str)


def _called(turn: dict[str, Any]) -> list[str]:
    """Return the names of what a turn without words calls."""
    calls = [] if message_text(turn).strip() else turn.get("tool_calls") or []
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    return [f["name"] for f in functions if isinstance(f, dict) and isinstance(f.get("name"), str)]


def _compared(turns: Messages, marked: str) -> tuple[bool, bool]:
    """Return whether marked text holds all answers that carry loss, and whether it holds words of other turns."""
    answers = [message_text(t).rsplit(_THOUGHT_END, 1)[-1].strip() for t in turns if carries_loss(t)]
    said = "\n".join(message_text(t) for t in turns if t["role"] == "assistant")
    others = [message_text(t).strip() for t in turns if t["role"] != "assistant"]
    return all(a in marked for a in answers), any(o and o in marked and o not in said for o in others)
