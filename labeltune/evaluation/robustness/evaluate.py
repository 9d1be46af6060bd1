"""Robustness: the list of perturbations, the predictions on perturbed texts, and what they change."""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from labeltune.config.evaluation import Robustness
from labeltune.console import terminal
from labeltune.data.labels import LabelSet
from labeltune.evaluation.metrics import bootstrap, paired_test, share_interval
from labeltune.evaluation.robustness import characters, editing, words
from labeltune.evaluation.robustness.editing import Draw, Language, language
from labeltune.inference.calibration import Calibration
from labeltune.runtime.files import probabilities, read_predictions

Kind = Literal["label_preserving", "label_agnostic"]
NAMED = ("synonym_replace", "typo_insertion", "punctuation_change")
"""Done to every test row, and at every severity to a sample."""

EVERY: tuple[Language, ...] = get_args(Language)
BOTH: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """A perturbation of texts."""

    change: Callable[[str, Draw], str]
    """Function that returns the perturbed text, or the same text if there is nothing to change."""
    languages: tuple[Language, ...] = EVERY
    """Languages of the texts that it changes."""
    graded: bool = False
    """Whether the severity sets the share of the text that is changed."""
    kind: Kind = "label_preserving"
    """Whether the perturbed text keeps its label, or may have another one."""


PERTURBATIONS: dict[str, Perturbation] = {
    "synonym_replace": Perturbation(change=words.replace_synonyms, languages=BOTH, graded=True),
    "typo_insertion": Perturbation(change=characters.typos, languages=BOTH, graded=True),
    "punctuation_change": Perturbation(change=characters.change_punctuation, graded=True),
    "character_width": Perturbation(change=characters.change_width, graded=True),
    "emoji": Perturbation(change=characters.add_emoji),
    "homophones": Perturbation(change=characters.sound_alikes, languages=("zh",), graded=True),
    "instruction": Perturbation(change=editing.instruct, languages=BOTH),
    "letter_case": Perturbation(change=characters.change_case),
    "look_alikes": Perturbation(change=characters.look_alikes, languages=BOTH, graded=True),
    "padding": Perturbation(change=editing.pad_text, languages=BOTH),
    "prompt_injection": Perturbation(change=editing.inject, languages=BOTH),
    "traditional_simplified": Perturbation(change=characters.change_script, languages=("zh",)),
    "white_space": Perturbation(change=characters.change_space, graded=True),
    "word_deletion": Perturbation(change=words.delete_words, graded=True, kind="label_agnostic"),
    "word_swap": Perturbation(change=words.swap_words, graded=True, kind="label_agnostic"),
}
"""In the order in which they are reported: the named ones first."""


def perturb(name: str, text: str, *, row: str, label: int, labels: LabelSet, severity: float, seed: int) -> str:
    """Change a text; it stays as it is in a language that the perturbation is not for, and never becomes empty.

    The change depends on nothing but the arguments: neither on other rows nor on other perturbations. What a higher
    severity changes holds what a lower one does.

    Args:
        row: its id.
        label: its index in the labels.
    """
    perturbation, spoken = PERTURBATIONS[name], language(text)
    if spoken not in perturbation.languages:
        return text
    draw = Draw(
        rng=random.Random(f"{seed} {name} {row}"),
        severity=severity,
        language=spoken,
        wrong=[word for place, word in enumerate(labels.words) if place != label],
    )
    changed = perturbation.change(text, draw)
    return changed if changed.strip() else text


CURVE = 4
"""One row of so many of the sample is changed at each severity, for a curve shows a trend and no verdict reads it."""
RESAMPLES = 2000
"""Of the bootstrap of the confidence drop."""

Answers = Mapping[str, NDArray[np.float64]]
"""Text -> probabilities `[num_labels]`."""


class Predicting(Protocol):
    """Interface of a classifier."""

    def predict(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> Any:
        """Return an object whose `probabilities` are `[rows, num_labels]`."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """The test rows with their predictions."""

    ids: list[str]
    texts: list[str]
    labels: NDArray[np.int64]
    """Index of each row's label, `[rows]`."""
    probabilities: NDArray[np.float64]
    """`[rows, num_labels]`."""
    names: LabelSet
    """The labels."""
    calibration: Calibration
    """Calibration that determines predictions from probabilities."""

    @classmethod
    def read(cls, path: Path, names: LabelSet, calibration: Calibration) -> "Given":
        """Read the table of predictions, whose probabilities the calibration gave."""
        rows = read_predictions(path)
        return cls(
            ids=rows["id"].tolist(),
            texts=rows["text"].tolist(),
            labels=np.array(names.index(rows["label"].tolist())),
            probabilities=probabilities(rows, names.names),
            names=names,
            calibration=calibration,
        )

    def sample(self, count: int, seed: int) -> list[int]:
        """Return the positions of a random sample of the rows by their ids; a larger sample contains a smaller one."""
        drawn = sorted(
            range(len(self.ids)), key=lambda row: hashlib.sha256(f"{seed} {self.ids[row]}".encode()).digest()
        )
        return sorted(drawn[:count])


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A perturbation at one severity, applied to some rows."""

    name: str
    severity: float | None
    """Share of the text that is changed; None if the perturbation has no severity."""
    rows: list[int]
    """Positions of the rows."""
    texts: list[str]
    """Perturbed texts, some of which may be unchanged."""
    curve: bool
    """Whether it is a point of the severity curve rather than one of the tests."""


def plan(given: Given, settings: Robustness) -> list[Trial]:
    """Change the texts: by the three named perturbations all rows, by others a sample, by severities a part of it."""
    every, some = list(range(len(given.ids))), given.sample(settings.sample, settings.seed)
    few = given.sample(severity_sample(settings, len(every)), settings.seed)
    steps = sorted({*settings.severities, settings.severity})
    wanted = [(name, settings.severity, every if name in NAMED else some, False) for name in PERTURBATIONS]
    wanted += [(name, severity, few, True) for name in NAMED for severity in steps]
    with terminal.progress("changing the texts", sum(len(rows) for _, _, rows, _ in wanted)) as progress:
        return [_trial(given, settings.seed, *each, progress) for each in wanted]


def severity_sample(settings: Robustness, rows: int) -> int:
    """How many rows each point of a severity curve is measured on.

    >>> severity_sample(Robustness(), 225), severity_sample(Robustness(), 10)
    (50, 3)
    """
    return -(-min(settings.sample, rows) // CURVE)


def _trial(
    given: Given, seed: int, name: str, severity: float, rows: list[int], curve: bool, progress: Callable[[int], None]
) -> Trial:
    texts = []
    for row in rows:
        label = int(given.labels[row])
        texts.append(
            perturb(
                name,
                given.texts[row],
                row=given.ids[row],
                label=label,
                labels=given.names,
                severity=severity,
                seed=seed,
            )
        )
        progress(1)
    graded = PERTURBATIONS[name].graded
    return Trial(name=name, severity=severity if graded else None, rows=rows, texts=texts, curve=curve)


def predict(classifier: Predicting, given: Given, trials: Iterable[Trial]) -> Answers:
    """Answer every distinct changed text, in one pass; a text that stayed as it is keeps the answer it got."""
    answers = dict(zip(given.texts, given.probabilities, strict=True))
    fresh = sorted({text for trial in trials for text in trial.texts} - answers.keys())
    if fresh:
        with terminal.progress("predicting the changed texts", len(fresh)) as progress:
            found = classifier.predict(fresh, progress=progress).probabilities
        answers.update(zip(fresh, found, strict=True))
    return answers


def measure(given: Given, trials: Iterable[Trial], answers: Answers, settings: Robustness) -> dict[str, Any]:
    """Everything that robustness_result.json holds."""
    tests: dict[str, dict[str, Any]] = {}
    severities: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMED}
    for trial in trials:
        figures = _figures(given, trial, answers, settings.seed)
        if trial.curve:
            severities[trial.name].append(figures)
        else:
            tests[trial.name] = figures
    original = float((given.calibration.answers(given.probabilities) == given.labels).mean())
    named = [tests[name]["accuracy"] for name in NAMED if tests[name]["accuracy"] is not None]
    perturbed = float(np.mean(named)) if named else None
    return {
        "original_accuracy": original,
        "perturbed_accuracy": perturbed,
        "robustness_score": None if perturbed is None or original == 0 else perturbed / original,
        "rows": len(given.ids),
        "sample": min(settings.sample, len(given.ids)),
        "severity_sample": severity_sample(settings, len(given.ids)),
        "seed": settings.seed,
        "perturbation_tests": tests,
        "severities": severities,
    }


def _figures(given: Given, trial: Trial, answers: Answers, seed: int) -> dict[str, Any]:
    """The figures of one trial over all of its rows, changed or not; undefined where nothing was changed.

    `paired` compares the answers before the change with those after it: its difference is the accuracy lost.
    """
    before = given.probabilities[trial.rows]  # [rows, num_labels]
    after = np.array([answers[text] for text in trial.texts])
    answered, labels = given.calibration.answers(before), given.labels[trial.rows]
    guesses = given.calibration.answers(after)
    right, flipped = guesses == labels, guesses != answered
    places = np.arange(len(labels))
    drop = before[places, answered] - after[places, answered]
    changed = sum(text != given.texts[row] for row, text in zip(trial.rows, trial.texts, strict=True))
    figures: dict[str, Any] = {
        "kind": PERTURBATIONS[trial.name].kind,
        "rows": len(labels),
        "changed": changed,
        "severity": trial.severity,
        "original_accuracy": float((answered == labels).mean()),
    }
    if not changed:
        keys = ("accuracy", "flip_rate", "confidence_drop")
        return figures | {key + end: None for key in keys for end in ("", "_interval")} | {"paired": None}
    intervals = {
        "accuracy_interval": share_interval(int(right.sum()), len(right)),
        "flip_rate_interval": share_interval(int(flipped.sum()), len(flipped)),
        "confidence_drop_interval": bootstrap(
            lambda rows: drop[rows].mean(axis=-1), len(drop), seed=seed, resamples=RESAMPLES
        ),
    }
    figures |= {
        "accuracy": float(right.mean()),
        "flip_rate": float(flipped.mean()),
        "confidence_drop": float(drop.mean()),
        "paired": paired_test(answered == labels, right).record(),
    }
    return figures | {name: interval.record() if interval else None for name, interval in intervals.items()}


def show(result: dict[str, Any], metrics: Path, folder: Path) -> None:
    """Print the summary of the stage."""
    lines = [
        [
            name,
            figures["kind"].replace("_", " "),
            figures["rows"],
            figures["changed"],
            _shown(figures, "accuracy"),
            _shown(figures, "flip_rate"),
        ]
        for name, figures in result["perturbation_tests"].items()
    ]
    title = f"{result['rows']:,} test rows, original accuracy {result['original_accuracy']:.4f}"
    terminal.table(title, ["perturbation", "kind", "rows", "changed", "accuracy", "answers that flip"], lines)
    score = result["robustness_score"]
    terminal.say(
        f"robustness score {'undefined' if score is None else format(score, '.4f')} (accuracy after "
        f"{', '.join(NAMED)}, as a share of the original); figures in {metrics}, every changed text in {folder}/"
    )


def _shown(figures: dict[str, Any], key: str) -> str:
    value, interval = figures[key], figures[f"{key}_interval"]
    if value is None:
        return "undefined"
    return f"{value:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


COLUMNS = [
    "perturbation", "id", "label", "text", "changed_text", "prediction", "changed_prediction", "confidence",
    "changed_confidence",
]  # fmt: skip
"""Columns of a changed prediction; the table of all rows has the severity as well."""


def rows(given: Given, trials: Iterable[Trial], answers: Answers) -> pd.DataFrame:
    """One row per changed text, with both answers: the label and how confident it is."""
    names, choose = given.names.names, given.calibration.answers
    lines: dict[tuple[str, float | None, int], dict[str, Any]] = {}
    for trial in trials:
        for row, text in zip(trial.rows, trial.texts, strict=True):
            key = (trial.name, trial.severity, row)  # a point of the severity curve may be one of the tests too
            if text != given.texts[row] and key not in lines:
                both = np.stack([given.probabilities[row], answers[text]])  # before and after, [2, num_labels]
                (guess, changed), (sure, then) = choose(both), given.calibration.confidence(both)
                lines[key] = {
                    "perturbation": trial.name,
                    "severity": trial.severity,
                    "id": given.ids[row],
                    "label": names[given.labels[row]],
                    "text": given.texts[row],
                    "changed_text": text,
                    "prediction": names[guess],
                    "changed_prediction": names[changed],
                    "confidence": sure,
                    "changed_confidence": then,
                }
    return pd.DataFrame(list(lines.values()), columns=[COLUMNS[0], "severity", *COLUMNS[1:]])


def worst(table: pd.DataFrame, severity: float, most: int) -> pd.DataFrame:
    """The rows whose answer changed, first those in which the less confident of both answers is most so.

    Args:
        table: what `rows` gives.
        severity: the tests'; flips at other severities are in the table alone.
    """
    tested = table["severity"].isna() | (table["severity"] == severity)
    flipped = table[tested & (table["prediction"] != table["changed_prediction"])]
    order = flipped[["confidence", "changed_confidence"]].min(axis=1).sort_values(ascending=False, kind="stable").index
    return flipped.loc[order[:most], COLUMNS]
