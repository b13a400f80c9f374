import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curate.documents.folding import folded_block, words
from curate.documents.hashed_words import letters_of, words_of

ODD = [
    "e\u0301",
    "\u0301",
    "\u212b",
    "\ufb01",
    "\u0130",
    "\u00b2",
    "\u201c",
    "\u2014",
    "\uff21",
    "\u0947",
    "\u4e2d\u6587",
    "\u3099",
    "\uff9e",
]
ODD += [
    "\u30ab\uff9e",
    "\u00a8",
    "\u0344",
    "\u1100\u1161",
    "\u1161",
    "\u03a3",
    "\ud800",
    "\0",
    "\ufffd",
    "\U0001f600",
    "\u0e01\u0e33",
    "\u00df",
]
TEXTS = st.lists(
    st.one_of(st.sampled_from([*ODD, "a", "B", " ", "word"]), st.characters(exclude_categories=())), max_size=30
).map("".join)


def codes(texts: list[bytes]) -> list[int]:
    return words_of(letters_of(texts))[0].tolist()


@settings(max_examples=500)
@given(st.lists(TEXTS, min_size=1, max_size=5))
@example(["e\u0301", "\u0301e", "", "x\u0301\u0301y \u0301"])
@example(["\u0301"])
@example(["abc", "\u0327\u0301", "o\u0301\u0327"])
def test_a_block_of_texts_holds_the_words_of_each(texts: list[str]) -> None:
    folded, ends = folded_block([text.encode("utf-8", "surrogatepass") for text in texts])
    found, starts = words_of(letters_of([folded]))
    of_text = ends.searchsorted(starts, "right").tolist()
    for i, text in enumerate(texts):
        parts = words(text)
        expected = codes([" ".join(parts).encode("utf-8", "surrogatepass")])
        assert [code for code, owner in zip(found.tolist(), of_text, strict=True) if owner == i] == expected


@pytest.mark.parametrize("mark", ["\u0301", "\u0344"])
def test_a_mark_belongs_to_the_character_before_it(mark: str) -> None:
    (folded, _), (plain, _) = folded_block([f"cafe{mark} au lait".encode()]), folded_block([b"cafe au lait"])
    assert codes([folded]) == codes([" ".join(words(f"cafe{mark} au lait")).encode()])
    assert codes([folded]) != codes([plain])


def test_ascii_stays_as_it_is() -> None:
    folded, ends = folded_block([b"One", b"", b"two three"])
    assert folded.split(b"\0\0\0\0") == [b"One", b"", b"two three"]
    assert ends.tolist() == [7, 11, 24]
