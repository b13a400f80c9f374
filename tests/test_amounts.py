import pytest

from curate.amounts import counted, duration, rounded, size


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.01, "1 s"),
        (59.6, "60 s"),
        (119, "2 min"),
        (6900, "1 h 55 min"),
        (7199.9, "2 h 0 min"),
        (187_000, "2 days 4 h"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "1 kB"), (12_345, "12 kB"), (1e7, "10 MB"), (8e8, "0.8 GB"), (9.96e9, "10 GB"), (3.14e12, "3.1 TB")],
)
def test_amounts_of_memory_and_disk_are_said_as_people_say_them(amount: float, said: str) -> None:
    assert size(amount) == said


def test_estimates_have_three_digits_and_nouns_their_number() -> None:
    assert [rounded(n) for n in (0, 7, 999, 43_491, 1_849_999)] == ["0", "7", "999", "43,500", "1,850,000"]
    assert [counted(n, "row") for n in (0, 1, 1204)] == ["0 rows", "1 row", "1,204 rows"]
