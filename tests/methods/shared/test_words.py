import re

import pytest

from curate.methods.shared.words import words


def test_words_of_plain_english_are_those_of_bm25s() -> None:
    text = "We're 3.14 times x-ray_d; a b cd\nEND. --- don't I?"
    assert words(text) == re.findall(r"(?u)\b\w\w+\b", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("東京都 and 中", ["東京", "京都", "and", "中"]),
        ("東京都とabc中", ["東京", "京都", "都と", "abc", "中"]),
        ("カタ・カナ。ー", ["カタ", "カナ", "ー"]),
        ("한국어 텍스트", ["한국", "국어", "텍스", "스트"]),
        ("ไทย", ["ไท", "ทย"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("Привет, мир и я", ["Привет", "мир"]),
        ("ｆｕｌｌ widｔh", ["full", "width"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("🦊🦊 – …", []),
        ("", []),
    ],
)
def test_words_of_any_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected
