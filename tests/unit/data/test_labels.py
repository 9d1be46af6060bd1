from pathlib import Path

import pytest

from labeltune.data.labels import LabelSet
from labeltune.runtime.errors import UserError


def test_without_a_map_names_are_sorted_and_numbers_as_numbers() -> None:
    assert LabelSet.of(["b", "a", "b"]).names == ("a", "b")
    assert LabelSet.of(["10", "9", "-1"]).names == ("-1", "9", "10")


def test_a_map_gives_names_and_order() -> None:
    labels = LabelSet.of(["negative", "positive"], {"1": "positive", "0": "negative"}, {"positive": "good"})
    assert labels.names == ("positive", "negative")
    assert labels.words == ("good", "negative")
    assert labels.index(["negative", "positive"]) == [1, 0]


def test_several_raw_values_may_share_a_name() -> None:
    assert LabelSet.of(["no", "yes"], {"0": "no", "n": "no", "1": "yes"}).names == ("no", "yes")


@pytest.mark.parametrize(
    ("values", "labels", "verbalizer", "message"),
    [
        (["a", "a"], None, None, "at least two classes; the rows have 'a'"),
        (["a", "b"], {"0": "a", "1": "b", "2": "c"}, None, r"no row has '2' \(c\)"),
        (["a", "b"], None, {"c": "x"}, r"no label is called \['c'\]; the labels are \['a', 'b'\]"),
        (["a", "b"], None, {"a": "x", "b": "x"}, "two labels share a word"),
    ],
)
def test_what_cannot_be_a_label_set_is_refused(values, labels, verbalizer, message) -> None:
    with pytest.raises(UserError, match=message):
        LabelSet.of(values, labels, verbalizer)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    labels = LabelSet.of(["好", "坏"], None, {"好": "正面"})
    labels.save(tmp_path / "labels.json")
    assert LabelSet.load(tmp_path / "labels.json") == labels
