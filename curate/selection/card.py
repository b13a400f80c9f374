"""The dataset card of a selection, for people and for `datasets`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from curate.amounts import counted
from curate.selection.formats import ENDINGS, MEGATRON, SPLIT
from curate.selection.ranking import DENSITY
from curate.selection.token_columns import IDS, LABELS, SPANS, TokenFigures
from curate.selection.tokenised import TokenCount
from curate.visible import visible

_LISTED = 50
_CANDIDATES = {"document": "documents", "shard": "shards", "token": "documents, and at last tokens,"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the files of a selection are, as far as writing them told."""

    scores: list[str]
    """The names of the score columns."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """The names of the columns of chosen tokens."""
    figures: TokenFigures | None = None
    """Of chosen tokens."""
    features: list[Any] | None
    """Features that the card must state, as lines of JSON cannot."""
    changes: tuple[str, ...]
    """Sentences on what is written otherwise than the pool has it."""
    places: Sequence[str] = ()
    """The names of the columns of places on a map."""
    token_count: TokenCount | None = None
    """What the rows hold that are tokens."""

    @property
    def columns(self) -> str:
        """Say what a row has beside the pool's own columns."""
        if self.token_count is None:
            x_and_y = " and ".join(f"`{c}`" for c in self.places)
            a_map = (
                f"{x_and_y}: two principal components of the mean input embeddings of its tokens. " if x_and_y else ""
            )
            return f"Score columns: {', '.join(f'`{c}`' for c in self.scores)}. {a_map}"
        count = self.token_count
        return (
            f"Rows are of tokens: {count.tokens:,} in {count.rows:,} rows, of which {count.loss_tokens:,} carry loss. "
        )


def card(manifest: dict[str, Any], format: str, described: Described) -> str:
    """Return the card: front matter that tells `load_dataset` which files are data, then filters and composition."""
    data = [{"split": SPLIT, "path": f"{SPLIT}/*.{ENDINGS.get(format, 'bin')}"}]
    # Two selections in one folder have files of equal names: `datasets` tells them apart in its cache by what the
    # card says, and by nothing else.
    description = f"selection {manifest['fingerprint']}"
    front: dict[str, Any] = {
        "configs": [{"config_name": "default", "description": description, "data_files": data}],
        "tags": ["curate", "data-selection"],
    }
    if format == MEGATRON:  # no format of `datasets`
        del front["configs"]
    if described.features is not None:
        front["dataset_info"] = {"features": described.features}
    run, composition = manifest["run"], manifest["composition"]
    before, after = manifest["before"], manifest["after"]
    chosen = [r for r in composition["rows"] if r["documents"]]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        f"# {counted(after['documents'], 'document')} selected by influence",
        "",
        f"Selected by `curate` from {before['documents']:,} scored documents ({before['tokens']:,} tokens): "
        f"{counted(after['documents'], 'document')}, {counted(after['tokens'], 'token')}{_of_all(described.figures)}. "
        "A score above zero means: training more on this document lowers the target's loss."
        + (f" Scored were {manifest['narrowed']}." if manifest["narrowed"] else ""),
        "",
        *_table(
            ("", ""),
            [
                *((k, _setting(run["settings"].get(k))) for k in ("method", "model", "target", "pool")),
                ("ranked by", _ranked_by(manifest["ranking"])),
            ],
        ),
        "",
        f"## Filters, in order ({_CANDIDATES[manifest['unit']]} were the candidates)",
        "",
        *_table(
            ("filter", "parameters", "kept", "dropped", "tokens left"),
            [(s["name"], _values(s["values"]), s["kept"], s["dropped"], s["tokens"]) for s in manifest["filters"]],
        ),
        "",
        f"## By {composition['by']}",
        "",
        *_table(
            (composition["by"], "documents", "of the pool's", "tokens", "times its share of the pool"),
            [
                (r["value"], r["documents"], r["pool_documents"], r["tokens"], f"{r['enrichment']:.2f}")
                for r in chosen[:_LISTED]
            ],
        ),
        *([f"… and {len(chosen) - _LISTED:,} more"] if len(chosen) > _LISTED else []),
        "",
        *_about_tokens(described),
        *(
            ["## Written otherwise than in the pool", "", *(f"- {c}" for c in described.changes), ""]
            if described.changes
            else []
        ),
        f"{described.columns}"
        "`manifest.json` holds the run's settings and every filter's SQL; `rejected/` the documents that were dropped, "
        "with the filter's name. `rejected/` is no part of the dataset.",
        "",
    ]
    return visible("\n".join(lines))


def _of_all(figures: TokenFigures | None) -> str:
    return "" if figures is None else f" that carry loss, of {figures.tokens:,} in these documents"


def _about_tokens(described: Described) -> list[str]:
    """Say which columns chosen tokens have, and how to train on them."""
    if (figures := described.figures) is None:
        return []
    names = {name: f"`{column}`" for name, column in described.tokens.items()}
    read_by = "the proxy" if figures.tokenizer is None else figures.tokenizer
    return [
        "## Which tokens carry loss",
        "",
        f"{names[SPANS]}: the chosen stretches, `[start, end)` in characters of `{figures.text_column}`. "
        f"{names[IDS]} and {names[LABELS]}: that text as tokens of {read_by}; a label is -100 where a token carries no "
        "loss, and where it overlaps no chosen stretch it carries none. A trainer that takes labels as they are learns "
        f"what was chosen: {figures.carrying_loss:,} tokens. Chosen were {figures.chosen:,} of {figures.candidates:,} "
        "tokens of the proxy.",
        "",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return [_line(head), _line(["---"] * len(head)), *(_line(r) for r in rows)]


def _line(cells: Sequence[Any]) -> str:
    shown = (f"{c:,}" if isinstance(c, int) else "" if c is None else str(c) for c in cells)
    return "| " + " | ".join(s.replace("|", "\\|").replace("\n", " ") for s in shown) + " |"


def _ranked_by(ranking: dict[str, Any]) -> str:
    return f"{ranking['column']} per token" if ranking["by"] == DENSITY else ranking["column"]


def _setting(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in values.items() if v is not None)
