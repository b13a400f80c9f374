"""HANDOVER.md: the lines that load a selection as it lies into the trainers that people use."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from curate.selection.formats import SPLIT
from curate.selection.kinds import Kind
from curate.selection.megatron import PREFIX
from curate.selection.tokenised import TokenCount, TokenView

NAME = "HANDOVER.md"
_TRAINERS = ("TRL", "axolotl", "LLaMA-Factory", "transformers.Trainer")
_HEAD = """\
# Hand-over to a trainer

Paths are those from the folder above this one. `MODEL` stands for the model to train.
"""
_TRL = """\
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

{load}trainer = SFTTrainer(
    model="MODEL",
    args=SFTConfig(output_dir="trained"{options}),
    train_dataset=dataset,
)
trainer.train()
"""
_TRAINER = """\
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

tokenizer = AutoTokenizer.from_pretrained("MODEL")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
{load}trainer = Trainer(
    model=AutoModelForCausalLM.from_pretrained("MODEL"),
    args=TrainingArguments(output_dir="trained"),
    train_dataset=dataset,
    data_collator=DataCollatorForSeq2Seq(tokenizer),
)
trainer.train()
"""
_ENCODED = """

def encode(row):
{body}

dataset = dataset.map(encode, remove_columns=dataset.column_names)
"""
_TEXT_BODY = """\
    ids = tokenizer(row[{0}], truncation=True)["input_ids"]
    return {{"input_ids": ids, "labels": ids}}
"""
_COMPLETION_BODY = """\
    prompt = tokenizer(row[{0}])["input_ids"]
    completion = tokenizer(row[{1}] + (tokenizer.eos_token or ""), add_special_tokens=False)["input_ids"]
    return {{"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}}
"""
_CHAT_BODY = """\
    words = tokenizer.apply_chat_template(
        {0}, {1}return_dict=True, return_assistant_tokens_mask=True
    )
    ids, learnt = words["input_ids"], words["assistant_masks"]
    return {{"input_ids": ids, "labels": [i if on else -100 for i, on in zip(ids, learnt)]}}
"""
_RENAMED = """\
ROLES = {{"human": "user", "gpt": "assistant"}}


def renamed(row):
    turns = [(turn[{1}], turn[{2}]) for turn in row[{0}]]
    return {{{0}: [{{"role": ROLES.get(role, role), "content": words}} for role, words in turns]}}


dataset = dataset.map(renamed)
"""
_MARKS = (
    "The model's chat template has to mark the assistant's words (`{% generation %}`), here and for"
    " `assistant_only_loss`; `curate select … --tokenised` finds them in any template."
)


def of_rows(kinds: Sequence[Kind], place: str) -> str:
    """Return the text for a selection of the pool's own rows, in a folder called `place`."""
    parts = [_HEAD]
    several = len(kinds) > 1
    if several:
        parts.append(
            "The rows are of several kinds. TRL and the Trainer filter them; axolotl and LLaMA-Factory do not, and take"
            " what `curate select … --tokenised` writes: rows of one kind.\n"
        )
    for kind in kinds:
        parts += _of_kind(kind, several, place)
    return "\n".join(parts)


def of_tokens(view: TokenView, count: TokenCount, format: str, place: str) -> str:
    """Return the text for a selection of rows of tokens."""
    masked = f"{count.loss_tokens:,} of {count.tokens:,} tokens carry loss, in {count.rows:,} rows of at most"
    about = (
        f"Rows of token ids of the tokenizer `{view.tokenizer}` ({view.vocabulary:,} tokens), which `MODEL` must have."
        f" `labels` is -100 where a token carries no loss; {masked} {count.longest:,} tokens.\n"
    )
    about += (
        "\nA row is a document as `curate` reads it, whole; no end mark is added.\n"
        if view.pack is None
        else f"\nDocuments are joined in the pool's order and cut into rows of {view.pack:,} tokens; the last row may"
        f" be shorter. {_ends(view)} Attention crosses documents within a row; loss does not: a document's first token"
        " carries none.\n"
    )
    rows: Any = {"path": f"./{place}", "split": SPLIT, "type": None}
    axolotl = {"datasets": [rows], "sequence_len": count.longest, "sample_packing": False}
    factory = (
        _block("yaml", yaml.safe_dump({"tokenized_path": f"./{place}", "stage": "sft"}, sort_keys=False))
        if format == "arrow"
        else "It loads rows of tokens as `--format arrow` writes them, by `tokenized_path`.\n"
    )
    texts = [
        _block("python", _TRL.format(load=_load(place), options=", max_length=None")),
        _block("yaml", yaml.safe_dump(axolotl, sort_keys=False)),
        factory,
        _block("python", _TRAINER.format(load=_load(place))),
    ]
    return "\n".join([_HEAD, "## Rows of tokens\n", about, *_sections(texts)])


def of_megatron(view: TokenView, count: TokenCount, unmasked: int, place: str) -> str:
    """Return the text for a selection in Megatron-LM's files; `unmasked` tokens would carry no loss elsewhere."""
    path = f"{place}/{SPLIT}/{PREFIX}"
    about = (
        f"`{path}.bin` and `{path}.idx` hold {count.tokens:,} token ids of {count.documents:,} documents, of the"
        f" tokenizer `{view.tokenizer}` ({view.vocabulary:,} tokens), which `MODEL` must have. The token"
        f" {view.end} ends each document: it is added where it is not the last. Megatron cuts rows itself; attention"
        " crosses documents unless `--reset-attention-mask` is given.\n"
    )
    if unmasked:
        about += f"\n{no_labels(unmasked)}\n"
    options = f"--data-path {shlex.quote(path)} --tokenizer-type HuggingFaceTokenizer --tokenizer-model MODEL\n"
    return "\n".join([_HEAD, "## Megatron-LM\n", about, _block("", options)])


def no_labels(unmasked: int) -> str:
    """Say that Megatron-LM trains on tokens that carry no loss."""
    return f"Megatron's files hold no labels: {unmasked:,} tokens that carry no loss elsewhere are trained on, too."


def _ends(view: TokenView) -> str:
    return (
        f"The token {view.end} ends each document: it is added where it is not the last, and carries loss where the"
        " last token does."
    )


def _of_kind(kind: Kind, several: bool, place: str) -> list[str]:
    if kind.name == "other":
        text = "trainers do not read them as `curate` does. `curate select … --tokenised` writes rows that they load."
        return [f"Rows are {kind.title}: {text}\n"]
    title = {
        "text": "Plain text, in `{}`",
        "completion": "Prompts in `{}`, completions in `{}`",
        "turns": "Turns of prompts in `{}`, of completions in `{}`",
        "chat": "Conversations, in `{}`",
        "tokens": "Token ids, in `{}`, and `{}`, -100 where a token carries no loss",
    }[kind.name].format(*kind.columns)
    load = _load(place)
    if several:
        load += f"dataset = dataset.filter(lambda row: row[{_quoted(kind.columns[0])}] is not None)\n"
    by_columns = kind.name not in ("turns", "tokens")  # axolotl and LLaMA-Factory read no rows of these
    texts = [
        _block("python", _trl(kind, load)),
        _block("yaml", yaml.safe_dump({"datasets": [_axolotl(kind, place)]}, sort_keys=False)) if by_columns else "",
        _entry(kind, place) if by_columns else "",
        _block("python", _trainer(kind, load)),
    ]
    note = [f"{_MARKS}\n"] if kind.name in ("chat", "turns") else []
    return [f"## {title}\n", *note, *_sections(texts)]


def _sections(texts: list[str]) -> list[str]:
    """Return a section for every trainer."""
    missing = "It does not read such rows; `curate select … --tokenised` writes rows that it loads.\n"
    return [f"### {trainer}\n\n{text or missing}" for trainer, text in zip(_TRAINERS, texts, strict=True)]


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text}```\n"


def _quoted(value: Any) -> str:
    """Return strings as Python has them in double quotes; JSON's are the same."""
    return json.dumps(value, ensure_ascii=False)


def _load(place: str) -> str:
    return f"dataset = load_dataset({_quoted(f'./{place}')}, split={_quoted(SPLIT)})\n"


def _with_roles(kind: Kind, column: str) -> str:
    """Return lines that give turns the keys and roles of chat templates, where they have others."""
    return "" if kind.keys == ("role", "content") else _RENAMED.format(*map(_quoted, (column, *kind.keys)))


def _trl(kind: Kind, load: str) -> str:
    options = {
        "text": f", dataset_text_field={_quoted(kind.columns[0])}",
        "chat": ", assistant_only_loss=True",
        "tokens": ", max_length=None",
    }
    return _TRL.format(load=_with_names(kind, load) + _with_roles(kind, "messages"), options=options.get(kind.name, ""))


def _with_names(kind: Kind, load: str) -> str:
    """Return lines that leave only the columns of a kind, under the names that trainers know."""
    load += f"dataset = dataset.select_columns({_quoted([*kind.columns, *kind.tools * ['tools']])})\n"
    names = {
        "completion": ("prompt", "completion"),
        "turns": ("prompt", "completion"),
        "chat": ("messages",),
        "tokens": ("input_ids", "labels"),
    }
    wanted = names.get(kind.name, kind.columns)
    if renamed := {old: new for old, new in zip(kind.columns, wanted, strict=True) if old != new}:
        load += f"dataset = dataset.rename_columns({_quoted(renamed)})\n"
    return load


def _axolotl(kind: Kind, place: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": f"./{place}", "split": SPLIT}
    if kind.name == "text":
        return {**entry, "type": "completion", "field": kind.columns[0]}
    if kind.name == "completion":
        prompt, completion = kind.columns
        form = {"format": "{instruction}", "no_input_format": "{instruction}"}
        return {**entry, "type": {"field_instruction": prompt, "field_output": completion, **form}}
    role, content = kind.keys
    names = {"role": role, "content": content}
    return {
        **entry,
        "type": "chat_template",
        "field_messages": kind.columns[0],
        "message_property_mappings": names,
        "roles_to_train": ["assistant"],
        **({"field_tools": "tools"} if kind.tools else {}),
    }


def _entry(kind: Kind, place: str) -> str:
    stage = {"text": "`stage: pt`", "completion": "`stage: sft` and `template: empty`", "chat": "`stage: sft`"}
    return (
        "The entry in a `dataset_info.json` of the folder above, for a configuration with `dataset_dir: .`,"
        f" `dataset: {place}`, {stage[kind.name]}:\n\n"
        + _block("json", json.dumps({place: _factory(kind, place)}, indent=2, ensure_ascii=False) + "\n")
    )


def _factory(kind: Kind, place: str) -> dict[str, Any]:
    """Return the entry by which LLaMA-Factory loads a folder: `script_url` is a path below `dataset_dir`."""
    entry: dict[str, Any] = {"script_url": place}
    if kind.name == "text":
        return {**entry, "columns": {"prompt": kind.columns[0]}}
    if kind.name == "completion":
        return {**entry, "columns": dict(zip(("prompt", "response"), kind.columns, strict=True))}
    role, content = kind.keys
    tags = {"role_tag": role, "content_tag": content}
    if role == "role":
        tags |= {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    columns = {"messages": kind.columns[0], **({"tools": "tools"} if kind.tools else {})}
    return {**entry, "formatting": "sharegpt", "columns": columns, "tags": tags}


def _trainer(kind: Kind, load: str) -> str:
    if kind.name == "tokens":
        return _TRAINER.format(load=_with_names(kind, load))
    if kind.name in ("chat", "turns"):
        turns = " + ".join(f"row[{_quoted(c)}]" for c in kind.columns)
        body = _CHAT_BODY.format(turns, 'tools=row["tools"], ' if kind.tools else "")
        return _TRAINER.format(load=load + _with_roles(kind, kind.columns[0]) + _ENCODED.format(body=body))
    body = _TEXT_BODY if kind.name == "text" else _COMPLETION_BODY
    return _TRAINER.format(load=load + _ENCODED.format(body=body.format(*map(_quoted, kind.columns))))
