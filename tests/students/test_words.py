import subprocess
import sys

import numpy as np

from curate.students.words import FEATURES, features


def test_rows_have_norm_1_and_do_not_depend_on_their_neighbours() -> None:
    texts = ["A court shall hold.", "", "The ship rode a grey swell", "東京都 へ 行く"] * 40
    together = features(texts)
    assert together.shape == (160, FEATURES)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1)[[0, 2, 3]], 1, rtol=1e-5)
    for text, row in zip(texts[:4], together[:4], strict=True):
        np.testing.assert_array_equal(features([text])[0], row)


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
