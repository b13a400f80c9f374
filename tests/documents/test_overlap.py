import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.documents import Overlap
from curate.documents.overlap import words

ROW = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."


def slow(targets: list[str], text: str, n: int) -> float:
    """The largest share, by sets of tuples."""
    parts = words(text)
    best = 0.0
    for target in targets:
        row = words(target)
        length = min(n, len(row))
        runs = {tuple(row[i : i + length]) for i in range(len(row) - length + 1)}
        there = {tuple(parts[i : i + length]) for i in range(len(parts) - length + 1)}
        best = max(best, len(runs & there) / len(runs))
    return best


@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=5, max_size=20), min_size=1, max_size=4),
    st.lists(st.sampled_from("abcd"), max_size=60),
    st.integers(min_value=5, max_value=13),
)
def test_overlap_equals_counting_with_sets(targets, text, n):
    targets = [" ".join(t) for t in targets]
    exact, share = Overlap(targets, n=n).measure(" ".join(text))
    assert share == pytest.approx(slow(targets, " ".join(text), n))
    padded = f" {' '.join(text)} "
    assert exact == any(f" {t} " in padded for t in targets)


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "of", "é", "internationalisation"]), max_size=20), max_size=6),
    st.lists(st.lists(st.sampled_from(["a", "b", "of", "é", "the", "internationalisation"]), max_size=40), max_size=6),
    st.integers(min_value=1, max_value=13),
)
def test_texts_are_measured_together_as_one_by_one(targets, texts, n):
    overlap = Overlap([" ".join(t) for t in targets], n=n)
    joined = ["\u2014".join(t) if len(t) % 3 == 0 else " ".join(t) for t in texts]
    assert overlap.measure_all(joined) == [overlap.measure(text) for text in joined]


def test_a_whole_row_is_found_whatever_its_case_spacing_and_punctuation():
    overlap = Overlap(["something else that is quite unlike the other row", ROW])
    document = f"Before.\n{ROW.upper().replace(' ', chr(10) + ' ').replace(',', ' --')} After."
    assert overlap.measure(document) == (True, 1.0)


def test_a_row_in_two_pieces_is_not_whole_but_overlaps():
    exact, share = Overlap([ROW]).measure(ROW.replace("April", "the month of April"))
    assert not exact
    assert share == 0.0
    long = ROW + " How many clips did Natalia sell altogether in April and May, when all of them are counted?"
    exact, share = Overlap([long]).measure(long.replace("altogether", "in total"))
    assert not exact
    assert 0.3 < share < 0.8


def test_all_runs_out_of_order_are_not_a_whole_row():
    row = "a b c a b d a b c"
    exact, share = Overlap([row], n=2).measure("b d a b c a")
    assert (exact, share) == (False, 1.0)


def test_unrelated_text_does_not_overlap():
    assert Overlap([ROW]).measure("A wholly different text about the weather in April.") == (False, 0.0)
    assert Overlap([ROW]).measure("") == (False, 0.0)
    assert Overlap([]).measure(ROW) == (False, 0.0)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("one two three four", False),  # four words, 18 characters: too common to mean anything
        ("one two three four five", True),
        ("internationalisation", True),  # twenty characters
        ("你好吗", False),
        ("我今天早上在公园里散步", True),
        ("", False),
    ],
)
def test_short_rows_count_from_five_words_or_twenty_characters(row, found):
    assert Overlap([row]).measure(f"x {row} y") == (found, float(found))


def test_part_of_a_word_is_not_a_word():
    assert Overlap(["the cat sat on it"]).measure("bathe cat sat on item") == (False, 0.0)


@pytest.mark.parametrize(
    "row",
    [
        "今天我们学习如何在没有空格的文字中找到重复的句子和段落",
        "วันนี้เราเรียนรู้วิธีค้นหาประโยคที่ซ้ำกันในข้อความที่ไม่มีช่องว่าง",
        "यह एक हिन्दी वाक्य है जिसमें कई शब्द हैं और जो दोहराया जाता है ताकि हम इसे खोज सकें",
    ],
)
def test_scripts_without_spaces_and_with_vowel_signs_are_found(row):
    assert Overlap([row]).measure(f"前{row}後") == (True, 1.0)
    assert Overlap([row]).measure(f"… {row} …") == (True, 1.0)
    half = row[: len(row) * 2 // 3]
    assert 0 < Overlap([row], n=5).measure(half)[1] < 1


def test_width_variants_are_equal():
    assert Overlap(["ＡＢＣ ｄｅｆ ghi jkl mno"]).measure("abc DEF ghi jkl mno")[0]


def test_a_long_document_is_measured_like_a_short_one():
    filler = " ".join(f"w{i}" for i in range(20_000))
    assert Overlap([ROW]).measure(f"{filler} {ROW} {filler}") == (True, 1.0)


def test_a_run_needs_a_word():
    with pytest.raises(ValueError, match="at least 1"):
        Overlap([ROW], n=0)


def test_many_texts_are_measured_as_one_by_one() -> None:
    rows = [
        "The quick brown fox jumps over a lazy dog",
        "one two three four five " * 4,
        "東京都へ行く日は雨が降ると思います 今日も",
    ]
    overlap = Overlap(rows)
    texts = [
        "",
        "nothing in common",
        f"before, {rows[0].upper()}; after",
        "the quick — brown “fox” jumps over a lazy dog",
        "TWO three four five one two three four five one two three four",
        f"x{rows[2]}y",
        "jumps over a lazy dog The quick brown fox",
    ]
    many = texts * 30  # several blocks
    assert overlap.measure_all(many) == [overlap.measure(text) for text in many]
    assert [share > 0 for _, share in overlap.measure_all(texts)] == [False, False, True, True, True, True, False]
    assert Overlap([]).measure_all(texts) == [(False, 0.0)] * len(texts)
