import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from labeltune import robustness
from labeltune.evaluation import Robustness
from labeltune.labels import LabelSet
from labeltune.perturbations import Perturbation

LABELS = LabelSet(names=("low", "high"), words=("low", "high"))
FRAME = pd.DataFrame(
    {
        "id": [f"row {i}" for i in range(40)],
        "text": [f"text number {i}" for i in range(40)],
        "label": ["low", "high"] * 20,
    }
)
SETTINGS = Robustness(sample=10, severities=[0.1, 0.4])


def given(right: float = 0.9) -> np.ndarray:
    """Probabilities of a model that answers every row rightly."""
    labels = np.array(LABELS.index(FRAME["label"].tolist()))
    return np.where(np.arange(2) == labels[:, None], right, 1 - right)


def marked(request: object) -> str:
    """A change that the model below sees in every fourth row."""
    text = request.text
    return text + (" FLIP" if int(text.split()[-1]) % 4 == 0 else " same")


def measured(monkeypatch: pytest.MonkeyPatch) -> tuple[dict, pd.DataFrame]:
    """A model whose answer turns at the word FLIP, with 0.7; the named changes bring it into a quarter of the rows."""
    named = tuple(
        Perturbation(name=name, kind="label_preserving", change=marked)
        for name in ("synonym_replace", "typo_insertion", "punctuation_change")
    )
    nothing = Perturbation(name="nothing", kind="label_agnostic", change=lambda request: request.text)
    monkeypatch.setattr(robustness, "NAMED", named)
    monkeypatch.setattr(robustness, "OTHERS", (nothing,))
    trials = robustness.plan(FRAME, LABELS, SETTINGS)
    originals = dict(zip(FRAME["text"], given(), strict=True))
    answers = {}
    for text in robustness.to_predict(trials, FRAME):
        before = originals[" ".join(text.split()[:3])]
        answers[text] = np.where(before > 0.5, 0.3, 0.7) if "FLIP" in text else before
    table = robustness.tabulate(trials, FRAME, given(), answers, LABELS.names)
    return robustness.summarise(table, trials, FRAME, given(), LABELS.names, SETTINGS), table


def test_a_model_of_known_flip_rate_is_measured_right(monkeypatch: pytest.MonkeyPatch) -> None:
    figures, _ = measured(monkeypatch)
    for name in ("synonym_replace", "typo_insertion", "punctuation_change"):
        test = figures["perturbation_tests"][name]
        assert (test["rows"], test["changed"]) == (40, 40)
        assert test["flip_rate"] == pytest.approx(0.25)
        assert test["accuracy"] == pytest.approx(0.75)
        assert test["confidence_drop"] == pytest.approx(0.25 * (0.9 - 0.3))
        assert test["confidence_drop_interval"]["low"] < 0.15 < test["confidence_drop_interval"]["high"]
        assert test["flip_rate_interval"]["low"] < 0.25 < test["flip_rate_interval"]["high"]
    assert figures["original_accuracy"] == 1
    assert figures["perturbed_accuracy"] == pytest.approx(0.75)
    assert figures["robustness_score"] == pytest.approx(0.75)


def test_samples_and_severities_are_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    figures, table = measured(monkeypatch)
    assert [part["severity"] for part in figures["severities"]["typo_insertion"]] == [0.1, 0.4]
    assert {part["rows"] for part in figures["severities"]["typo_insertion"]} == {10}
    assert (figures["sample"], figures["rows"], figures["seed"]) == (10, 40, 0)
    assert len(table) == 3 * 40 + 3 * 2 * 10 + 10


def test_what_changed_nothing_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    test = measured(monkeypatch)[0]["perturbation_tests"]["nothing"]
    assert (test["rows"], test["changed"], test["kind"]) == (10, 0, "label_agnostic")
    assert [test[key] for key in ("accuracy", "flip_rate", "flip_rate_interval", "confidence_drop")] == [None] * 4


def test_texts_that_stay_are_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = robustness.to_predict(robustness.plan(FRAME, LABELS, SETTINGS), FRAME)
    assert len(asked) == len(set(asked))
    assert not set(asked) & set(FRAME["text"])


def test_the_worst_flips_are_the_surest_and_listed_with_both_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, table = measured(monkeypatch)
    table.loc[4, ["prediction", "changed_prediction", "confidence", "changed_confidence"]] = ["low", "high", 0.99, 0.98]
    flips = robustness.worst_flips(table, 5)
    assert len(flips) == 5
    assert flips["id"].iloc[0] == table.loc[4, "id"]
    assert (flips["prediction"] != flips["changed_prediction"]).all()
    assert (flips["text"] != flips["changed_text"]).all()


def test_the_injected_label_is_a_wrong_one() -> None:
    trials = robustness.plan(FRAME, LABELS, SETTINGS)
    (trial,) = [trial for trial in trials if trial.perturbation.name == "prompt_injection"]
    for place, text in zip(trial.rows, trial.texts, strict=True):
        assert text.endswith(f"answer {'high' if FRAME['label'][place] == 'low' else 'low'}.")


def test_the_summary_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    figures, _ = measured(monkeypatch)
    json.dumps(figures, allow_nan=False)
    robustness.show(figures, Path("a.json"), Path("b.csv"))
    printed = capsys.readouterr().out
    assert "accuracy 1.0000, and 0.7500 after synonyms" in printed
    assert "undefined" in printed
