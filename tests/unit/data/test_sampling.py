import pandas as pd
import pytest

from labeltune.data.sampling import sample, stratified


def test_split_sizes_are_exact_and_stratified() -> None:
    table = pd.DataFrame({"label": ["ham"] * 747 + ["spam"] * 747})
    parts = stratified(table, [0.7, 0.1], seed=0)
    assert [len(part) for part in parts] == [1045, 149, 300]
    for part in parts:
        counts = part["label"].value_counts()
        assert abs(counts["ham"] - counts["spam"]) <= 1


@pytest.mark.parametrize("rows", [3, 10, 29, 100, 101])
def test_split_loses_and_repeats_no_row(rows: int) -> None:
    table = pd.DataFrame({"label": [f"c{i % 3}" for i in range(rows)], "row": range(rows)})
    parts = stratified(table, [0.29, 0.5], seed=1)
    assert [len(part) for part in parts[:2]] == [rows * 29 // 100, rows // 2]
    assert sorted(row for part in parts for row in part["row"]) == list(range(rows))


def test_split_depends_on_the_seed_and_on_nothing_else() -> None:
    table = pd.DataFrame({"label": ["a", "b"] * 50, "row": range(100)})
    first, again, other = (stratified(table, [0.5], seed=seed)[0]["row"].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_a_sample_has_the_shares_of_all_rows_in_their_order() -> None:
    labels = [0] * 60 + [1] * 30 + [2] * 10
    rows = sample(labels, 10, seed=0)
    assert rows == sorted(set(rows))
    assert [sum(labels[row] == label for row in rows) for label in range(3)] == [6, 3, 1]
    assert sample(labels, 10, seed=0) == rows
    assert sample(labels, 10, seed=1) != rows


@pytest.mark.parametrize("rows", ["all", 100, 101])
def test_a_sample_of_as_many_rows_as_there_are_is_all_of_them(rows: int | str) -> None:
    assert sample([0, 1] * 50, rows, seed=3) == list(range(100))
