import json
from pathlib import Path

import numpy as np

from labeltune.data.labels import LabelSet
from labeltune.data.prevalence import FILE, Prevalence, in_order


def test_shares_are_read_back_digit_for_digit(tmp_path: Path) -> None:
    made = Prevalence.of(["负面"] * 2 + ["b"], ["负面", "b"], table=True)
    made.save(tmp_path)
    assert Prevalence.load(tmp_path) == made
    assert json.loads((tmp_path / FILE).read_text(encoding="utf-8"))["source"]["负面"] == 2 / 3
    np.testing.assert_array_equal(
        in_order(made.source, LabelSet(names=("b", "负面"), words=("b", "c"))), [1 / 3, 2 / 3]
    )


def test_validation_rows_have_the_shares_of_the_rows_that_they_are_drawn_from() -> None:
    before, after = ["a"] * 3 + ["b"], ["a", "b"]
    table, train_alone = (Prevalence.of(before, after, table=table) for table in (True, False))
    assert table.measured == table.trained == {"a": 0.5, "b": 0.5}
    assert train_alone.measured == train_alone.source == {"a": 0.75, "b": 0.25}
