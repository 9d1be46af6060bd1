"""Whether a cheaper classifier is better: the paired test on the validation rows, and what is said."""

import numpy as np
import pytest

from labeltune.evaluation.metrics import paired_test
from labeltune.training.selection import compare, judge

LABELS = np.array([0, 1] * 50)


def logits(wrong: int) -> np.ndarray:
    """Of 100 rows, the first `wrong` of which are answered wrongly."""
    answers = LABELS.copy()
    answers[:wrong] = 1 - answers[:wrong]
    return np.eye(2, dtype=np.float32)[answers]


def test_the_test_is_that_of_the_comparison_on_test_rows() -> None:
    found = compare(logits(20), {"ngrams": logits(10)}, LABELS).figures["cheaper"]["ngrams"]
    ours, theirs = (logits(wrong).argmax(axis=1) == LABELS for wrong in (20, 10))
    assert found["p_value"] == paired_test(ours, theirs).p_value
    assert (found["only_trained"], found["only_cheaper"]) == (0, 10)


def test_the_most_accurate_of_those_that_are_better_is_named() -> None:
    found = compare(logits(30), {"ngrams": logits(10), "probe": logits(4)}, LABELS)
    assert found.better == "probe"
    assert found.reason.startswith(
        "a probe labels 96.0% of 100 validation rows correctly, the trained classifier 70.0%"
    )
    assert found.figures["cheaper"]["ngrams"]["better"]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(5, 0), (0, 50), (0, 0)], ids=["too little to tell", "worse", "both right"]
)
def test_a_classifier_that_is_not_clearly_worse_stays(ours: int, theirs: int) -> None:
    found = compare(logits(ours), {"ngrams": logits(theirs)}, LABELS)
    assert found.better is None
    assert found.reason == ""
    assert found.figures["better"] is None


def test_of_two_cheaper_ones_each_has_to_pass_half_the_level() -> None:
    assert compare(logits(6), {"ngrams": logits(0)}, LABELS).better == "ngrams"  # p = 0.031
    assert compare(logits(6), {"ngrams": logits(0), "probe": logits(6)}, LABELS).better is None
    assert compare(logits(7), {"ngrams": logits(0), "probe": logits(6)}, LABELS).better == "ngrams"  # p = 0.016


def test_nothing_to_compare_leaves_no_trace() -> None:
    assert compare(logits(1), {}, LABELS).figures == {}


@pytest.mark.parametrize(("takes", "words"), [(True, "takes a cheaper classifier"), (False, "auto would take it")])
def test_it_is_said_in_one_sentence(takes: bool, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    judge(logits(30), {"ngrams": logits(0)}, LABELS, takes=takes)
    said = " ".join(capsys.readouterr().out.split())
    assert words in said
    assert "an n-gram model labels 100.0% of 100 validation rows correctly" in said
    judge(logits(0), {"ngrams": logits(0)}, LABELS, takes=takes)
    assert not capsys.readouterr().out
