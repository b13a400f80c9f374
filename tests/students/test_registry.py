import pytest

from curate import students
from curate.errors import SettingsError


def test_every_student_keeps_the_contract_and_says_what_it_is() -> None:
    assert {"words", "embeddings", "hidden"} <= set(students.names())
    for name in students.names():
        assert students.get(name).description.endswith((".", ","))


def test_an_unknown_student_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="no student 'wrods'"):
        students.chosen("wrods")
