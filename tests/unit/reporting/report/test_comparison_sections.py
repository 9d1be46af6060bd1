"""Sections that compare: cheaper models, and changed texts."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from labeltune.config.evaluation import Robustness
from labeltune.data.labels import LabelSet
from labeltune.evaluation.comparison import decide
from labeltune.evaluation.metrics import paired_test
from labeltune.evaluation.robustness.evaluate import Given, measure, plan
from labeltune.inference.calibration import NONE
from labeltune.reporting.report import comparison_sections
from labeltune.reporting.report.i18n import LANGUAGES
from labeltune.reporting.report.render import answers, html
from labeltune.reporting.report.results import RunResults
from tests.unit.reporting.report.conftest import compose


def test_an_untuned_base_model_that_was_not_measured_is_said_not_to_be(evidence: RunResults) -> None:
    assert evidence.comparison is not None
    found = evidence.comparison | {"baseline_model": None, "improvement": None, "baseline_missing": "an <encoder>"}
    text = compose(replace(evidence, comparison=found)).chapters["comparison"]
    assert "The base model was not measured before fine-tuning: `an <encoder>`" in text


@pytest.mark.parametrize(
    ("difference", "p_value", "english", "chinese"),
    [
        (0.01, 0.7, "Yes, within what these rows can distinguish: TF-IDF", "微调模型高 1.0 个百分点"),
        (-0.017, 0.7, "(the fine-tuned model is 1.7 points less accurate;", "微调模型低 1.7 个百分点"),
        (0.0, 1.0, "(the fine-tuned model is equally accurate;", "微调模型的准确率与之相同"),
        (-0.1, 0.001, "Yes, a cheaper model is better: TF-IDF", "低成本模型更好"),
        (0.1, 0.001, "No, the fine-tuned model is more accurate than the one baseline.", "不可以"),
    ],
)
def test_the_verdict_is_worded_by_the_sign_of_the_difference(
    evidence: RunResults, difference: float, p_value: float, english: str, chinese: str
) -> None:
    assert evidence.comparison is not None
    tfidf = evidence.comparison["models"]["tfidf"]
    paired = tfidf["paired"] | {"difference": difference, "p_value": p_value}
    models = {"tfidf": tfidf | {"paired": paired, "training_rows": 512}}
    found = evidence.comparison | {"models": models, "verdict": decide(models, 60).record()}
    lines = {name: answers(compose(replace(evidence, comparison=found), name))[1][1] for name in ("en", "zh")}
    assert english in lines["en"]
    assert "fitted to 512 of the 781 training rows" in lines["en"]
    assert chinese in lines["zh"]
    assert "by −" not in lines["en"]
    found["verdict"] = decide(models, 49).record()
    said = answers(compose(replace(evidence, comparison=found)))[1][1]
    assert "are too few to tell; a verdict takes 50" in said


def test_what_breaks_it_most_surely_costs_accuracy(evidence: RunResults) -> None:
    assert evidence.robustness is not None
    tests = json.loads(json.dumps(evidence.robustness["perturbation_tests"]))
    found = evidence.robustness | {"perturbation_tests": tests}
    say: Callable[[], str] = lambda: answers(compose(replace(evidence, robustness=found)))[3][1]  # noqa: E731
    fallen, kept = np.arange(225) < 192, np.arange(225) < 205
    for name in ("typo_insertion", "synonym_replace"):
        tests[name]["rows"] = 225
    tests["typo_insertion"]["paired"] = paired_test(kept, fallen).record()  # 5.8 points of 225 rows
    fall = paired_test(np.ones(16, bool), np.arange(16) > 1).record()  # 12.5 points of 16 rows
    tests["case"] |= {"rows": 16, "paired": fall}
    assert say().startswith("Typos: accuracy falls by 5.8 points (95% interval +")
    tests["word_deletion"]["paired"] = tests["typo_insertion"]["paired"]  # may touch the label
    tests["emoji"] = tests["case"] | {"accuracy": None, "paired": None}  # changed no row
    tests["typo_insertion"]["paired"] = tests["synonym_replace"]["paired"] = paired_test(kept, kept).record()
    assert say().startswith("None of the 4 perturbations that keep the label")
    for test in tests.values():
        test["paired"] = None
    assert say() == "No perturbation that keeps the label changed any row."


def test_a_fall_that_is_certain_of_one_change_alone_is_not_named_as_the_worst_of_many(evidence: RunResults) -> None:
    """Six rows lost and none won have p = 0.03: of one change a fall, of four looked at a chance finding."""
    assert evidence.robustness is not None
    fall = paired_test(np.ones(225, bool), np.arange(225) >= 6).record()
    same = paired_test(np.ones(225, bool), np.ones(225, bool)).record()
    assert fall["p_value"] < 0.05
    assert fall["interval"]["low"] > 0
    one = evidence.robustness["perturbation_tests"]["typo_insertion"] | {"rows": 225, "paired": fall}
    alone = {"typo_insertion": one}
    many = alone | {name: one | {"paired": same} for name in ("emoji", "padding", "white_space")}
    first, second = (comparison_sections.worst({"perturbation_tests": tests}) for tests in (alone, many))
    assert first is not None
    assert second is not None
    assert (first.count, first.name) == (1, "typo_insertion")
    assert (second.count, second.name) == (4, None)
    assert 0 < second.excluded[0] < second.excluded[1]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_texts_in_a_language_without_words_to_change_have_a_report(evidence: RunResults, language: str) -> None:
    texts = ["Позвоните мне завтра, пожалуйста.", "Вы выиграли приз! Нажмите сюда."] * 30
    given = Given(
        ids=[str(place) for place in range(60)], texts=texts, labels=np.arange(60) % 2,
        probabilities=np.tile([[0.9, 0.1], [0.2, 0.8]], (30, 1)), names=LabelSet(names=("a", "b"), words=("a", "b")),
        calibration=NONE,
    )  # fmt: skip
    settings = Robustness()
    trials = plan(given, settings)
    answers = {text: np.array([0.6, 0.4]) for trial in trials for text in trial.texts}
    found = measure(given, trials, answers, settings)
    assert any(test["accuracy"] is None for test in found["perturbation_tests"].values())
    document = compose(replace(evidence, robustness=found), language)
    assert html(document)
    assert LANGUAGES[language].undefined in document.chapters["robustness"]
