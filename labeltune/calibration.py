"""Confidence that means what it says: fitted on validation rows, kept in the artefact, applied to every answer."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labeltune.errors import UserError
from labeltune.evaluation import Calibrate
from labeltune.softmax import softmax
from labeltune.terminal import say

STEEPEST = 20.0
"""Inverse temperatures beyond this, or below its inverse, are taken for not identified by the rows."""

Logits = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What turns logits into probabilities, answers into abstentions, and probabilities into sets of labels."""

    temperature: float = 1.0
    """The logits are divided by it."""
    fitted: bool = False
    """Whether the validation rows identify the temperature: not where all of them are right, or all are noise."""
    rows: int = 0
    """Validation rows that it was fitted on."""
    abstain: str = "never"
    """Target that set the threshold: never, coverage or accuracy."""
    target: float | None = None
    """Its level."""
    threshold: float = 0.0
    """An answer of less confidence is marked as abstained."""
    coverage: float = 1.0
    """Share of the validation rows that are answered."""
    accuracy: float | None = None
    """Share of those that are answered rightly; None where none is."""
    set_coverage: float | None = None
    """Share of rows whose prediction set is to hold the true label."""
    set_threshold: float = 0.0
    """A prediction set holds the answer, and every label of at least this probability."""

    def probabilities(self, logits: Logits) -> NDArray[np.float64]:
        """Calibrated probabilities, `[rows, num_labels]`."""
        return softmax(logits.astype(np.float64) / self.temperature)


NONE = Calibration()
"""What a classifier has before it is calibrated: the model's own probabilities, and it never abstains."""


def calibrate(logits: Logits, labels: Indices, settings: Calibrate) -> Calibration:
    """Fit temperature, abstention threshold and prediction sets on validation rows.

    Args:
        logits: `[rows, num_labels]`.
        labels: index of each row's label, `[rows]`.

    Raises:
        UserError: no threshold reaches the accuracy that was asked for.
    """
    temperature = fit_temperature(logits, labels) if settings.temperature == "fit" else None
    given = softmax(logits.astype(np.float64) / (temperature or 1.0))
    confidence = given.max(axis=1)
    right = given.argmax(axis=1) == labels
    threshold = choose_threshold(confidence, right, settings.abstain, settings.abstain_target)
    answered = confidence >= threshold
    return Calibration(
        temperature=temperature or 1.0,
        fitted=temperature is not None,
        rows=len(labels),
        abstain=settings.abstain,
        target=None if settings.abstain == "never" else settings.abstain_target,
        threshold=threshold,
        coverage=float(answered.mean()),
        accuracy=float(right[answered].mean()) if answered.any() else None,
        set_coverage=settings.set_coverage,
        set_threshold=choose_set_threshold(given[np.arange(len(labels)), labels], settings.set_coverage),
    )


def fit_temperature(logits: Logits, labels: Indices) -> float | None:
    """Temperature of the lowest log-loss (Guo et al. 2017, arXiv:1706.04599); None where the rows don't identify one.

    The log-loss is convex in the inverse temperature, so that its slope, the mean over the rows of the expected less
    the true label's logit, has one root at most. Rows that are all right have none: the colder, the better.
    """
    from scipy.optimize import brentq  # half a second, which who applies a temperature need not wait for

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    true = shifted[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        return float(((softmax(shifted * inverse) * shifted).sum(axis=1) - true).mean())

    if slope(1 / STEEPEST) >= 0 or slope(STEEPEST) <= 0:
        return None
    return 1 / float(brentq(slope, 1 / STEEPEST, STEEPEST, xtol=1e-10))


def choose_threshold(confidence: NDArray[np.float64], right: NDArray[np.bool_], rule: str, target: float) -> float:
    """The confidence from which to answer.

    It lies half-way between two rows' confidences, so that rounding doesn't turn an answer; 0 answers all.

    Args:
        confidence: of each validation row, `[rows]`.
        right: whether its answer is, `[rows]`.
        rule: `never`; `coverage`: answer the fewest rows that are `target` of all; `accuracy`: answer the most rows
            of which `target` are right.

    Raises:
        UserError: no threshold reaches the accuracy.
    """
    if rule == "never":
        return 0.0
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    ends = np.flatnonzero(
        np.append(sorted_confidence[1:] < sorted_confidence[:-1], True)
    )  # rows of a tie stay together
    if rule == "coverage":
        reaching = ends[ends + 1 >= target * len(order) - 1e-9]
        last = int(reaching[0])
    else:
        accuracy = np.cumsum(right[order])[ends] / (ends + 1)
        reaching = ends[accuracy >= target]
        if not len(reaching):
            raise UserError(
                f"calibrate.abstain_target: no confidence gives an accuracy of {target} on the {len(order)} validation "
                f"rows, {accuracy.max():.4f} at most; set a lower one, or calibrate.abstain: coverage"
            )
        last = int(reaching[-1])
    if last == len(order) - 1:
        return 0.0
    return float(sorted_confidence[last : last + 2].mean())


def choose_set_threshold(given: NDArray[np.float64], coverage: float) -> float:
    """Least probability of a label in a split-conformal prediction set (Sadinle et al. 2019, arXiv:1609.00451).

    With n validation rows it is the floor((n + 1)(1 - coverage))-th smallest probability that one of them gives to
    its true label; a new row's set then holds its true label with at least this chance, if it is like those rows. The
    answer itself is always in the set, which makes it no rarer: a sure classifier's sets would else be empty.

    Args:
        given: probability of each validation row's true label, `[rows]`.

    >>> choose_set_threshold(np.array([0.9, 0.2, 0.8, 0.7]), coverage=0.6)
    0.7
    """
    place = math.floor((len(given) + 1) * (1 - coverage) + 1e-9)
    return float(np.sort(given)[place - 1]) if place else 0.0


def show(fitted: Calibration, folder: Path) -> None:
    """Print the summary of `calibrate`."""
    how = f"temperature {fitted.temperature:.3f}" if fitted.fitted else "no temperature fits, the logits stay"
    say(f"{how}, from {fitted.rows:,} validation rows")
    if fitted.abstain != "never":
        right = "" if fitted.accuracy is None else f", {fitted.accuracy:.4f} of them right"
        say(
            f"abstains below a confidence of {fitted.threshold:.3f}: answers {fitted.coverage:.1%} of these rows{right}"
        )
    say(f"the classifier lies in {folder}/")
