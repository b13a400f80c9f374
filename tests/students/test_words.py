import re
import subprocess
import sys

import numpy as np

from curate.documents.hashed_words import MULTIPLIER
from curate.students.words import BITS, FEATURES, features


def test_rows_have_norm_1_and_do_not_depend_on_their_neighbours() -> None:
    texts = ["A court shall hold.", "", "The ship rode a grey swell", "東京都 へ 行く"] * 40
    together = features(texts)
    assert together.shape == (160, FEATURES)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1)[[0, 2, 3]], 1, rtol=1e-5)
    for text, row in zip(texts[:4], together[:4], strict=True):
        np.testing.assert_array_equal(features([text])[0], row)


def counted(text: str) -> np.ndarray:
    """Count words and runs of four bytes one by one."""
    letters, counts = re.sub(rb"[A-Z]", lambda m: m[0].lower(), text.encode()), np.zeros(FEATURES, np.float32)
    padded, shift = letters + b"\0" * 4, 64 - BITS
    for i in range(len(letters)):
        run = int.from_bytes(padded[i : i + 4], "little")
        counts[(run * (MULTIPLIER >> 32)) % 2**32 >> 32 - BITS] += 1
    for word in re.findall(rb"[0-9a-z_\x80-\xff]+", letters):
        thing = (int.from_bytes(word[:8], "little") * MULTIPLIER + len(word)) % 2**64
        counts[(thing ^ thing >> 29) * MULTIPLIER % 2**64 >> shift] += 1
    return np.sqrt(counts) / max(1, np.sqrt(counts.sum()))


def test_cells_are_those_of_words_and_runs_of_bytes_counted_one_by_one() -> None:
    texts = ["A court shall hold _x9.", "", "Ein Übermaß — 東京都 へ 行く\0\n", "Z" * 50, "a" * 300_000]
    for text, row in zip(texts, features(texts), strict=True):
        np.testing.assert_allclose(row, counted(text), rtol=1e-5)


def test_case_does_not_count_and_other_words_do() -> None:
    upper, lower, other = features(["The Grey Ship sails", "the grey ship sails", "a party may waive notice"])
    np.testing.assert_array_equal(upper, lower)
    assert lower @ other < 0.5


def test_long_texts_fill_blocks_of_their_own() -> None:
    long = "the ship rode a grey swell while gulls cried " * 10_000
    np.testing.assert_allclose(features(["x", long, "y"])[1], features([long])[0])


def test_reading_words_needs_no_torch() -> None:
    code = "import sys, curate.pipeline.predict, curate.students.words; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
