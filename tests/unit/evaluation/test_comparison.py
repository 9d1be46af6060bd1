import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from labeltune.data.labels import LabelSet
from labeltune.evaluation import comparison, metrics
from labeltune.evaluation.comparison import Answers
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import write_json, write_table

SPAM = LabelSet(names=("ham", "spam"), words=("ham", "spam"))
BOOTSTRAP = {"seed": 0, "resamples": 500}
ROWS = 200
LABELS = np.arange(ROWS) % 2


def answers(wrong: range | list[int], seed: int = 0) -> Answers:
    """Answers that are wrong at these rows alone."""
    sure = np.random.default_rng(seed).uniform(0.55, 0.95, ROWS)
    right = np.ones(ROWS, dtype=bool)
    right[list(wrong)] = False
    spam = np.where(right == (LABELS == 1), sure, 1 - sure)
    ids = [f"row {i}" for i in range(ROWS)]
    given = np.column_stack([1 - spam, spam])
    return Answers(ids=ids, labels=LABELS, probabilities=given, guesses=given.argmax(axis=1))


def compare(ours: Answers, others: dict[str, Answers], missing: str | None = None) -> dict[str, Any]:
    chosen = {name: {"rows": 300} for name in ("majority", *others)} | {"zero_shot": {"missing": missing}}
    return comparison.compare(ours, others, SPAM, chosen=chosen, **BOOTSTRAP)


def test_every_figure_against_scikit_learn_and_scipy() -> None:
    ours, theirs = answers(range(10)), answers(range(4, 40), seed=1)
    found = compare(ours, {"zero_shot": theirs})
    guesses = theirs.probabilities.argmax(axis=1)
    model = found["models"]["zero_shot"]
    assert model["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(LABELS, guesses))
    assert model["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(LABELS, guesses, average="macro"))
    assert model["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(LABELS, theirs.probabilities[:, 1]))
    assert model["n"] == ROWS
    # Rows 0 to 3 only the second has right, 10 to 39 only the first: the exact test by its definition.
    paired = model["paired"]
    assert (paired["only_first"], paired["only_second"]) == (30, 4)
    assert paired["p_value"] == pytest.approx(2 * stats.binom.cdf(4, 34, 0.5))
    assert paired["difference"] == pytest.approx(26 / ROWS)
    assert paired["interval"]["low"] < 26 / ROWS < paired["interval"]["high"]
    assert found["improvement"] == {
        "absolute": pytest.approx(0.95 - 0.82),
        "relative": pytest.approx((0.95 - 0.82) / 0.82),
    }
    assert found["baseline_model"] == {key: model[key] for key in model if key not in ("paired", "training_rows")} | {
        "name": "zero_shot"
    }
    assert found["baseline_missing"] is None
    json.dumps(found, allow_nan=False)


def test_the_fine_tuned_models_figures_are_those_of_metrics_json() -> None:
    ours = answers(range(10))
    found = compare(ours, {"majority": answers(range(100))})["fine_tuned_model"]
    whole = metrics.summarise(LABELS, ours.probabilities, SPAM.names)
    sure = metrics.intervals(LABELS, ours.probabilities, **BOOTSTRAP)
    for name in ("accuracy", "macro_f1", "roc_auc"):
        assert found[name] == whole[name]
        assert found[f"{name}_interval"] == sure[name]
        assert sure[name] is not None


def test_as_good_names_what_is_not_significantly_worse_best_first() -> None:
    ours = answers(range(20))
    found = compare(
        ours,
        {
            "majority": answers(range(100)),  # far worse
            "tfidf": answers(range(17, 42)),  # 22 : 17 rows
            "hidden_states": answers(range(10)),  # better on 10 rows, worse on none
            "zero_shot": answers(range(14, 29)),  # 9 : 14 rows
        },
    )
    assert found["models"]["tfidf"]["paired"]["p_value"] == pytest.approx(stats.binomtest(22, 39).pvalue)
    assert found["models"]["hidden_states"]["paired"]["p_value"] < 0.05  # significantly better counts as good
    assert found["as_good"] == ["hidden_states", "zero_shot", "tfidf"]
    assert found["verdict"] == {
        "outcome": "better", "models": ["hidden_states"], "significance": 0.05, "fewest_rows": 50,
    }  # fmt: skip
    assert comparison.sentence(found).startswith(
        "A cheaper model is better than the fine-tuned model: hidden states answers 95.0% of 200 test rows correctly, "
        "the fine-tuned model 90.0% (p "
    )


@pytest.mark.parametrize(("wins", "good"), [(14, True), (15, False)])
def test_the_border_lies_where_the_docstring_says(wins: int, good: bool) -> None:
    found = compare(answers(range(20 - wins)), {"tfidf": answers(range(50, 50 + wins))})
    assert found["as_good"] == (["tfidf"] if good else [])
    assert found["verdict"]["outcome"] == ("as_good" if good else "none")
    assert comparison.sentence(found).startswith("A cheaper model is as good") is good


def test_a_missing_baseline_says_why_and_no_improvement_is_made_up() -> None:
    found = compare(answers(range(3)), {"tfidf": answers(range(60))}, missing="it is an encoder")
    assert found["baseline_model"] is None
    assert found["improvement"] is None
    assert found["baseline_missing"] == "it is an encoder"
    assert comparison.sentence(found).startswith(
        "No cheaper model is as good as the fine-tuned model. The best one: TF-IDF"
    )


def test_no_share_of_nothing() -> None:
    found = compare(answers([]), {"zero_shot": answers(range(ROWS))})
    assert found["improvement"] == {"absolute": 1.0, "relative": None}
    assert found["fine_tuned_model"]["accuracy_interval"]["method"] == "exact"


def write(folder: Path, ours: Answers, others: dict[str, Answers]) -> tuple[Path, Path]:
    def table(given: Answers) -> pd.DataFrame:
        names = [SPAM.names[label] for label in given.labels]
        shares = {f"p_{name}": given.probabilities[:, place] for place, name in enumerate(SPAM.names)}
        guesses = [SPAM.names[guess] for guess in given.guesses]
        return pd.DataFrame({"id": given.ids, "label": names, "prediction": guesses} | shares)

    write_table(folder / "test.csv", table(ours).assign(text="NA"))
    long = pd.concat([table(given).assign(model=name) for name, given in others.items()])
    write_table(folder / "baselines.csv", long)
    return folder / "test.csv", folder / "baselines.csv"


def test_answers_are_read_back_digit_for_digit(tmp_path: Path) -> None:
    given = {"tfidf": answers(range(9), seed=4), "majority": answers(range(80), seed=5)}
    ours, others = comparison.read_answers(*write(tmp_path, answers(range(4)), given), SPAM)
    np.testing.assert_array_equal(ours.probabilities, answers(range(4)).probabilities)
    assert list(others) == ["tfidf", "majority"]
    for name, theirs in others.items():
        np.testing.assert_array_equal(theirs.probabilities, given[name].probabilities)


@pytest.mark.parametrize("change", ["fewer", "order", "labels"])
def test_answers_to_other_rows_are_refused(tmp_path: Path, change: str) -> None:
    ours = answers(range(4))
    keep = {"fewer": slice(0, 150), "order": slice(None, None, -1), "labels": slice(None)}[change]
    labels = 1 - LABELS if change == "labels" else LABELS
    theirs = Answers(
        ids=ours.ids[keep], labels=labels[keep], probabilities=ours.probabilities[keep], guesses=ours.guesses[keep]
    )
    with pytest.raises(UserError, match="the answers of tfidf are to other rows.*run `dvc repro`"):
        comparison.read_answers(*write(tmp_path, ours, {"tfidf": theirs}), SPAM)


def test_an_answer_need_not_be_the_likeliest_label(tmp_path: Path) -> None:
    """After a training with class weights it is the label of least cost; right is who answers rightly."""
    ours = replace(answers(range(4)), guesses=1 - LABELS)
    read, _ = comparison.read_answers(*write(tmp_path, ours, {"tfidf": answers(range(60))}), SPAM)
    assert not read.right.any()
    found = compare(ours, {"tfidf": answers(range(60))})
    assert found["fine_tuned_model"]["accuracy"] == 0.0
    assert found["fine_tuned_model"]["accuracy_interval"]["high"] < 0.1


def test_the_table_shows_costs_where_they_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(answers(range(10)), {"tfidf": answers(range(60)), "zero_shot": answers(range(90))})
    spent = {"train_seconds": 1.5, "rows_per_second": 4321.0, "peak_memory_mib": 400, "size_mib": 2.5}
    write_json(tmp_path / "baselines.json", {"tfidf": spent})
    write_json(tmp_path / "evaluate.json", {"rows_per_second": 17.0, "peak_memory_mib": 900, "size_mib": 3.0})
    write_json(tmp_path / "train.json", {"seconds": 77.0, "peak_memory_mib": 1234})
    paths = [tmp_path / name for name in ("baselines.json", "evaluate.json", "train.json")]
    comparison.show(found, comparison.costs(*paths), Path("metrics/baseline_comparison.json"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "No cheaper model is as good as the fine-tuned model. The best one: TF-IDF answers 70.0%"
    )
    (tuned,) = (line for line in lines if line.startswith("fine-tuned "))
    (cheaper,) = (line for line in lines if line.startswith("TF-IDF "))
    assert tuned.split()[-4:] == ["77.0", "17.0", "1,234", "3.0"]
    assert cheaper.split()[-7:] == ["+0.2500", "<", "0.001", "1.5", "4,321", "400", "2.5"]
    assert comparison.costs(*(tmp_path / "none.json" for _ in range(3))) == {"fine-tuned": {}}


def test_too_few_rows_give_no_verdict_however_far_apart_the_models_are() -> None:
    models = {"majority": {"accuracy": 0.3, "macro_f1": 0.2, "paired": {"difference": 0.6, "p_value": 0.001}}}
    assert comparison.decide(models, 49).outcome == "too_few_rows"
    assert comparison.decide(models, 50).outcome == "none"
    assert comparison.decide({}, 500).outcome == "unmeasured"
    ours, wrong = (
        Answers(ids=["a"] * 10, labels=LABELS[:10], probabilities=made.probabilities[:10], guesses=made.guesses[:10])
        for made in (answers([]), answers(range(5)))
    )
    said = comparison.sentence(compare(ours, {"majority": wrong}))
    assert said.startswith("10 test rows are too few to tell whether a cheaper model is as good; a verdict takes 50.")


def test_a_model_that_saw_fewer_training_rows_is_said_to_have() -> None:
    chosen = {"majority": {"rows": 900}, "tfidf": {"rows": 512}, "zero_shot": {"missing": "left out"}}
    given = {"tfidf": answers(range(60))}
    found = comparison.compare(answers(range(10)), given, SPAM, chosen=chosen, **BOOTSTRAP)
    assert "it was fitted to 512 of the 900 training rows" in comparison.sentence(found)
    chosen["tfidf"] = {"rows": 900}
    found = comparison.compare(answers(range(10)), given, SPAM, chosen=chosen, **BOOTSTRAP)
    assert "fitted to" not in comparison.sentence(found)
