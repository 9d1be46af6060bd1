"""Comparison of the fine-tuned model with cheaper ones on the same test rows."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from labeltune.console.terminal import say, table
from labeltune.data.labels import Indices, LabelSet, Probabilities
from labeltune.evaluation import metrics
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import probabilities, read_predictions

FINE_TUNED = "fine-tuned"
BASELINE = "zero_shot"
"""Name of the base model before fine-tuning."""
SIGNIFICANT = 0.05
"""Significance level: below this p value of the paired test, one model counts as more accurate than another."""
FEWEST_ROWS = 50
"""Minimum number of test rows for a verdict; with fewer, a test rarely detects a difference of even 10 points."""
Outcome = Literal["better", "as_good", "none", "too_few_rows", "unmeasured"]
NAMES = {"zero_shot": "zero-shot", "hidden_states": "hidden states", "tfidf": "TF-IDF", "majority": "majority class"}
"""Model -> name in messages."""
COSTS = {
    "train_seconds": "training s",
    "rows_per_second": "rows/s",
    "peak_memory_mib": "memory MiB",
    "size_mib": "disk MiB",
}
LARGE = 100
"""Smallest cost that is shown without decimals."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Predictions of one model."""

    ids: list[str]
    """Ids of the rows."""
    labels: Indices
    """Index of each row's label, `[rows]`."""
    probabilities: Probabilities
    """`[rows, num_labels]`."""
    guesses: Indices
    """Index of the predicted label, `[rows]`."""

    @classmethod
    def of(cls, frame: pd.DataFrame, labels: LabelSet) -> "Answers":
        """Return the predictions in a table with the columns id, label, prediction and p_NAME."""
        return cls(
            ids=frame["id"].tolist(),
            labels=np.array(labels.index(frame["label"].tolist())),
            probabilities=probabilities(frame, labels.names),
            guesses=np.array(labels.index(frame["prediction"].tolist())),
        )

    @property
    def right(self) -> metrics.Flags:
        """Which rows are classified correctly, `[rows]`."""
        return self.guesses == self.labels


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a cheaper model is as good as the fine-tuned one."""

    outcome: Outcome
    """`better`: one is more accurate. `as_good`: for at least one, the paired test finds no difference, and none is
    better. `none`: the fine-tuned model is more accurate than each. `too_few_rows`: fewer than `FEWEST_ROWS`.
    `unmeasured`: there is no cheaper model."""
    models: list[str]
    """The models that are better or as good, best first; otherwise the most accurate one."""
    significance: float = SIGNIFICANT
    """Significance level; p values below it count as a difference."""
    fewest_rows: int = FEWEST_ROWS
    """Minimum number of test rows for a verdict."""

    def record(self) -> dict[str, Any]:
        """Return the entry of baseline_comparison.json."""
        return asdict(self)


def decide(models: Mapping[str, Any], rows: int) -> Verdict:
    """Decide by paired tests whether a cheaper model is as good.

    Args:
        models: name -> figures of a cheaper model, with `paired`: the fine-tuned model's test against it.
        rows: number of test rows.
    """
    ranked = sorted(models, key=lambda name: _rank(name, models[name]))
    if not ranked:
        return Verdict(outcome="unmeasured", models=[])
    if rows < FEWEST_ROWS:
        return Verdict(outcome="too_few_rows", models=ranked[:1])
    better = [name for name in ranked if _significant(models[name]) and models[name]["paired"]["difference"] < 0]
    if better:
        return Verdict(outcome="better", models=better)
    equal = [name for name in ranked if not _significant(models[name])]
    return Verdict(outcome="as_good", models=equal) if equal else Verdict(outcome="none", models=ranked[:1])


def read_answers(predictions: Path, baselines: Path, labels: LabelSet) -> tuple[Answers, dict[str, Answers]]:
    """Read the predictions of the fine-tuned model and of the cheaper ones.

    Raises:
        UserError: they are not for the same rows.
    """
    ours = Answers.of(read_predictions(predictions), labels)
    long = read_predictions(baselines)
    others = {str(name): Answers.of(frame, labels) for name, frame in long.groupby("model", sort=False)}
    for name, theirs in others.items():
        if theirs.ids != ours.ids or not np.array_equal(theirs.labels, ours.labels):
            raise UserError(
                f"{baselines}: the answers of {name} are to other rows, or in another order, than those in "
                f"{predictions}, so they can't be compared; run `dvc repro`"
            )
    return ours, others


def compare(
    ours: Answers,
    others: Mapping[str, Answers],
    labels: LabelSet,
    *,
    chosen: Mapping[str, Any],
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Return the content of baseline_comparison.json.

    `as_good` names the models against which the fine-tuned one is not significantly better: it is not more accurate,
    or the exact McNemar test gives at least 0.05. That does not prove that they are equal. With few test rows few
    differences are significant: if only one of two models is right on 20 rows, it must be the same one on 15 of them.
    The interval of the difference shows how much better the fine-tuned model may be.

    Args:
        ours: predictions of the fine-tuned model.
        others: name -> predictions of a cheaper model for the same rows.
        chosen: metrics/baselines.json: how many training rows each model saw, and why one is missing.
        seed: seed of the bootstrap.
        resamples: number of bootstrap resamples.
    """
    options = {"seed": seed, "resamples": resamples}
    found: dict[str, Any] = {}
    for name, theirs in others.items():
        test = metrics.paired_test(ours.right, theirs.right)
        seen = {"training_rows": chosen.get(name, {}).get("rows", 0)}
        found[name] = {**figures(theirs, labels, **options), **seen, "paired": test.record()}
    every = chosen.get("majority", {}).get("rows")
    tuned = {**figures(ours, labels, **options), "training_rows": every}
    baseline = (
        {key: value for key, value in found[BASELINE].items() if key not in ("paired", "training_rows")}
        if BASELINE in found
        else None
    )
    missing = chosen.get(BASELINE, {}).get("missing")
    return {
        "fine_tuned_model": tuned,
        "baseline_model": baseline and baseline | {"name": BASELINE},
        "baseline_missing": None if baseline else missing,
        "improvement": baseline and improvement(tuned["accuracy"], baseline["accuracy"]),
        "models": found,
        "verdict": decide(found, tuned["n"]).record(),
        "as_good": sorted((name for name in found if _as_good(found[name])), key=lambda name: _rank(name, found[name])),
    }


def figures(answers: Answers, labels: LabelSet, *, seed: int, resamples: int) -> dict[str, Any]:
    """Return a model's accuracy, macro F1 and ROC-AUC with their intervals, as in metrics.json."""
    points = metrics.summarise(answers.labels, answers.probabilities, labels.names, answers.guesses)
    sure = metrics.intervals(answers.labels, answers.probabilities, answers.guesses, seed=seed, resamples=resamples)
    return {"n": points["n"]} | {
        key: value for name in sure for key, value in ((name, points[name]), (f"{name}_interval", sure[name]))
    }


def improvement(accuracy: float, before: float) -> dict[str, float | None]:
    """Return the gain in accuracy over another model, absolute and relative; None for a share of 0."""
    return {"absolute": accuracy - before, "relative": (accuracy - before) / before if before else None}


def _as_good(model: Mapping[str, Any]) -> bool:
    paired = model["paired"]
    return bool(paired["difference"] <= 0 or not _significant(model))


def _significant(model: Mapping[str, Any]) -> bool:
    return bool(model["paired"]["p_value"] < SIGNIFICANT)


def _rank(name: str, model: Mapping[str, Any]) -> tuple[float, float, str]:
    """Sort key that puts the best model first."""
    return -model["accuracy"], -model["macro_f1"], name


def sentence(found: Mapping[str, Any]) -> str:
    """Return the verdict as a sentence for the terminal."""
    verdict, tuned = found["verdict"], found["fine_tuned_model"]
    if not verdict["models"]:
        return "There is no cheaper model to compare with."
    best = verdict["models"][0]
    model = found["models"][best]
    against = (
        f"{NAMES.get(best, best)} answers {model['accuracy']:.1%} of {tuned['n']:,} test rows correctly, the "
        f"fine-tuned model {tuned['accuracy']:.1%} (p {_p(model['paired']['p_value'])})"
    )
    seen, every = model["training_rows"], tuned["training_rows"]
    if seen and every and seen < every:
        against += f"; it was fitted to {seen:,} of the {every:,} training rows"
    return {
        "better": f"A cheaper model is better than the fine-tuned model: {against}.",
        "as_good": f"A cheaper model is as good, as far as these rows can tell: {against}.",
        "none": f"No cheaper model is as good as the fine-tuned model. The best one: {against}.",
        "too_few_rows": f"{tuned['n']:,} test rows are too few to tell whether a cheaper model is as good; a verdict "
        f"takes {verdict['fewest_rows']}. The most accurate: {against}.",
    }[verdict["outcome"]]


def show(found: Mapping[str, Any], spent: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Print the verdict and the table; a positive difference means that the fine-tuned model is more accurate.

    Args:
        spent: name -> costs, where they are known.
    """
    say(sentence(found))
    models = sorted(found["models"].items(), key=lambda item: _rank(*item))
    rows = [_line(FINE_TUNED, found["fine_tuned_model"], spent.get(FINE_TUNED, {}))]
    rows += [_line(NAMES.get(name, name), model, spent.get(name, {})) for name, model in models]
    columns = ["model", "accuracy", "95% interval", "macro F1", "training rows", "difference", "p", *COSTS.values()]
    table(f"{found['fine_tuned_model']['n']:,} test rows", columns, rows)
    if found["baseline_missing"]:
        say(f"no zero-shot answers: {found['baseline_missing']}")
    say(f"figures in {path}")


def _line(name: str, model: Mapping[str, Any], spent: Mapping[str, float]) -> list[str]:
    between, paired = model["accuracy_interval"], model.get("paired")
    return [
        name,
        f"{model['accuracy']:.4f}",
        f"{between['low']:.4f} to {between['high']:.4f}" if between else "undefined",
        f"{model['macro_f1']:.4f}",
        "" if model["training_rows"] is None else f"{model['training_rows']:,}",
        f"{paired['difference']:+.4f}" if paired else "",
        _p(paired["p_value"]).removeprefix("= ") if paired else "",
        *(f"{spent[key]:,.{0 if spent[key] >= LARGE else 1}f}" if key in spent else "" for key in COSTS),
    ]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def costs(baselines: Path, evaluate: Path, train: Path) -> dict[str, dict[str, float]]:
    """Every model's costs, as far as the stages have written them; training and predicting share the memory's peak."""
    cheaper, asked, trained = (_read(path) for path in (baselines, evaluate, train))
    tuned: dict[str, float] = {key: asked[key] for key in ("rows_per_second", "size_mib") if key in asked}
    tuned |= {"train_seconds": trained["seconds"]} if "seconds" in trained else {}
    peaks = [stage["peak_memory_mib"] for stage in (asked, trained) if "peak_memory_mib" in stage]
    return {FINE_TUNED: tuned | ({"peak_memory_mib": max(peaks)} if peaks else {}), **cheaper}


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
