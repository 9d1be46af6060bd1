"""Sections about the model: its quality and its confidence."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from labeltune.config.evaluation import Calibrate
from labeltune.evaluation.calibration import World, calibrate
from labeltune.evaluation.confidence import analyse
from labeltune.evaluation.prevalence import at_shares
from labeltune.reporting.report import model_sections
from labeltune.reporting.report.render import markdown
from labeltune.reporting.report.results import RunResults
from tests.findings import rows_and_logits, write_run
from tests.unit.reporting.report.conftest import compose


def test_what_is_undefined_is_said_to_be_with_the_reason(tmp_path: Path) -> None:
    names = ("ham", "spam")
    rows, logits = rows_and_logits(names)
    only = (rows["label"] == "ham").to_numpy()
    right = logits[only].copy()
    right[:, 0] = right[:, 1] + 3  # none is ever answered with spam
    write_run(tmp_path, names, rows[only].reset_index(drop=True), right)
    evidence = RunResults.read(tmp_path)
    text = markdown(compose(evidence))
    assert "- ROC-AUC\\\n  **undefined**\\\n  undefined: every test row has the label `ham`\n" in text
    assert "| `spam` | undefined | undefined | undefined | undefined | 0 |" in text
    assert "Precision is undefined for labels that are never predicted: `spam`." in text
    assert "Recall is undefined for labels that no test row has: `spam`." in text
    assert "No test row is misclassified." in text
    assert "No error in 30 test rows." in text
    assert "confidence has nothing to rank" in text
    assert "It classifies 100.0% of 30 test rows correctly (95% interval 88." in text
    assert not re.search(r"(?i)\bnan\b|\bnone\b(?! of)", text.split("## Data")[0])
    assert "无定义" in markdown(compose(evidence, "zh"))


def test_no_answer_and_no_interval_are_said(evidence: RunResults) -> None:
    assert evidence.confidence is not None
    rule = json.loads(json.dumps(evidence.confidence["abstention"]))
    rule["test"] |= {"answered": 0, "accuracy": None, "accuracy_interval": None, "coverage": 0.0}
    changed = replace(evidence, confidence=evidence.confidence | {"abstention": rule})
    text = compose(changed).chapters["confidence"]
    assert "which no test row reaches" in text
    assert "| test | 60 | 0.0% (" in text
    assert "Accuracy is undefined where the classifier abstains on every row." in text


def test_a_temperature_that_does_not_help_is_said_not_to(evidence: RunResults) -> None:
    assert evidence.confidence is not None
    found = json.loads(json.dumps(evidence.confidence))
    found["calibration"]["fitted"] = True
    for before, after, words in (
        (0.02, 0.05, "does not help"),
        (0.05, 0.02, "from 5.0 points"),
        (0.02, 0.02, "leaves"),
    ):
        found["calibration"]["before"]["ece"], found["calibration"]["after"]["ece"] = before, after
        assert words in compose(replace(evidence, confidence=found)).chapters["confidence"]
    found["calibration"]["fitted"] = False
    text = compose(replace(evidence, confidence=found)).chapters["confidence"]
    assert "No temperature was asked for" in text
    assert "Confidence and accuracy differ by 2.0 points on average." in text


def test_the_confidence_of_each_label_is_shown_and_class_weights_are_told(evidence: RunResults) -> None:
    assert evidence.confidence is not None
    found = json.loads(json.dumps(evidence.confidence))
    after = found["calibration"]["after"]["per_label"]
    first, *_, last = after
    after[first] |= {"answered": 40, "confidence": 0.741, "accuracy": 0.42, "classwise_ece": 0.123}
    after[last] |= {"answered": 0, "confidence": None, "accuracy": None, "accuracy_interval": None}
    found["calibration"] |= {"fitted": True, "bias": dict.fromkeys(after, 0.5)}
    for language, words in (("en", ("label of least cost", "never predicted")), ("zh", ("代价最小", "从未被预测"))):
        text = markdown(compose(replace(evidence, confidence=found), language))
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
        (row,) = (row for row in cells if row[1:3] == ["40", "74.1%"])
        assert (row[0].strip("`"), row[3][:5], row[4]) == (first, "42.0%", "0.123")
        assert all(word in text for word in words)


def test_confusions_are_counted_as_scikit_learn_counts_them() -> None:
    from sklearn.metrics import confusion_matrix

    from labeltune.evaluation import metrics

    rng = np.random.default_rng(3)
    labels, raw = rng.integers(0, 3, 90), rng.random((90, 3))
    given = raw / raw.sum(axis=1, keepdims=True)
    matrix = confusion_matrix(labels, given.argmax(axis=1))
    np.fill_diagonal(matrix, 0)
    place = np.unravel_index(matrix.argmax(), matrix.shape)
    (most, *others), errors = model_sections.confusions(metrics.summarise(labels, given, ["a", "b", "c"]))
    assert most == (matrix.max(), *("abc"[int(position)] for position in place))
    assert errors == matrix.sum() == most[0] + sum(count for count, _, _ in others)


def test_what_the_answers_are_worth_in_use_stands_beside_the_figures_of_balanced_rows(evidence: RunResults) -> None:
    names = ("ham", "spam")
    rows, logits = rows_and_logits(names)
    labels = np.array([names.index(label) for label in rows["label"]])
    shares = {"ham": 0.9, "spam": 0.1}
    world = World(measured=[], used=np.log([1.8, 0.2]).tolist(), shares=shares)
    fitted = calibrate(logits, labels, Calibrate(), None, world)
    given = fitted.probabilities(logits)
    there = at_shares(labels, given, fitted.answers(given), names, shares, seed=0, resamples=200)
    changed = replace(
        evidence,
        metrics=evidence.metrics | {"prevalence": there},
        confidence=analyse(logits, labels, fitted, names),
    )
    for language, words in (
        ("en", ("as frequent as in use (`ham` 90.0%", "`spam` 10.0%")),
        ("zh", ("实际使用的标签比例下（`ham` 90.0%", "`spam` 10.0%")),
    ):
        text = markdown(compose(changed, language))
        assert words[0] in text
        assert words[1] in text
        assert f"{100 * there['accuracy']:.1f}%" in text
        assert f"{fitted.threshold:.3f}" in text  # the threshold that the classifier abstains by, not the rows' own
    spam = there["per_class"]["spam"]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(compose(changed)).splitlines()]
    (row,) = (row for row in cells if len(row) == 7 and row[0] == "`spam`" and row[2] == "10.0%")
    assert row[4] == f"{100 * spam['precision']:.1f}%"
    assert row[6] == f"{100 * spam['recall']:.1f}%"


def test_the_method_is_that_of_the_classifier_and_n_grams_have_no_base_model(evidence: RunResults) -> None:
    assert "| Base model |" in compose(evidence).chapters["training"]
    assert "| Method and head | `lora` · `label_scoring` |" in compose(evidence).chapters["training"]
    record = evidence.record | {"base": {"model": None, "files": {}}, "train": {"method": "ngrams", "head": "linear"}}
    for language, method in (("en", "| Method and head | `ngrams` |"), ("zh", "| 方法与分类头 | `ngrams` |")):
        text = compose(replace(evidence, record=record), language).chapters["training"]
        assert method in text
        assert "Licence" not in text
        assert "基座模型 |" not in text
