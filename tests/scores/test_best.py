from curate.rescoring.shortlist import best_places
from curate.scores.best import best_rows
from tests.small_runs import rows, write


def test_equal_scores_go_by_place_and_the_worst_come_with_the_lowest_first(start) -> None:
    run = start()
    write(run, "b", 1, rows("b", 0, [2.0, 5.0, -1.0]))
    write(run, "a", 0, rows("a", 0, [2.0, 1.0, 2.0]))
    columns = ("score", "shard", "row")
    assert best_rows(run, columns, 4) == [(5.0, "b", 1), (2.0, "a", 0), (2.0, "a", 2), (2.0, "b", 0)]
    assert best_rows(run, columns, 2, order="worst") == [(-1.0, "b", 2), (1.0, "a", 1)]
    assert len(best_rows(run, columns, 99)) == 6


def test_a_shortlist_is_the_best_of_every_run(start) -> None:
    one, two = start("one"), start("two")
    write(one, "a", 0, rows("a", 0, [1.0, 3.0, 3.0]))
    write(two, "a", 0, rows("a", 0, [9.0, 3.0, 8.0]))
    assert best_places([one, two], 1) == {("a", 1), ("a", 0)}
