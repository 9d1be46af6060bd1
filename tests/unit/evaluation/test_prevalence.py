import numpy as np
import pytest

from labeltune.evaluation.metrics import summarise
from labeltune.evaluation.prevalence import at_shares

NAMES = ("ham", "spam")
BOOTSTRAP = {"seed": 0, "resamples": 200}


def rows(right: dict[str, tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities and answers of rows of which so many of so many are answered rightly."""
    labels = np.concatenate([np.full(count, NAMES.index(name)) for name, (_, count) in right.items()])
    correct = np.concatenate([np.arange(count) < hits for hits, count in right.values()])
    guesses = np.where(correct, labels, 1 - labels)
    return labels, np.where(np.eye(2)[guesses] == 1, 0.8, 0.2), guesses


def test_rows_count_as_often_as_their_label_occurs() -> None:
    """Of ham 9 of 10 are right, of spam 8 of 10: at 90% ham, 9 of 10 rows are ham."""
    labels, given, guesses = rows({"ham": (90, 100), "spam": (80, 100)})
    found = at_shares(labels, given, guesses, NAMES, {"ham": 0.9, "spam": 0.1}, **BOOTSTRAP)
    assert found["accuracy"] == pytest.approx(0.9 * 0.9 + 0.1 * 0.8)
    assert found["accuracy_interval"]["low"] < found["accuracy"] < found["accuracy_interval"]["high"]
    spam = found["per_class"]["spam"]
    assert spam["recall"] == pytest.approx(0.8)
    assert spam["precision"] == pytest.approx(0.1 * 0.8 / (0.1 * 0.8 + 0.9 * 0.1))
    assert found["log_loss"] == pytest.approx(-(0.89 * np.log(0.8) + 0.11 * np.log(0.2)))


def test_at_the_rows_own_shares_the_figures_are_the_plain_ones() -> None:
    labels, given, guesses = rows({"ham": (55, 60), "spam": (30, 40)})
    found = at_shares(labels, given, guesses, NAMES, {"ham": 0.6, "spam": 0.4}, **BOOTSTRAP)
    plain = summarise(labels, given, NAMES, guesses)
    for key in ("accuracy", "macro_f1", "log_loss"):
        assert found[key] == pytest.approx(plain[key])
    for name in NAMES:
        for key in ("precision", "recall", "f1"):
            assert found["per_class"][name][key] == pytest.approx(plain["per_class"][name][key])


def test_a_label_without_a_test_row_is_named() -> None:
    labels, given, guesses = rows({"ham": (55, 60), "spam": (0, 0)})
    found = at_shares(labels, given, guesses, NAMES, {"ham": 0.6, "spam": 0.4}, **BOOTSTRAP)
    assert found["missing"] == ["spam"]
    assert found["accuracy"] == pytest.approx(55 / 60)
    assert found["per_class"]["spam"]["recall"] is None
