import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from labeltune.config.evaluation import Robustness
from labeltune.data.labels import LabelSet
from labeltune.evaluation.robustness import evaluate
from labeltune.evaluation.robustness.evaluate import NAMED, PERTURBATIONS
from labeltune.inference.calibration import NONE
from labeltune.reporting.plots import figures
from labeltune.runtime import cache, files
from tests.lexicon import fill_lexicons

LABELS = LabelSet(names=("ham", "spam"), words=("ham", "spam"))


@pytest.fixture(autouse=True)
def _lexicons(_own_cache: None) -> None:
    fill_lexicons(cache.cache_dir())


class Stub:
    """Answers by a rule and keeps what it was asked."""

    def __init__(self, spam: Callable[[str], float]) -> None:
        self.spam = spam
        self.asked: list[list[str]] = []

    def answer(self, texts: Sequence[str]) -> np.ndarray:
        spam = np.array([self.spam(text) for text in texts])
        return np.column_stack([1 - spam, spam])

    def predict(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> SimpleNamespace:
        self.asked.append(list(texts))
        assert progress is not None
        progress(len(texts))
        return SimpleNamespace(probabilities=self.answer(texts))


def given(texts: list[str], stub: Stub, labels: Sequence[int] | None = None) -> evaluate.Given:
    answers = stub.answer(texts)
    return evaluate.Given(
        ids=[f"row-{i}" for i in range(len(texts))],
        texts=texts,
        labels=answers.argmax(axis=1) if labels is None else np.array(labels),
        probabilities=answers,
        names=LABELS,
        calibration=NONE,
    )


def run(
    texts: list[str], stub: Stub, labels: Sequence[int] | None = None, **settings: object
) -> tuple[dict, pd.DataFrame, evaluate.Given]:
    rows, chosen = given(texts, stub, labels), Robustness.model_validate({"sample": len(texts)} | settings)
    trials = evaluate.plan(rows, chosen)
    answers = evaluate.predict(stub, rows, trials)
    return evaluate.measure(rows, trials, answers, chosen), evaluate.rows(rows, trials, answers), rows


def test_a_known_flip_rate_is_measured_right() -> None:
    """A model that goes by capitals: texts in small letters all flip, those without letters can't change."""
    texts = [f"call me at {i} tonight" for i in range(30)] + [f"{i} + {i}" for i in range(10)]
    stub = Stub(lambda text: 0.9 if text.isupper() else 0.2)
    result, table, _ = run(texts, stub, [0] * 20 + [1] * 10 + [0] * 10)
    case = result["perturbation_tests"]["letter_case"]
    assert (case["rows"], case["changed"], case["severity"]) == (40, 30, None)
    assert case["original_accuracy"] == 0.75
    assert case["accuracy"] == 0.5
    assert case["flip_rate"] == 0.75
    assert case["confidence_drop"] == pytest.approx(0.75 * (0.8 - 0.1))
    exact = stats.beta.ppf([0.025, 0.975], [30, 31], [11, 10])  # Clopper and Pearson
    assert [case["flip_rate_interval"][end] for end in ("low", "high")] == pytest.approx(exact)
    assert case["flip_rate_interval"]["method"] == "exact"
    exact = stats.beta.ppf([0.025, 0.975], [20, 21], [21, 20])
    assert [case["accuracy_interval"][end] for end in ("low", "high")] == pytest.approx(exact)
    interval = case["confidence_drop_interval"]
    error = 1.96 * 0.7 * np.sqrt(0.75 * 0.25 / 40)
    assert [interval["low"], interval["high"]] == pytest.approx([0.525 - error, 0.525 + error], abs=0.03)
    assert (table[table["perturbation"] == "letter_case"]["changed_prediction"] == "spam").all()


def test_an_injection_asks_for_a_label_that_the_row_has_not() -> None:
    texts = [f"call me at {i} tonight" for i in range(20)]
    labels = [i % 2 for i in range(20)]
    _, table, _ = run(texts, Stub(lambda text: 0.9 if "spam" in text else 0.1), labels)
    injected = table[table["perturbation"] == "prompt_injection"]
    assert set(injected["label"]) == {"ham", "spam"}
    for row in injected.itertuples():
        other = {"ham": "spam", "spam": "ham"}[row.label]
        assert re.search(rf"\b{other}\b", row.changed_text.removeprefix(row.text))
        assert not re.search(rf"\b{row.label}\b", row.changed_text.removeprefix(row.text))


def test_a_model_that_goes_by_the_last_mark_flips_where_it_changes() -> None:
    texts = [f"win {'now ' * i}today!" for i in range(40)]
    stub = Stub(lambda text: 0.8 if text.endswith("!") else 0.3)
    result, table, _ = run(texts, stub, severity=0.05)
    tests = result["perturbation_tests"]
    changed = table[(table["perturbation"] == "punctuation_change") & (table["severity"] == 0.05)]
    lost = sum(not text.endswith("!") for text in changed["changed_text"])
    assert 0 < lost < 40
    assert tests["punctuation_change"]["flip_rate"] == lost / 40
    assert tests["punctuation_change"]["accuracy"] == 1 - lost / 40
    assert tests["punctuation_change"]["confidence_drop"] == pytest.approx(0.5 * lost / 40)
    assert tests["prompt_injection"]["flip_rate"] == 1
    expected = np.mean([tests[name]["accuracy"] for name in NAMED if tests[name]["changed"]])
    assert result["perturbed_accuracy"] == result["robustness_score"] == expected


def test_distinct_texts_are_asked_once_and_unchanged_ones_not_at_all() -> None:
    texts = ["movie night", "movie night", "lunch at noon", "12 + 1"]
    stub = Stub(lambda text: len(text) % 7 / 7)
    run(texts, stub)
    (asked,) = stub.asked
    assert len(asked) == len(set(asked))
    assert not set(asked) & set(texts)


def test_what_can_not_be_changed_is_undefined_and_never_zero() -> None:
    stub = Stub(lambda text: 0.9)
    result, table, _ = run(["?!", "--", "+ +"], stub, [1, 1, 0])
    for name in ("synonym_replace", "typo_insertion", "homophones", "letter_case", "prompt_injection"):
        figures = result["perturbation_tests"][name]
        assert figures["changed"] == 0
        assert figures["original_accuracy"] == pytest.approx(2 / 3)
        assert [figures[key] for key in figures if key.startswith(("accuracy", "flip", "confidence"))] == [None] * 6
        assert not (table["perturbation"] == name).any()
    json.dumps(result, allow_nan=False)


def test_nothing_is_predicted_if_nothing_changes() -> None:
    stub = Stub(lambda text: 0.9)
    rows = given(["a"], stub)
    unchanged = evaluate.Trial(name="emoji", severity=None, rows=[0], texts=["a"], curve=False)
    assert set(evaluate.predict(stub, rows, [unchanged])) == {"a"}
    assert not stub.asked


def test_named_perturbations_take_every_row_and_the_others_the_stated_sample() -> None:
    texts = [f"message number {i}" for i in range(30)]
    result, _, rows = run(texts, Stub(lambda text: 0.4), sample=7, severities=[0.2, 0.4], severity=0.1)
    assert (result["rows"], result["sample"], result["seed"]) == (30, 7, 0)
    assert set(result["perturbation_tests"]) == set(PERTURBATIONS)
    for name, measured in result["perturbation_tests"].items():
        assert measured["rows"] == (30 if name in NAMED else 7)
        assert measured["severity"] == (0.1 if PERTURBATIONS[name].graded else None)
    assert result["severity_sample"] == 2
    for name in NAMED:
        points = [(point["severity"], point["rows"]) for point in result["severities"][name]]
        assert points == [(0.1, 2), (0.2, 2), (0.4, 2)]
    assert set(rows.sample(5, 0)) < set(rows.sample(7, 0))
    assert rows.sample(7, 0) != rows.sample(7, 1)
    assert rows.sample(99, 0) == list(range(30))


def test_by_default_every_change_is_measured_on_200_rows_or_all_where_there_are_fewer() -> None:
    for count in (225, 30):
        texts = [f"message number {i}" for i in range(count)]
        trials = evaluate.plan(given(texts, Stub(lambda text: 0.4)), Robustness())
        tests = {trial.name: len(trial.rows) for trial in trials if not trial.curve}
        assert all(tests[name] == (count if name in NAMED else min(200, count)) for name in PERTURBATIONS)


def test_a_row_is_changed_alike_whatever_rows_are_beside_it() -> None:
    texts = [f"the movie number {i} will begin after lunch, dear" for i in range(12)]
    stub = Stub(lambda text: 0.4)
    _, table, _ = run(texts, stub)
    rows, settings = given(texts, stub), Robustness(sample=12)
    fewer = evaluate.Given(
        ids=rows.ids[::-2], texts=rows.texts[::-2], labels=rows.labels[::-2], probabilities=rows.probabilities[::-2],
        names=LABELS, calibration=NONE,
    )  # fmt: skip
    trials = evaluate.plan(fewer, settings)
    some = evaluate.rows(fewer, trials, evaluate.predict(stub, fewer, trials))
    key = ["perturbation", "severity", "id"]
    some = some[some["severity"].isna() | (some["severity"] == settings.severity)]  # curves are of other rows
    both = some.merge(table, on=key, suffixes=("", "_all"))
    assert len(both) == len(some)
    assert (both["changed_text"] == both["changed_text_all"]).all()


def test_the_worst_flips_are_those_with_two_confident_answers(tmp_path: Path) -> None:
    lines = [
        ("emoji", None, "a", "ham", "spam", 0.9, 0.6),
        ("typo_insertion", 0.1, "b", "ham", "spam", 0.8, 0.7),
        ("typo_insertion", 0.2, "c", "ham", "spam", 0.99, 0.99),
        ("emoji", None, "d", "ham", "ham", 0.99, 0.99),
        ("padding", None, "e", "spam", "ham", 0.7, 0.8),
    ]
    names = ["perturbation", "severity", "id", "prediction", "changed_prediction", "confidence", "changed_confidence"]
    table = pd.DataFrame(lines, columns=names).assign(label="ham", text='x, "y"\n', changed_text="NA")
    worst = evaluate.worst(table, 0.1, 10)
    assert worst["id"].tolist() == ["b", "e", "a"]
    assert list(worst) == evaluate.COLUMNS
    assert evaluate.worst(table, 0.1, 2)["id"].tolist() == ["b", "e"]
    assert evaluate.worst(table.iloc[3:4], 0.1, 2).empty
    files.write_table(tmp_path / "flips.csv", worst)
    again = pd.read_csv(tmp_path / "flips.csv", keep_default_na=False)
    assert again["changed_text"].tolist() == ["NA"] * 3
    assert again["text"].tolist() == ['x, "y"\n'] * 3


def test_predictions_are_read_to_the_last_bit_and_text_as_text(tmp_path: Path) -> None:
    spam = np.random.default_rng(0).random(50)
    frame = pd.DataFrame({"id": [f"0{i}" for i in range(50)], "text": ["NA"] * 50, "label": ["ham", "spam"] * 25})
    files.write_table(tmp_path / "test.csv", frame.assign(prediction="ham", p_ham=1 - spam, p_spam=spam))
    read = evaluate.Given.read(tmp_path / "test.csv", LABELS, NONE)
    np.testing.assert_array_equal(read.probabilities[:, 1], spam)
    assert read.ids[3] == "03"
    assert read.texts[0] == "NA"
    assert read.labels.tolist() == [0, 1] * 25


def test_the_summary_marks_what_is_undefined(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result, _, _ = run(["see you", "free movie"], Stub(lambda text: 0.9), [1, 1])
    evaluate.show(result, tmp_path / "r.json", tmp_path)
    shown = capsys.readouterr().out
    assert "homophones" in shown
    assert "undefined" in shown
    assert "1.000 (0.158 to 1.000)" in shown
    assert "robustness score 1.0000" in shown


def test_the_pictures_are_the_same_bytes_and_draw_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _, _ = run([f"the movie {i} is here" for i in range(9)], Stub(lambda text: 0.9 if "!" in text else 0.2))
    saved = []
    write = figures.save
    monkeypatch.setattr(figures, "save", lambda axes, path: (saved.append(axes), write(axes, path)))
    for name in ("a", "b"):
        figures.draw_robustness(result, tmp_path / f"{name}.png", dpi=60)
        figures.draw_severity(result, tmp_path / f"{name}-severity.png", dpi=60)
    for picture in ("{}.png", "{}-severity.png"):
        first, second = ((tmp_path / picture.format(name)).read_bytes() for name in ("a", "b"))
        assert first == second
    tests = result["perturbation_tests"]
    drawn = [line.get_xdata()[0] for line in saved[0].get_lines() if len(line.get_xdata()) == 1]
    assert sorted(drawn) == sorted(figures["flip_rate"] for figures in tests.values() if figures["changed"])
    assert {text.get_text() for text in saved[0].texts} == {
        f"{figures['changed']} of {figures['rows']} changed" for figures in tests.values()
    }
    curves = {line.get_label(): list(line.get_ydata()) for line in saved[1].get_lines()}
    points = result["severities"]["typo_insertion"]
    assert curves["typo insertion"] == [point["flip_rate"] for point in points]
