"""Each token's own text, so that a table of scores per token can be read without a tokenizer."""

import codecs
import json
import re
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BEFORE = "a"  # decoded in front of a piece, because decoders treat the first piece of a text differently


class TokenTexts:
    """Turn ids into texts that, put together, are the document as its tokenizer decodes it.

    A character spread over several tokens belongs to the token that completes it; those before it are empty. Bytes that
    are no text are U+FFFD. Special tokens are written out, as they have scores, too. Every id is decoded once.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        kinds = _decoders(tokenizer)
        self._bytes = {c: b for b, c in bytes_to_unicode().items()} if "ByteLevel" in kinds else None
        self._has_byte_tokens = "ByteFallback" in kinds
        self._written_out = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items()}
        self._pieces: dict[int, bytes] = {}

    def __call__(self, ids: Iterable[int]) -> list[str]:
        """Return one text per id."""
        read = codecs.getincrementaldecoder("utf-8")("replace").decode
        texts, at_start = [], True
        for i in ids:
            i = int(i)
            if at_start and self._bytes is None and i not in self._written_out:
                texts.append(read(self._starting_piece(i)))
                at_start = False
                continue
            piece = self._pieces.get(i)
            if piece is None:
                piece = self._pieces[i] = self._piece(i)
            texts.append(read(piece))
        if texts:
            texts[-1] += read(b"", True)
        return texts

    def _piece(self, i: int) -> bytes:
        """Return the bytes of a token inside a text."""
        token = self._token(i)
        if self._has_byte_tokens and (byte := _BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        if i in self._written_out:
            return self._written_out[i].encode(errors="replace")
        if self._bytes is not None:
            return b"".join(bytes([self._bytes[c]]) if c in self._bytes else c.encode(errors="replace") for c in token)
        return self._decoded(_BEFORE, token).removeprefix(_BEFORE).encode(errors="replace")

    def _starting_piece(self, i: int) -> bytes:
        """Return the bytes of a token that begins a text, without the space that some tokenizers add there."""
        token = self._token(i)
        if self._has_byte_tokens and _BYTE.fullmatch(token):
            return self._piece(i)
        return self._decoded(token).encode(errors="replace")

    def _token(self, i: int) -> str:
        token: Any = self._tokenizer.convert_ids_to_tokens(i)
        return token or ""  # an id that the vocabulary does not have has no text

    def _decoded(self, *tokens: str) -> str:
        return str(self._tokenizer.convert_tokens_to_string(list(tokens)))


def _decoders(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return the names of a fast tokenizer's decoding steps; none for a tokenizer written in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    return {state.get("type", ""), *(d.get("type", "") for d in state.get("decoders", ()))}
