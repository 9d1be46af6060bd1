from typing import Any

import pandas as pd
import pytest

from labeltune.config.data import Prepare
from labeltune.data.cleaning import DataStatistics, clean, label_set
from labeltune.data.splitting import split_rows
from labeltune.runtime.errors import UserError


def settings(**changes: Any) -> Prepare:
    return Prepare.model_validate({"seed": 42, **changes})


def frame(*rows: tuple[str | None, str | None]) -> pd.DataFrame:
    """Rows of (label, text)."""
    return pd.DataFrame([{"id": f"f.csv:{i}", "text": text, "label": label} for i, (label, text) in enumerate(rows, 2)])


def distinct(label: str, count: int, start: int = 0) -> list[tuple[str, str]]:
    """Texts that share no 5-gram."""
    return [(label, f"{label}{i:04d}" * 3) for i in range(start, start + count)]


def split(frames: dict[str, pd.DataFrame], **changes: Any) -> tuple[dict[str, pd.DataFrame], DataStatistics]:
    statistics = DataStatistics()
    given = settings(**changes)
    return split_rows(clean(frames, given, None, statistics), given, statistics), statistics


def counts_add_up(statistics: DataStatistics, frames: dict[str, pd.DataFrame]) -> bool:
    dropped = sum(sum(counts.values()) for counts in statistics.dropped.values())
    return sum(statistics.read.values()) == sum(map(len, frames.values())) + dropped


def test_texts_are_normalised() -> None:
    statistics = DataStatistics()
    rows = frame(("a", " cafe\u0301\u00a0\n\u200b x "), ("b", "２"))
    assert clean({"all": rows}, settings(), None, statistics)["all"]["text"].tolist() == ["café x", "２"]
    assert clean({"all": rows}, settings(unicode="NFKC"), None, statistics)["all"]["text"].tolist() == ["café x", "2"]
    kept = clean({"all": rows}, settings(unicode="none", whitespace="keep"), None, statistics)["all"]["text"].tolist()
    assert kept == rows["text"].tolist()


@pytest.mark.parametrize("text", [None, "", " \n\t", "\u200b"])
def test_missing_texts_follow_the_setting_and_are_counted(text: str | None) -> None:
    rows = {"all": frame(("a", "x"), ("a", text))}
    for action, left, dropped in (("drop", 1, 1), ("keep", 2, 0)):
        statistics = DataStatistics()
        assert len(clean(rows, settings(missing_text=action), None, statistics)["all"]) == left
        assert statistics.found["missing_text"]["all"] == 1
        assert statistics.dropped["missing_text"]["all"] == dropped
    with pytest.raises(UserError, match=r"prepare.missing_text is set to fail, and 1 rows have it in all.*f.csv:3"):
        clean(rows, settings(missing_text="fail"), None, DataStatistics())


def test_missing_labels_stop_the_run_unless_they_may_be_dropped() -> None:
    rows = {"all": frame(("a", "x"), (None, "y"))}
    with pytest.raises(UserError, match=r"prepare.missing_label.*f.csv:3"):
        clean(rows, settings(), None, DataStatistics())
    assert len(clean(rows, settings(missing_label="drop"), None, DataStatistics())["all"]) == 1


def test_a_label_that_the_map_does_not_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"1 all rows have labels.*\['2'\], first at f.csv:3.*names \['0'\]"):
        clean({"all": frame(("0", "x"), ("2", "y"))}, settings(), {"0": "no"}, DataStatistics())


def test_only_missing_values_is_an_error() -> None:
    with pytest.raises(UserError, match="no all row is left: all 1 were dropped"):
        clean({"all": frame(("a", ""))}, settings(), None, DataStatistics())


CONFLICT = [("a", "same words here twice"), ("b", "same words here twice")]
EXACT = [("a", "exactly these words"), ("a", "exactly these words")]
NEAR = [("a", "nearly these words and no others at all, one"), ("a", "nearly these words and no others at all, two")]


@pytest.mark.parametrize(
    ("reason", "extra", "dropped"), [("conflicts", CONFLICT, 2), ("exact_inside", EXACT, 1), ("near_inside", NEAR, 1)]
)
def test_each_gate_drops_keeps_or_fails_and_always_counts(reason: str, extra: list, dropped: int) -> None:
    rows = {"all": frame(*distinct("a", 20), *distinct("b", 20), *extra)}
    opened = {"near_across": "keep", "exact_across": "keep", "exact_inside": "keep", reason: "drop"}
    frames, statistics = split(rows, **opened)
    assert statistics.found[reason].total() == dropped
    assert statistics.dropped[reason].total() == dropped
    assert sum(map(len, frames.values())) == 42 - dropped
    frames, statistics = split(rows, **(opened | {reason: "keep"}))
    assert statistics.found[reason].total() == dropped
    assert statistics.dropped[reason].total() == 0
    assert sum(map(len, frames.values())) == 42
    with pytest.raises(UserError, match=f"prepare.{reason} is set to fail"):
        split(rows, **(opened | {reason: "fail"}))


@pytest.mark.parametrize("reason", ["exact_across", "near_across"])
def test_a_row_that_repeats_a_test_row_leaves_training(reason: str) -> None:
    leak = EXACT if reason == "exact_across" else NEAR
    train = frame(*distinct("a", 20), *distinct("b", 20), leak[0])
    test = frame(*distinct("a", 5, 100), *distinct("b", 5, 100), leak[1])
    frames, statistics = split({"train": train, "test": test})
    assert len(frames["test"]) == 11
    assert statistics.dropped[reason].total() == 1
    assert leak[0][1] not in [*frames["train"]["text"], *frames["validation"]["text"]]
    assert counts_add_up(statistics, frames)
    frames, statistics = split({"train": train, "test": test}, **{reason: "keep"})
    assert statistics.found[reason].total() == 1
    assert leak[0][1] in [*frames["train"]["text"], *frames["validation"]["text"]]


def test_a_given_test_set_is_never_changed() -> None:
    test = frame(*distinct("a", 5, 100), *distinct("b", 5, 100), *EXACT, *CONFLICT, *NEAR)
    frames, statistics = split(
        {"train": frame(*distinct("a", 20), *distinct("b", 20)), "test": test}, near_inside="drop"
    )
    assert frames["test"]["text"].tolist() == test["text"].tolist()
    assert statistics.found["exact_inside"]["test"] == 2
    assert statistics.found["conflicts"]["test"] == 2
    assert counts_add_up(statistics, frames)


def test_validation_is_15_percent_of_train_where_a_test_set_is_given() -> None:
    frames, _ = split(
        {
            "train": frame(*distinct("a", 101), *distinct("b", 100)),
            "test": frame(*distinct("a", 2, 900), *distinct("b", 2, 900)),
        }
    )
    assert [len(frames[name]) for name in ("train", "validation", "test")] == [171, 30, 4]


def test_given_splits_stay_as_they_are() -> None:
    given = {
        name: frame(*distinct("a", 4, start), *distinct("b", 4, start))
        for name, start in (("train", 0), ("validation", 100), ("test", 200))
    }
    frames, _ = split(given)
    assert {name: part["text"].tolist() for name, part in frames.items()} == {
        name: part["text"].tolist() for name, part in given.items()
    }


def test_balance_takes_the_smallest_class_and_keeps_the_books() -> None:
    frames, statistics = split({"all": frame(*distinct("a", 90), *distinct("b", 30))}, balance="smallest")
    counts = pd.concat(list(frames.values()))["label"].value_counts()
    assert counts.to_dict() == {"a": 30, "b": 30}
    assert [len(frames[name]) for name in ("train", "validation", "test")] == [42, 6, 12]
    assert counts_add_up(statistics, frames)


def test_balance_draws_at_random_by_the_seed() -> None:
    """The first rows of a table are often of one source or time."""

    def kept(seed: int) -> list[int]:
        frames, _ = split({"all": frame(*distinct("a", 300), *distinct("b", 30))}, balance="smallest", seed=seed)
        texts = pd.concat(list(frames.values())).query("label == 'a'")["text"]
        return sorted(int(text[1:5]) for text in texts)

    assert kept(1) == kept(1) != kept(2)
    assert 100 < sum(kept(1)) / 30 < 200


def test_near_copies_stand_in_one_split_and_no_count_changes() -> None:
    words = [f"{word}{i:03d}{word[::-1]}" for i, word in enumerate(["lorem", "ipsum", "dolor", "amet"] * 15)]
    copies = [
        ("a", f"{' '.join(words[i * 10 : i * 10 + 10])} {end}") for i in range(5) for end in ("one", "two", "3", "4")
    ]
    frames, statistics = split({"all": frame(*copies, *distinct("a", 60), *distinct("b", 80))}, near_threshold=0.7)
    home = {text: name for name, part in frames.items() for text in part["text"]}
    groups = [{home[text] for _, text in copies[start : start + 4]} for start in range(0, 20, 4)]
    assert [len(group) for group in groups] == [1] * 5
    assert statistics.moved > 0
    assert not sum(counts.total() for counts in statistics.dropped.values())
    assert {name: len(part) for name, part in frames.items()} == {"train": 112, "validation": 16, "test": 32}


def test_balance_leaves_a_given_test_set_alone() -> None:
    frames, _ = split(
        {
            "train": frame(*distinct("a", 90), *distinct("b", 20)),
            "test": frame(*distinct("a", 9, 500), *distinct("b", 1, 500)),
        },
        balance="smallest",
    )
    assert frames["train"]["label"].value_counts().to_dict() == {"a": 17, "b": 17}
    assert len(frames["test"]) == 10


def test_the_shares_before_and_after_balancing_are_kept() -> None:
    rows = frame(*distinct("a", 90), *distinct("b", 30))
    _, statistics = split({"all": rows}, balance="smallest")
    table = statistics.prevalence
    assert table is not None
    assert table.source == {"a": 0.75, "b": 0.25}
    assert table.trained == table.measured == {"a": 0.5, "b": 0.5}
    _, statistics = split({"train": rows, "test": frame(*distinct("a", 9, 500))}, balance="smallest")
    given = statistics.prevalence
    assert given is not None
    assert given.trained == {"a": 0.5, "b": 0.5}
    assert given.measured == given.source != given.trained
    _, statistics = split({"all": rows}, train_rows=10)
    plain = statistics.prevalence
    assert plain is not None
    assert plain.source == plain.trained == plain.measured == {"a": 0.75, "b": 0.25}


def test_train_rows_takes_a_stratified_sample() -> None:
    frames, statistics = split({"all": frame(*distinct("a", 60), *distinct("b", 40))}, train_rows=10)
    assert frames["train"]["label"].value_counts().to_dict() == {"a": 6, "b": 4}
    assert len(frames["test"]) == 20
    assert counts_add_up(statistics, frames)


def test_validation_rows_that_were_split_off_are_bounded_and_given_ones_are_not() -> None:
    rows = frame(*distinct("a", 6000, 7), *distinct("b", 4000, 6007))
    statistics_of = {}
    for setting, kept in (("auto", 2000), ("all", 4000), (50, 50), (9000, 4000)):
        frames, statistics = split(
            {"all": rows}, split={"train": 0.4, "validation": 0.4, "test": 0.2}, train_rows=100,
            validation_rows=setting, near_across="keep",
        )  # fmt: skip
        assert len(frames["validation"]) == kept
        assert frames["validation"]["label"].value_counts().to_dict() == {"a": kept * 0.6, "b": kept * 0.4}
        assert counts_add_up(statistics, frames)
        statistics_of[setting] = statistics
    assert statistics_of["auto"].dropped["validation_rows"] == {"validation": 2000}
    validation = frame(*distinct("a", 40, 30_000), *distinct("b", 40, 31_000))
    given = {"train": rows, "validation": validation, "test": frame(*distinct("a", 9, 20_000))}
    frames, statistics = split(given, validation_rows=10, near_across="keep")
    assert len(frames["validation"]) == 80


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({"all": frame(*distinct("a", 20), *distinct("b", 2))}, r"at least 3 rows.*'b' \(2\)"),
        (
            {"train": frame(*distinct("a", 9), *distinct("b", 1)), "test": frame(("a", "x"))},
            r"at least 3 rows.*'b' \(1\)",
        ),
        (
            {"train": frame(*distinct("a", 9), *distinct("b", 9)), "test": frame(("a", "x"), ("c", "y"))},
            r"1 test rows have labels that no training row has: \['c'\], first at f.csv:3",
        ),
        ({"all": frame(*distinct("a", 3), *distinct("b", 3))}, "no row is left for validation"),
    ],
)
def test_data_that_cannot_be_split_is_refused(frames: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(frames)


RARE = {"all": frame(*distinct("a", 30), *distinct("b", 30), *distinct("c", 2), *distinct("d", 1))}
GIVEN = {
    "train": frame(*distinct("a", 30), *distinct("b", 30), *distinct("c", 2)),
    "validation": frame(("a", "one for validation"), ("b", "another for validation")),
    "test": frame(("a", "one for the test"), ("c", "a second for it"), ("d", "a third one, unlike them")),
}


@pytest.mark.parametrize("given", [RARE, GIVEN], ids=["one table", "splits"])
def test_classes_with_few_rows_are_refused_left_out_or_merged_and_counted(given: dict) -> None:
    total = sum(map(len, given.values()))
    with pytest.raises(UserError, match=r"at least 3 rows.*'c' \(2\).*rare_classes to drop.*or to merge"):
        split(given)
    kept, statistics = split(given, rare_classes="drop")
    assert {label for one in kept.values() for label in one["label"]} == {"a", "b"}
    assert set(statistics.rare) == {"c", "d"}
    assert sum(map(len, kept.values())) + sum(statistics.dropped["rare_classes"].values()) == total
    labels = label_set(kept, {name: name for name in "abcd"}, {"d": "delta"}, statistics.rare)
    assert labels.names == ("a", "b")
    if "all" in given:
        merged, statistics = split(given, rare_classes="merge", rare_name="rest")
        assert sum(int((one["label"] == "rest").sum()) for one in merged.values()) == 3
        assert label_set(merged, {name: name for name in "abcd"}, None, statistics.rare).names == ("a", "b", "rest")
    else:
        with pytest.raises(UserError, match="have 2 rows together"):
            split(given, rare_classes="merge")


def test_rare_classes_join_a_class_of_their_name_and_more_rows_can_be_asked_for() -> None:
    given = {"all": frame(*distinct("a", 30), *distinct("b", 30), *distinct("c", 9), *distinct("other", 20))}
    merged, statistics = split(given, rare_classes="merge", rare_rows=10)
    assert sum(int((one["label"] == "other").sum()) for one in merged.values()) == 29
    assert statistics.rare == {"c": 9}
    with pytest.raises(UserError, match=r"at least 10 rows.*'c' \(9\)"):
        split(given, rare_rows=10)
