"""Comparison of the fine-tuned model with cheaper ones on the same test rows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labeltune.console.terminal import say, table
from labeltune.data.labels import Indices, LabelSet, Probabilities
from labeltune.evaluation import metrics
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import probabilities, read_predictions

FINE_TUNED = "fine-tuned"
BASELINE = "zero_shot"
"""What fine-tuning is an improvement on: the same model before it."""
SIGNIFICANT = 0.05
NAMES = {"zero_shot": "zero-shot", "hidden_states": "hidden states", "tfidf": "TF-IDF", "majority": "majority class"}
"""What users read."""
COSTS = {
    "train_seconds": "training s",
    "rows_per_second": "rows/s",
    "peak_memory_mib": "memory MiB",
    "size_mib": "disk MiB",
}
LARGE = 100
"""From here a cost is shown without decimals."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model answered."""

    ids: list[str]
    """The rows."""
    labels: Indices
    """Index of each row's label, `[rows]`."""
    probabilities: Probabilities
    """`[rows, num_labels]`."""

    @classmethod
    def of(cls, frame: pd.DataFrame, labels: LabelSet) -> "Answers":
        """The answers of a table with the columns id, label and p_NAME."""
        return cls(
            ids=frame["id"].tolist(),
            labels=np.array(labels.index(frame["label"].tolist())),
            probabilities=probabilities(frame, labels.names),
        )

    @property
    def right(self) -> metrics.Flags:
        """Which rows are answered rightly, `[rows]`."""
        return self.probabilities.argmax(axis=1) == self.labels


def read_answers(predictions: Path, baselines: Path, labels: LabelSet) -> tuple[Answers, dict[str, Answers]]:
    """Read the fine-tuned model's answers and those of the cheaper ones.

    Raises:
        UserError: they are not of the same rows.
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
    ours: Answers, others: Mapping[str, Answers], labels: LabelSet, *, missing: str | None, seed: int, resamples: int
) -> dict[str, Any]:
    """Everything that baseline_comparison.json holds.

    `as_good` names the models against which the fine-tuned one is not significantly better: it is not more accurate,
    or the exact McNemar test gives at least 0.05. That is no proof that they are equal. With few test rows little can
    be significant: of 20 rows on which only one of two models is right, one of them has to win 15. The interval of the
    difference says how much better the fine-tuned model may still be.

    Args:
        ours: the fine-tuned model's answers.
        others: name -> a cheaper model's answers to the same rows.
        missing: why the untuned base model's answers are missing, None if they are there.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    options = {"seed": seed, "resamples": resamples}
    found: dict[str, Any] = {}
    for name, theirs in others.items():
        test = metrics.paired_test(ours.right, theirs.right, **options)
        found[name] = {**figures(theirs, labels, **options), "paired": test.record()}
    tuned = figures(ours, labels, **options)
    baseline = {key: value for key, value in found[BASELINE].items() if key != "paired"} if BASELINE in found else None
    return {
        "fine_tuned_model": tuned,
        "baseline_model": baseline and baseline | {"name": BASELINE},
        "baseline_missing": None if baseline else missing,
        "improvement": baseline and improvement(tuned["accuracy"], baseline["accuracy"]),
        "models": found,
        "as_good": sorted((name for name in found if _as_good(found[name])), key=lambda name: _rank(name, found[name])),
    }


def figures(answers: Answers, labels: LabelSet, *, seed: int, resamples: int) -> dict[str, Any]:
    """One model's accuracy, macro F1 and ROC-AUC with their intervals, as metrics.json has them."""
    points = metrics.summarise(answers.labels, answers.probabilities, labels.names)
    sure = metrics.intervals(answers.labels, answers.probabilities, seed=seed, resamples=resamples)
    return {"n": points["n"]} | {
        key: value for name in sure for key, value in ((name, points[name]), (f"{name}_interval", sure[name]))
    }


def improvement(accuracy: float, before: float) -> dict[str, float | None]:
    """Accuracy gained over another model's, and as a share of that; None of nothing."""
    return {"absolute": accuracy - before, "relative": (accuracy - before) / before if before else None}


def _as_good(model: Mapping[str, Any]) -> bool:
    paired = model["paired"]
    return bool(paired["difference"] <= 0 or paired["p_value"] >= SIGNIFICANT)


def _rank(name: str, model: Mapping[str, Any]) -> tuple[float, float, str]:
    """Best first."""
    return -model["accuracy"], -model["macro_f1"], name


def verdict(found: Mapping[str, Any]) -> str:
    """Whether something cheaper is as good, in one sentence."""
    tuned, models = found["fine_tuned_model"], found["models"]
    best = found["as_good"][0] if found["as_good"] else min(models, key=lambda name: _rank(name, models[name]))
    paired, shown = models[best]["paired"], NAMES.get(best, best)
    against = (
        f"{models[best]['accuracy']:.1%} against {tuned['accuracy']:.1%} of {tuned['n']:,} test rows, "
        f"p {_p(paired['p_value'])}"
    )
    if not found["as_good"]:
        return f"Nothing cheaper is as good as the fine-tuned model; the best, {shown}, has {against}."
    if paired["difference"] < 0 and paired["p_value"] < SIGNIFICANT:
        return f"Something cheaper is better than the fine-tuned model: {shown} has {against}."
    return f"Something cheaper is as good, as far as these rows tell: {shown} has {against}."


def show(found: Mapping[str, Any], spent: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Print the verdict and the table.

    Args:
        spent: name -> costs, where they are known.
    """
    say(verdict(found))
    models = sorted(found["models"].items(), key=lambda item: _rank(*item))
    rows = [_line(FINE_TUNED, found["fine_tuned_model"], spent.get(FINE_TUNED, {}))]
    rows += [_line(NAMES.get(name, name), model, spent.get(name, {})) for name, model in models]
    columns = ["model", "accuracy", "95% interval", "macro F1", "behind by", "p", *COSTS.values()]
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
