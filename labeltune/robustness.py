"""What small changes of the texts do to a classifier's answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labeltune.evaluation import Robustness
from labeltune.intervals import Interval, bootstrap, share
from labeltune.labels import LabelSet
from labeltune.perturbations import NAMED, OTHERS, Perturbation
from labeltune.terminal import say, table

RESAMPLES = 2000
KINDS = {"label_preserving": "keeps the label", "label_agnostic": "may change it"}

Probabilities = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One perturbation at one severity, over some of the test rows."""

    perturbation: Perturbation
    """What was done."""
    severity: float
    """To which share of a text."""
    rows: list[int]
    """Places of the test rows."""
    texts: list[str]
    """What became of them, `[rows]`."""


def plan(frame: pd.DataFrame, labels: LabelSet, settings: Robustness) -> list[Trial]:
    """Change the test rows: all of them by the named perturbations, a seeded sample by the others.

    Args:
        frame: id, text, label of the test rows.
    """
    count = len(frame)
    drawn = sorted(Random(settings.seed).sample(range(count), min(settings.sample, count)))
    trials = [_trial(frame, labels, each, settings.severity, list(range(count)), settings.seed) for each in NAMED]
    for each in NAMED:
        for severity in settings.severities:
            trials.append(_trial(frame, labels, each, severity, drawn, settings.seed))
    trials += [_trial(frame, labels, each, settings.severity, drawn, settings.seed) for each in OTHERS]
    return trials


def _trial(
    frame: pd.DataFrame, labels: LabelSet, perturbation: Perturbation, severity: float, rows: list[int], seed: int
) -> Trial:
    texts = []
    for place in rows:
        row, text, label = frame["id"].iloc[place], frame["text"].iloc[place], frame["label"].iloc[place]
        wrong = Random(f"{seed}/{row}").choice(
            [w for w, name in zip(labels.words, labels.names, strict=True) if name != label]
        )
        texts.append(perturbation(text, severity=severity, wrong=wrong, seed=seed, row=row))
    return Trial(perturbation=perturbation, severity=severity, rows=rows, texts=texts)


def to_predict(trials: Sequence[Trial], frame: pd.DataFrame) -> list[str]:
    """The distinct changed texts: one pass answers them all, and what was not changed has its answer already."""
    original = set(frame["text"])
    return list(dict.fromkeys(text for trial in trials for text in trial.texts if text not in original))


def tabulate(
    trials: Sequence[Trial],
    frame: pd.DataFrame,
    given: Probabilities,
    answers: dict[str, Probabilities],
    names: Sequence[str],
) -> pd.DataFrame:
    """One row for each text of each trial, with the answer to it and to the original.

    Args:
        frame: id, text, label of the test rows.
        given: their probabilities, `[rows, num_labels]`.
        answers: probabilities `[num_labels]` of each text of `to_predict`.

    Returns:
        perturbation, kind, severity, id, label, text, changed_text, changed, prediction, changed_prediction,
        confidence, changed_confidence (each in its own answer), kept_confidence (in the original answer).
    """  # fmt: skip
    known = {text: given[place] for place, text in enumerate(frame["text"])} | answers
    rows = []
    for trial in trials:
        for place, text in zip(trial.rows, trial.texts, strict=True):
            before, after = given[place], known[text]
            changed = text != frame["text"].iloc[place]
            after = after if changed else before
            guess, new = int(before.argmax()), int(after.argmax())
            rows.append(
                {
                    "perturbation": trial.perturbation.name,
                    "kind": trial.perturbation.kind,
                    "severity": trial.severity,
                    "id": frame["id"].iloc[place],
                    "label": frame["label"].iloc[place],
                    "text": frame["text"].iloc[place],
                    "changed_text": text,
                    "changed": changed,
                    "prediction": names[guess],
                    "changed_prediction": names[new],
                    "confidence": float(before[guess]),
                    "changed_confidence": float(after[new]),
                    "kept_confidence": float(after[guess]),
                }
            )
    return pd.DataFrame(rows)


def summarise(
    answers: pd.DataFrame,
    trials: Sequence[Trial],
    frame: pd.DataFrame,
    given: Probabilities,
    names: Sequence[str],
    settings: Robustness,
) -> dict[str, Any]:
    """Everything that robustness_result.json holds, from the table of `tabulate`."""  # fmt: skip
    ends = np.cumsum([len(trial.rows) for trial in trials])
    parts = [answers.iloc[end - len(trial.rows) : end] for end, trial in zip(ends, trials, strict=True)]
    figures = [_figures(part, trial, settings.seed) for part, trial in zip(parts, trials, strict=True)]
    tests, severities = {}, {each.name: [] for each in NAMED}  # type: dict[str, Any], dict[str, list[Any]]
    for place, (trial, found) in enumerate(zip(trials, figures, strict=True)):
        name = trial.perturbation.name
        if name in severities and place >= len(NAMED):
            severities[name].append(found)
        else:
            tests[name] = found
    right = np.array([names[guess] for guess in given.argmax(axis=1)]) == frame["label"].to_numpy()
    original = float(right.mean())
    perturbed = float(np.mean([tests[each.name]["accuracy_all"] for each in NAMED]))
    for found in figures:
        del found["accuracy_all"]
    return {
        "original_accuracy": original,
        "perturbed_accuracy": perturbed,
        "robustness_score": perturbed / original if original else None,
        "perturbation_tests": tests,
        "severities": severities,
        "rows": len(frame),
        "sample": min(settings.sample, len(frame)),
        "seed": settings.seed,
    }


def _figures(part: pd.DataFrame, trial: Trial, seed: int) -> dict[str, Any]:
    """Figures of one trial, over the texts that it changed; None where it changed none."""
    every = float((part["changed_prediction"] == part["label"]).mean())
    part = part[part["changed"]]
    rows = len(part)
    found: dict[str, Any] = {
        "kind": trial.perturbation.kind,
        "severity": trial.severity,
        "rows": len(trial.rows),
        "changed": rows,
        "accuracy_all": every,
    }
    right = (part["changed_prediction"] == part["label"]).to_numpy()
    flipped = (part["changed_prediction"] != part["prediction"]).to_numpy()
    drop = (part["confidence"] - part["kept_confidence"]).to_numpy()
    spread = (
        bootstrap(lambda chosen: drop[chosen].mean(axis=-1), rows, seed=seed, resamples=RESAMPLES) if rows else None
    )
    return found | {
        "original_accuracy": float((part["prediction"] == part["label"]).mean()) if rows else None,
        "accuracy": float(right.mean()) if rows else None,
        "accuracy_interval": _record(share(int(right.sum()), rows)),
        "flip_rate": float(flipped.mean()) if rows else None,
        "flip_rate_interval": _record(share(int(flipped.sum()), rows)),
        "confidence_drop": float(drop.mean()) if rows else None,
        "confidence_drop_interval": _record(spread),
    }


def worst_flips(answers: pd.DataFrame, most: int) -> pd.DataFrame:
    """The changed answers, first those of which the classifier was surest before and after."""
    flips = answers[answers["prediction"] != answers["changed_prediction"]]
    order = (-flips[["confidence", "changed_confidence"]].min(axis=1)).argsort(kind="stable")
    flips = flips.iloc[order].drop_duplicates(["perturbation", "changed_text"])
    columns = [
        "perturbation", "id", "label", "text", "changed_text", "prediction", "changed_prediction", "confidence",
        "changed_confidence",
    ]  # fmt: skip
    return flips.head(most)[columns]


def _record(interval: Interval | None) -> dict[str, Any] | None:
    return interval and interval.record()


def show(figures: dict[str, Any], path: Path, flips: Path) -> None:
    """Print the summary of `robustness`."""
    score = figures["robustness_score"]
    say(
        f"accuracy {figures['original_accuracy']:.4f}, and {figures['perturbed_accuracy']:.4f} after synonyms, typos "
        f"and punctuation changes: a robustness of {'undefined' if score is None else f'{score:.4f}'}"
    )
    rows = [
        [name, KINDS[one["kind"]], f"{one['changed']:,} of {one['rows']:,}", *map(_percent, _shown(one))]
        for name, one in figures["perturbation_tests"].items()
    ]
    table(
        "texts that were changed",
        ["perturbation", "kind", "changed", "accuracy before", "accuracy", "answers flipped"],
        rows,
    )
    say(f"figures in {path}, the worst flips in {flips}")


def _shown(one: dict[str, Any]) -> list[Any]:
    return [one["original_accuracy"], one["accuracy"], one["flip_rate"]]


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1%}"
