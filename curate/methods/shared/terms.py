"""Count the words of a vocabulary in documents that stream by."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from bm25s.tokenization import Tokenizer

from curate.proxies.tokens import Encoded


@dataclass(frozen=True, kw_only=True)
class WordCounts:
    """How often known terms occur in some documents, as a sparse matrix by rows."""

    documents: np.ndarray
    """int64 `[entries]`, rising."""
    terms: np.ndarray
    """int64 `[entries]`, rising within a document."""
    counts: np.ndarray
    """int64 `[entries]`, 1 or more."""
    lengths: np.ndarray
    """int64 `[documents]`: words of each document, unknown ones included."""


class Terms:
    """A vocabulary that counts its words in documents; other words count towards length alone."""

    def __init__(self, terms: Sequence[str], tokenizer: Tokenizer) -> None:
        self.terms, self._tokenizer = terms, tokenizer
        self._index = {term: i for i, term in enumerate(terms)}

    @classmethod
    def of(cls, documents: Sequence[Encoded], tokenizer: Tokenizer) -> "Terms":
        """Build the vocabulary of all words of some documents, sorted."""
        tokenizer.reset_vocab()
        tokenizer.tokenize([d.text for d in documents], update_vocab=True, allow_empty=False, show_progress=False)
        return cls(sorted(tokenizer.get_vocab_dict()), tokenizer)

    def count(self, documents: Sequence[Encoded]) -> WordCounts:
        """Count the documents' words; nothing is remembered between calls, so that memory stays bounded."""
        self._tokenizer.reset_vocab()
        texts = [d.text for d in documents]
        ids = self._tokenizer.tokenize(texts, update_vocab=True, allow_empty=False, show_progress=False)
        term_of_word = np.full(max(1, len(self._tokenizer.get_vocab_dict())), -1, np.int64)
        for word, i in self._tokenizer.get_vocab_dict().items():
            term_of_word[i] = self._index.get(word, -1)
        lengths = np.array([len(row) for row in ids], np.int64)
        owners = np.repeat(np.arange(len(texts)), lengths)
        terms = term_of_word[np.fromiter(chain.from_iterable(ids), np.int64, int(lengths.sum()))]
        keys = owners[terms >= 0] * len(self.terms) + terms[terms >= 0]
        entries, counts = np.unique(keys, return_counts=True)
        document_indices, term_indices = np.divmod(entries, max(1, len(self.terms)))
        return WordCounts(documents=document_indices, terms=term_indices, counts=counts, lengths=lengths)
