"""Sections about the data, the training, the costs and the mistakes."""

import re
from dataclasses import replace
from typing import Any

import pytest

from labeltune.data.cleaning import REASONS
from labeltune.reporting.report import data_sections
from labeltune.reporting.report.results import RunResults
from tests.unit.reporting.report.conftest import compose


def test_the_worst_mistakes_are_the_most_confident_ones(evidence: RunResults) -> None:
    rows = evidence.predictions
    wrong = rows[rows["label"] != rows["prediction"]]
    assert len(wrong) > 2
    text = compose(evidence, mistakes=2).chapters["mistakes"]
    assert f"The 2 with the highest confidence of {len(wrong)} misclassified rows" in text
    shown = re.findall(r"confidence ([\d.]+)%", text)
    assert shown == [f"{100 * value:.1f}" for value in sorted(wrong["confidence"], reverse=True)[:2]]
    assert f"of {len(wrong)} misclassified rows" in compose(evidence, mistakes=0).chapters["mistakes"]


def changed(evidence: RunResults, **data: Any) -> RunResults:
    return replace(evidence, data=evidence.data | data)


def test_rows_of_each_split_are_listed_by_label_with_their_sums(evidence: RunResults) -> None:
    text = compose(evidence).chapters["data"]
    counts = evidence.data["rows"]
    for name in (*evidence.names, "total"):
        shown = " | ".join(f"{counts[split][name]:,}" for split in data_sections.SPLITS)
        label = "total" if name == "total" else f"`{name}`"
        assert f"| {label} | {shown} |".replace("**", "") in text.replace("**", "")


def test_reasons_of_dropped_rows_are_listed_the_most_frequent_first_and_without_those_that_found_none(
    evidence: RunResults,
) -> None:
    dropped = dict.fromkeys(REASONS, 0) | {"missing_text": 3, "conflicts": 1200}
    found = dict.fromkeys(evidence.data["found"], 0) | {"near_inside": 2}
    given = changed(evidence, dropped=dropped, found=found)
    assert data_sections.reasons(given) == [
        ("conflicts", 0, 1200), ("missing_text", 0, 3), ("near_inside", 2, 0)
    ]  # fmt: skip
    text = compose(given).chapters["data"]
    assert "| Same text with different labels | 0 | 1,200 |\n| No text | 0 | 3 |\n| Near duplicates within a" in text
    none = changed(evidence, dropped=dict.fromkeys(REASONS, 0), found={})
    assert "No row was dropped." in compose(none).chapters["data"]


@pytest.mark.parametrize("exact", [0, 3])
def test_copies_across_splits_that_were_left_are_counted(evidence: RunResults, exact: int) -> None:
    given = changed(evidence, leaks_left={"exact_across": exact, "near_across": 0}, moved=0)
    text = compose(given).chapters["data"]
    assert ("Leakage remains, as the settings ask: 3 rows with the same text" in text) == (exact > 0)
    threshold = evidence.settings["prepare"]["near_threshold"]
    assert (f"(a similarity of {threshold} or more)" in text) == (exact == 0)


def test_the_step_that_was_kept_is_named_as_the_last_or_an_earlier_one(evidence: RunResults) -> None:
    texts = []
    for best in (evidence.train["steps"], evidence.train["steps"] - 10):
        given = replace(evidence, train=evidence.train | {"best_step": best})
        texts.append(compose(given).chapters["training"])
        assert f"{best:,}" in texts[-1]
    assert texts[0] != texts[1]


def test_stages_without_a_cost_of_a_kind_have_a_dash(evidence: RunResults) -> None:
    given = replace(evidence, costs={"train": {"seconds": 1234.5}, "baselines": {"tfidf": {"train_seconds": 1.0}}})
    text = compose(given).chapters["costs"]
    assert "| `train` | 1,235 | – | – | – |" in text
    assert "`baselines`" not in text


def test_the_settings_are_listed_whole(evidence: RunResults) -> None:
    assert evidence.configuration.strip() in compose(evidence).chapters["configuration"]
