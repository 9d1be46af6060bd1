"""Labels that are several a row, or numbers on a scale, and those that only look so."""

import pytest

from labeltune.data.targets import check_labels
from labeltune.runtime.errors import UserError

SCORES = [str(i / 10) for i in range(30)]


@pytest.mark.parametrize(
    ("labels", "rows", "message"),
    [
        (["a", "b", "a|b"], 90, "'a|b' look like several labels with '|' between"),
        (["late", "rude", "late; rude"], 90, "with ';' between"),
        (["technical", "billing", "technical,urgent", "billing,urgent"], 90, "with ',' between"),
        (SCORES, 900, "the labels are 30 different numbers (0.0, 0.1, 0.2, ...), like a score"),
        ([str(i) for i in range(80)], 100, "the labels are 80 different numbers"),
    ],
)
def test_another_task_is_refused_by_what_was_seen(labels: list[str], rows: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_labels(labels, rows, "here", "do this")
    assert str(caught.value).startswith("here: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; do this")


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        (["Home, Garden", "Sports, Leisure", "Toys"], 90),
        (["1.0", "1.5", "2.0"], 90),
        ([str(i) for i in range(77)], 10_000),
        ([*SCORES, "unknown"], 90),
        (["a", "b", ";"], 90),
        ([], 0),
    ],
)
def test_classes_are_not_refused(labels: list[str], rows: int) -> None:
    check_labels(labels, rows, "here", "do this")
