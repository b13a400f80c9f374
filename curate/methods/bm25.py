"""BM25: how many of the target's words a document shares, weighted by rarity. No model takes part.

Each target row is a query, and a document's score is its mean BM25 score over the group's rows, as bm25s computes it
(variants after Kamphuis et al. 2020). Scores add up over a query's words, so a group is one weight per word, and a
document costs one sparse product. How rare words are and how long documents are is counted on the background sample,
since the pool is never held; a word that the sample lacks counts as if one document of it had the word.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Annotated, Literal

import numpy as np
import torch
from bm25s.tokenization import Tokenizer
from pydantic import Field
from torch import Tensor

from curate.errors import CurateError, SettingsError
from curate.gradients.documents import Batching
from curate.gradients.scored import Scored
from curate.methods.contract import EncodedTarget, Inputs
from curate.methods.shared.terms import Terms
from curate.methods.shared.words import words
from curate.proxies.tokens import Encoded
from curate.settings import Number, option, settings

_AT_ONCE = 1024  # documents whose words are counted together

OFFERS = frozenset({"against"})
NEEDS = frozenset({"background"})


@settings
class Settings:
    """BM25's own parameters, and what counts as a word."""

    k1: Annotated[Number, Field(ge=0, allow_inf_nan=False)] = option(
        default=1.5, help="How much repeated occurrences of a word add; 0: nothing."
    )
    b: Annotated[Number, Field(ge=0, le=1)] = option(
        default=0.75, help="How much long documents are penalised, from 0 to 1."
    )
    variant: Literal["lucene", "robertson", "atire"] = option(default="lucene", help="BM25's formula.")
    stopwords: str = option(
        default="english", help="A language whose stop words are left out, or none. Frequent words count little anyway."
    )
    stemmer: str = option(
        default="none", help="A language whose words are reduced to their stems (Snowball, by PyStemmer), or none."
    )

    def __post_init__(self) -> None:
        self.tokenizer()

    def tokenizer(self) -> Tokenizer:
        """Return a tokenizer with an empty vocabulary. Raises SettingsError for an unknown language."""
        stemmer = None
        if self.stemmer != "none":
            try:
                stemmer = import_module("Stemmer").Stemmer(self.stemmer)
            except ImportError:
                hint = "Install it: pip install 'curate[stem]'."
                raise SettingsError(f"stemmer is {self.stemmer!r}, which needs PyStemmer.", hint=hint) from None
            except KeyError:
                languages = ", ".join(import_module("Stemmer").algorithms())
                raise SettingsError(f"stemmer is {self.stemmer!r}; expected 'none' or one of {languages}.") from None
        try:
            stopwords = None if self.stopwords == "none" else self.stopwords
            return Tokenizer(splitter=words, stopwords=stopwords, stemmer=stemmer)  # type: ignore[arg-type]
        except ValueError as error:
            expected = "expected 'none' or a language"
            raise SettingsError(f"stopwords is {self.stopwords!r}; {expected}.", hint=str(error)) from None


@dataclass(frozen=True, kw_only=True)
class Bm25Scorer:
    """Score documents against one weight per term and group."""

    terms: Terms
    weights: np.ndarray
    """float64 `[terms, columns]`: mean occurrences in a group's rows, times the term's rarity."""
    mean_length: float
    """Words of a background document on average."""
    settings: Settings

    def __call__(self, encoded: Sequence[Encoded], batching: Batching) -> Scored:
        """Return every document's mean BM25 score over each group's rows, from all of its text."""
        counted, settings = self.terms.count(encoded), self.settings
        relative = 1 - settings.b + settings.b * counted.lengths[counted.documents] / self.mean_length
        frequency = counted.counts / (counted.counts + settings.k1 * relative)
        if settings.variant == "atire":
            frequency *= settings.k1 + 1
        scores = np.empty((len(encoded), self.weights.shape[1]))
        for column, weights in enumerate(self.weights.T):
            entries = frequency * weights[counted.terms]
            scores[:, column] = np.bincount(counted.documents, entries, minlength=len(encoded))
        return Scored(scores=torch.from_numpy(scores))


def prepare(inputs: Inputs, settings: Settings) -> Bm25Scorer:
    """Weigh the words of the target (less those of a control set), or read the weights kept in the run."""
    control = inputs.against
    keys = asdict(settings) | {
        "target": (inputs.target.fingerprint, tuple(inputs.target.groups)),
        "control": control and control.fingerprint,
        "background": inputs.background_fingerprint,
    }
    tensors = inputs.kept.get("target/bm25", keys, lambda: _weigh(inputs, settings))
    terms = bytes(tensors["terms"].numpy()).decode("utf-8", "surrogatepass").split("\n")
    return Bm25Scorer(
        terms=Terms(terms, settings.tokenizer()),
        weights=tensors["weights"].numpy(),
        mean_length=float(tensors["mean_length"]),
        settings=settings,
    )


def _weigh(inputs: Inputs, settings: Settings) -> dict[str, Tensor]:
    """Return the terms, their weights, and the background's mean length, as tensors that a run keeps."""
    controls = [] if inputs.against is None else inputs.against.encoded
    with inputs.reporter.stage("target", total=len(inputs.target.encoded) + len(controls), grows="target") as stage:
        terms = Terms.of([*inputs.target.encoded, *controls], settings.tokenizer())
        queries = _queries(inputs.target, terms)
        if inputs.against is not None:
            queries = queries - _queries(inputs.against, terms)[:, :1]
        stage.advance(len(inputs.target.encoded) + len(controls))
    background = inputs.background()
    having, words_in_all = np.zeros(len(terms.terms), np.int64), 0
    with inputs.reporter.stage("background", total=len(background), grows="background") as stage:
        for start in range(0, len(background), _AT_ONCE):
            counted = terms.count(background[start : start + _AT_ONCE])
            having += np.bincount(counted.terms, minlength=len(having))
            words_in_all += int(counted.lengths.sum())
            stage.advance(len(counted.lengths))
    if not words_in_all:
        raise CurateError("The background sample of the pool holds no word.", hint="Check --text-column.")
    weights = queries * _rarity(np.maximum(having, 1), len(background), settings.variant)[:, None]
    return {
        "terms": torch.frombuffer(
            bytearray("\n".join(terms.terms).encode("utf-8", "surrogatepass")), dtype=torch.uint8
        ),
        "weights": torch.from_numpy(weights),
        "mean_length": torch.tensor(words_in_all / len(background), dtype=torch.float64),
    }


def _queries(target: EncodedTarget, terms: Terms) -> np.ndarray:
    """Return float64 `[terms, columns]`: mean occurrences per row, over all rows, then over each group's."""
    counted = terms.count(target.encoded)
    groups = np.array(target.groups)
    chosen = [np.ones(len(groups), bool), *(groups == name for name in target.names)][: target.columns]
    columns = []
    for members, group_name in zip(chosen, ["", *target.names], strict=False):
        if not counted.lengths[members].any():
            group = f" of group {group_name!r}" if group_name else ""
            raise CurateError(
                f"No row{group} holds a word to look for.", hint="BM25 needs text: choose another --method."
            )
        counts = counted.counts * members[counted.documents]
        columns.append(np.bincount(counted.terms, counts, minlength=len(terms.terms)) / members.sum())
    return np.stack(columns, 1)


def _rarity(having: np.ndarray, documents: int, variant: str) -> np.ndarray:
    """Return each term's inverse document frequency by the variant's formula, never below 0."""
    if variant == "atire":
        return np.log(documents / having)
    odds = (documents - having + 0.5) / (having + 0.5)
    return np.log(1 + odds) if variant == "lucene" else np.log(np.maximum(1, odds))
