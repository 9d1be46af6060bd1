"""Which columns of a table hold the texts and the labels."""

from typing import Any

import pytest

from labeltune.data.columns import find_columns, find_text_column, split_of
from labeltune.runtime.errors import UserError

WHERE, CONF = "a.csv:1", "conf/datasets/mine.yaml"


@pytest.mark.parametrize(
    ("names", "keys", "said"),
    [
        ("text,txt,label", {"text": "Text2"}, ["no column 'Text2'. Did you mean 'text'? There are: text, txt, label"]),
        ("a,b,label", {"text": "zzz"}, ["no column 'zzz'. There are: a, b, label. Edit text: in " + CONF]),
        ("a,b,c", {"text": 3, "label": 7}, ["no column at position 3, they are 0 to 2", "position 7", "label: in"]),
        ("a,b,c", {"text": -1, "label": 0}, ["no column at position -1"]),
        ("a,b,c", {}, ["usual name of a text; columns: a, b, c: set text: in " + CONF, "set label:"]),
        ("text,review,label", {}, ["text and review may each be the text", "set text: in " + CONF]),
        ("a,text,class,topic", {}, ["class and topic may each be the label", "set label: in " + CONF]),
        ("text,label,c", {"text": "text", "label": 0}, ["text: and label: name the same column"]),
        (3, {"text": "text"}, ["have no names (header: false)", "'text' to text:"]),
        (3, {}, ["its 3 columns have no names: set text: to a position, 0 to 2, in " + CONF]),
    ],
)
def test_columns_that_cannot_be_told_are_refused(names: str | int, keys: dict[str, Any], said: list[str]) -> None:
    columns = names if isinstance(names, int) else names.split(",")
    with pytest.raises(UserError) as caught:
        find_columns(columns, keys.get("text"), keys.get("label"), WHERE, CONF)
    assert WHERE in str(caught.value)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("names", "keys", "found"),
    [
        (["id", "Message", "Category"], (None, None), (1, 2)),
        (["whatever", "tag"], (None, None), (0, 1)),
        (["text", "whatever"], (None, None), (0, 1)),
        (["text", "review", "label"], ("review", None), (1, 2)),
        (["text", "comment"], (None, "text"), (1, 0)),
        (["内容", "标签"], (None, None), (0, 1)),
        ([" Text ", "LABEL", ""], (None, None), (0, 1)),
        (2, (1, None), (1, 0)),
    ],
)
def test_columns_are_found_by_name_position_or_elimination(
    names: list[str] | int, keys: tuple[str | int | None, str | int | None], found: tuple[int, int]
) -> None:
    assert find_columns(names, *keys, WHERE, CONF) == found


@pytest.mark.parametrize(
    ("names", "text", "found"),
    [
        (["id", "review"], None, 1),
        (["whatever"], None, 0),
        (["", "whatever", ""], None, 1),
        (["text", "note"], "note", 1),
    ],
)
def test_the_text_column_of_rows_to_be_labelled_is_found(names: list[str], text: str | None, found: int) -> None:
    assert find_text_column(names, text, WHERE) == found


@pytest.mark.parametrize(
    ("names", "text", "said"),
    [
        (["a", "b"], None, "no column has a usual name of a text; columns: a, b; name one with --text-column"),
        (["text", "review"], None, "text and review may each be the text; columns: text, review; name one"),
        (["a", "b"], "c", "no column 'c'. There are: a, b. Name one with --text-column"),
    ],
)
def test_rows_without_a_text_column_are_refused(names: list[str], text: str | None, said: str) -> None:
    with pytest.raises(UserError) as caught:
        find_text_column(names, text, WHERE)
    assert str(caught.value).startswith(f"{WHERE}: {said}")


def test_values_of_a_split_column_are_read_in_any_case_and_others_name_no_split() -> None:
    assert [split_of(value) for value in (" Training", "VAL", "dev ", "eval", "0", "1", "2")] == [
        "train", "validation", "validation", "test", "train", "validation", "test",
    ]  # fmt: skip
    assert [split_of(value) for value in (None, "", "holdout", "3")] == [None] * 4
