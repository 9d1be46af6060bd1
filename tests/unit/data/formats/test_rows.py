"""Values as texts and as labels."""

from decimal import Decimal
from typing import Any

import pytest

from labeltune.data.formats.rows import as_label, as_text, class_name
from labeltune.runtime.errors import UserError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a ", " a "),
        (None, None),
        (float("nan"), None),
        (True, "true"),
        (3.0, "3"),
        (Decimal("1.50"), "1.50"),
        (7, "7"),
    ],
)
def test_a_value_as_text(value: Any, text: str | None) -> None:
    assert as_text(value, "f:1", "text") == text


@pytest.mark.parametrize(("value", "label"), [(" a ", "a"), (["a"], "a"), ([], None), (None, None), ([3], "3")])
def test_a_value_as_label(value: Any, label: str | None) -> None:
    assert as_label(value, "f:1", "label") == label


@pytest.mark.parametrize(
    ("value", "message"),
    [(["a", "b"], "several labels"), ([[0, 5, "ORG"]], "spans of the text"), ({"a": 1}, "one value is expected")],
)
def test_what_is_no_label_is_refused_by_what_it_is(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"f:1: {message}.*see label"):
        as_label(value, "f:1", "label")


def test_a_class_number_without_a_class() -> None:
    assert [class_name(number, ["ham", "spam"], "f:1") for number in (0, 1, -1, None)] == ["ham", "spam", None, None]
    for number in (2, -2):
        with pytest.raises(UserError, match=f"f:1: class number {number}, and the file names 2 classes"):
            class_name(number, ["ham", "spam"], "f:1")
