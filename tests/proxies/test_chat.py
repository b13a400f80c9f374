"""Templates of small models, with the habits of those that people use."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from curate.proxies.templates import shipped_template
from curate.proxies.tokens import Encoded, Encoder, TokenSettings
from curate.training.tokenizer import training_text
from tests.small_models import document, tiny_tokenizer

# The prompt opens a thought; finished turns keep none.
OPENS_THOUGHT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}[A]{{ m.content.split('</think>')[-1].strip() }}[E]"
    "{% else %}[U]{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[A]<think>\n{% endif %}"
)
# Only the last turn has a thought, written even where there is none.
LAST_THOUGHT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}[A]{% if loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].strip() }}[E]\n{% else %}[U]{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[A]{% endif %}"
)
ALTERNATES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}[E]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# Takes a whole conversation alone: a beginning that ends with a user's turn is refused.
WHOLE_ALONE = (
    "{% if messages[-1].role != 'assistant' %}{{ raise_exception('unfinished') }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|endoftext|>{% endfor %}"
)
PARTS_ALONE = (
    "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}"
    "{% endfor %}[E]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
STRINGS_ALONE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}[E]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# Forgets thoughts before the last question, and writes one into its last turn whether there was one or not.
FORGETS = (
    "{% set n = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set n.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content or '' %}"
    "{% set thought = '' %}{% if '</think>' in c %}{% set thought = c.split('</think>')[0].split('<think>')[-1] %}"
    "{% set c = c.split('</think>')[-1].strip() %}{% endif %}[A]"
    "{% if loop.index0 > n.last and (loop.last or thought) %}<think>{{ thought }}</think>{% endif %}{{ c }}"
    "{% for t in m.tool_calls or [] %}{% if c or not loop.first %}{{ '\n' }}{% endif %}"
    "({{ t.function.name }}){% endfor %}[E]{% else %}[{{ m.role }}]{{ m.content }}[E]{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[A]{% endif %}"
)
CALLS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}({{ c.function.name }}"
    "{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}){% endfor %}[E]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# Puts text together with arguments that are JSON, and calls instead of words.
CALLS_OF_JSON = (
    "{% for m in messages %}[{{ m.role }}]{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ '(' + c.function.name + ' ' + c.function.arguments + ')' }}{% endfor %}{% else %}{{ m.content }}{% endif %}[E]"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
MARKS = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}[E]"
MARKS += "{% endgeneration %}{% else %}{{ m.content }}[E]{% endif %}{% endfor %}"
MARKS_ALL = "{% generation %}" + STRINGS_ALONE.replace("{% if add", "{% endgeneration %}{% if add")
# transformers counts from the macro's beginning, and so marks what stands in front of all turns.
MARKS_IN_A_MACRO = (
    "{% macro turn(m) %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}[E]{% endgeneration %}"
    "{% else %}{{ m.content }}[E]{% endif %}{% endmacro %}"
    "{% set texts = namespace(all='') %}{% for m in messages %}{% set texts.all = texts.all ~ '[' ~ m.role ~ ']' ~"
    " turn(m) %}{% endfor %}{{ texts.all }}{% if add_generation_prompt %}[assistant]{% endif %}"
)

CHAT = [
    {"role": "user", "content": "the quick fox"},
    {"role": "assistant", "content": "the lazy dog"},
    {"role": "user", "content": "jumps over"},
    {"role": "assistant", "content": "def f(x)"},
]
THOUGHTS = [{**m, "content": f"<think>hm</think>\n\n{m['content']}"} if m["role"] == "assistant" else m for m in CHAT]
CALL = {"type": "function", "function": {"name": "seek", "arguments": {"what": "dog"}}}
TOOL_CHAT = [
    CHAT[0],
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "lazy"},
    CHAT[1],
]


def tokenizer_with(template: Any) -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def encode(template: Any, messages: list[dict[str, Any]], **content: Any) -> tuple[Encoded, str, str]:
    tokenizer = tokenizer_with(template)
    (tokens,) = Encoder(tokenizer, TokenSettings(context=500))([document(messages=messages, **content)])
    return tokens, tokenizer.decode(tokens.ids), tokenizer.decode(tokens.ids[tokens.scored])


@pytest.mark.parametrize(
    ("template", "messages", "scored"),
    [
        (OPENS_THOUGHT, CHAT[:2], "the lazy dog[E]"),
        (OPENS_THOUGHT, CHAT, "the lazy dog[E]def f(x)[E]"),
        (OPENS_THOUGHT, THOUGHTS, "the lazy dog[E]def f(x)[E]"),
        (LAST_THOUGHT, CHAT[:2], "<think>\n\n</think>\n\nthe lazy dog[E]\n"),
        (LAST_THOUGHT, CHAT, "the lazy dog[E]\n<think>\n\n</think>\n\ndef f(x)[E]\n"),
        (LAST_THOUGHT, THOUGHTS, "the lazy dog[E]\n<think>\n\n</think>\n\ndef f(x)[E]\n"),
        (FORGETS, CHAT, "the lazy dog[E]<think></think>def f(x)[E]"),
        (FORGETS, THOUGHTS, "the lazy dog[E]<think>hm</think>def f(x)[E]"),
        (FORGETS, TOOL_CHAT, "(seek)[E]<think></think>the lazy dog[E]"),
        (FORGETS, [*TOOL_CHAT, *CHAT], "(seek)[E]the lazy dog[E]the lazy dog[E]<think></think>def f(x)[E]"),
        (ALTERNATES, CHAT, "the lazy dog[E]def f(x)[E]"),
        (WHOLE_ALONE, CHAT, "the lazy dog<|endoftext|>def f(x)<|endoftext|>"),
        (PARTS_ALONE, CHAT, "the lazy dog[E]def f(x)[E]"),
        (STRINGS_ALONE, CHAT, "the lazy dog[E]def f(x)[E]"),
        (MARKS, CHAT, "the lazy dog[E]def f(x)[E]"),
        (MARKS_ALL, CHAT, "the lazy dog[E]def f(x)[E]"),
        (MARKS_IN_A_MACRO, CHAT, "the lazy dog[E]def f(x)[E]"),
        ({"default": STRINGS_ALONE, "other": "{{ raise_exception('no') }}"}, CHAT, "the lazy dog[E]def f(x)[E]"),
    ],
)
def test_exactly_the_assistants_turns_are_scored(template: Any, messages: list[dict[str, Any]], scored: str) -> None:
    tokens, _, found = encode(template, messages)
    assert (found, tokens.refused) == (scored, "")


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0},
        {"train": False},
        {"weight": 0.0},
        {"train_on_turn": False},
        {"training": False},
        {"loss_mask": 0},
        {"masked": True},
    ],
)
@pytest.mark.parametrize("template", [STRINGS_ALONE, MARKS, MARKS_ALL, OPENS_THOUGHT, shipped_template()])
def test_a_turn_that_is_marked_to_carry_no_loss_is_not_scored(template: str, mark: dict[str, Any]) -> None:
    marked = [CHAT[0], CHAT[1] | mark, *CHAT[2:]]
    tokens, whole, found = encode(template, marked)
    assert found.replace("<|im_end|>", "[E]") == "def f(x)[E]"
    assert whole == encode(template, CHAT)[1]
    assert tokens.num_scored < encode(template, CHAT)[0].num_scored


def test_a_mark_that_ends_in_what_the_tokenizer_drops_does_not_reach_further() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[user]", "[assistant]", "one", "two", "three", "four", "[UNK]"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}[{{ m.role }}] {% if m.role == 'assistant' %}{% generation %}{{ m.content }}\n"
    template += "{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", chat_template=template)
    chat = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(("one", "two", "three", "four"))]
    (tokens,) = Encoder(tokenizer, TokenSettings(context=50))([document(messages=chat)])
    assert tokenizer.decode(tokens.ids[tokens.scored]) == "two four"


KNOWN_ROLES = (  # as Qwen's
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
)


def test_what_the_developer_says_is_the_systems_where_a_template_does_not_know_the_role() -> None:
    said = {"role": "developer", "content": "over the"}
    _, whole, _ = encode(KNOWN_ROLES, [said, *CHAT])
    assert whole == encode(KNOWN_ROLES, [said | {"role": "system"}, *CHAT])[1]
    assert whole.startswith("<|im_start|>system\nover the")
    assert encode(shipped_template(), [said, *CHAT])[1].startswith("<|im_start|>developer\nover the")


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (
            KNOWN_ROLES,
            [{"role": "critic", "content": "x"}, *CHAT],
            "the template leaves out turns of the role 'critic'",
        ),
        (ALTERNATES, [{"role": "system", "content": "x"}, *CHAT], "System role not supported"),
        (ALTERNATES, CHAT[1:], "roles must alternate"),
        (STRINGS_ALONE, TOOL_CHAT, "the template does not write tool calls"),
        (
            STRINGS_ALONE,
            [{"role": "user", "content": [{"type": "image", "url": "a.png"}]}, CHAT[1]],
            "a part of type 'image' is no text",
        ),
        ({"a": STRINGS_ALONE, "b": MARKS}, CHAT, "the model has several chat templates (a, b) and no default"),
        (None, CHAT, "the model has no chat template"),
    ],
)
def test_a_conversation_that_cannot_be_written_is_set_aside_with_its_reason(
    template: Any, messages: list[dict[str, Any]], reason: str
) -> None:
    assert encode(template, messages)[0].refused == reason


@pytest.mark.parametrize("template", [STRINGS_ALONE, PARTS_ALONE, MARKS, shipped_template()])
def test_parts_of_text_are_words_in_every_template(template: str) -> None:
    parts = [{"type": "text", "text": "the lazy dog"}]
    messages = [{"role": "user", "content": [{"type": "text", "text": "the quick fox"}]}, CHAT[1] | {"content": parts}]
    assert encode(template, messages)[1:] == encode(template, CHAT[:2])[1:]


@pytest.mark.parametrize("arguments", [{"what": "dog"}, '{"what": "dog"}'])
def test_calls_are_written_whatever_form_their_arguments_have(arguments: Any) -> None:
    call = {"type": "function", "function": {"name": "seek", "arguments": arguments}}
    messages = [TOOL_CHAT[0], TOOL_CHAT[1] | {"tool_calls": [call]}, *TOOL_CHAT[2:]]
    _, whole, scored = encode(CALLS, messages)
    assert scored == "(seek what=dog)[E]the lazy dog[E]"
    assert "None" not in whole
    assert encode(CALLS_OF_JSON, messages)[2] == '(seek {"what": "dog"})[E]the lazy dog[E]'


def test_a_model_with_a_template_for_tools_writes_them_by_it() -> None:
    with_tools = "{{ tools[0].name }} " + MARKS
    named = {"default": MARKS, "tool_use": with_tools}
    assert encode(named, CHAT, tools=[{"name": "seek"}])[1:] == encode(with_tools, CHAT, tools=[{"name": "seek"}])[1:]
    assert encode(named, CHAT)[1:] == encode(MARKS, CHAT)[1:]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_the_shipped_template_writes_thoughts_and_they_carry_loss(key: str) -> None:
    messages = [{"role": "user", "content": "the"}, {"role": "assistant", key: "lazy", "content": "dog"}]
    _, whole, scored = encode(shipped_template(), [*messages, {"role": "user", "content": "fox", key: None}])
    answer = "<think>\nlazy\n</think>\n\ndog<|im_end|>"
    assert scored == answer
    start = "<|im_start|>"
    assert whole == f"{start}user\nthe<|im_end|>\n{start}assistant\n{answer}\n{start}user\nfox<|im_end|>\n"


def test_the_shipped_template_writes_tools_calls_and_parts_as_warm_up_reads_them() -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "image", "url": "x"}, {"type": "text", "text": "this"}]
    messages = [{"role": "user", "content": parts}, *TOOL_CHAT[1:]]
    _, whole, scored = encode(shipped_template(), messages, tools=[{"name": "seek"}])
    call = '<tool_call>{"name": "seek", "arguments": {"what": "dog"}}</tool_call><|im_end|>'
    assert whole == (
        '<|im_start|>system\n<tool>{"name": "seek"}</tool>\n<|im_end|>\n<|im_start|>user\nsee\nthis<|im_end|>\n'
        f"<|im_start|>assistant\n{call}\n<|im_start|>tool\nlazy<|im_end|>\n"
        "<|im_start|>assistant\nthe lazy dog<|im_end|>\n"
    )
    assert scored == f"{call}the lazy dog<|im_end|>"
    tools = document(messages=messages, tools=[{"name": "seek"}])
    assert training_text(tools, tokenizer_with(shipped_template())) == whole
