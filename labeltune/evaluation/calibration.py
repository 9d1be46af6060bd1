"""Fitting calibration, the abstention threshold and prediction sets on validation rows."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from labeltune.config.evaluation import Calibrate
from labeltune.config.model import Train
from labeltune.console.terminal import say
from labeltune.data.labels import Indices, LabelSet
from labeltune.data.prevalence import Prevalence, in_order
from labeltune.inference.calibration import Calibration, Logits
from labeltune.runtime.errors import UserError

SPREAD = math.log(2) / 2
"""Standard deviation of the logarithm of a temperature before any row is seen: 95% of them lie between 1/2 and 2.
Fine-tuned transformers are nearly calibrated on texts like those of their training (Desai and Durrett 2020,
arXiv:2003.07892), so that a temperature further off takes evidence: the prior weighs as much as 19 answers of 90%
confidence, each of which adds p(1 - p) times its squared log-odds, 0.43, to the information about the logarithm."""
STEEPEST = math.log(20)
"""Largest logarithm of a temperature, or of its inverse, that is tried."""
PRECISION = 1e-9


def calibrate(
    logits: Logits, labels: Indices, settings: Calibrate, weights: NDArray[np.float64] | None = None
) -> Calibration:
    """Fit temperature, label biases, abstention threshold and prediction sets on validation rows.

    Args:
        logits: `[rows, num_labels]`.
        labels: index of each row's label, `[rows]`.
        weights: of the labels in the loss that was trained, `[num_labels]`; None where all were equal.

    Raises:
        UserError: no threshold reaches the accuracy that was asked for.
    """
    fitted = Calibration(rows=len(labels))
    if settings.temperature == "fit":
        temperature, bias = fit_temperature(logits, labels, weights)
        fitted = replace(fitted, temperature=temperature, bias=bias, fitted=True)
    given = fitted.probabilities(logits)
    confidence = fitted.confidence(given)
    right = fitted.answers(given) == labels
    threshold = choose_threshold(confidence, right, settings.abstain, settings.abstain_target)
    answered = confidence >= threshold
    return replace(
        fitted,
        abstain=settings.abstain,
        target=None if settings.abstain == "never" else settings.abstain_target,
        threshold=threshold,
        coverage=float(answered.mean()),
        accuracy=float(right[answered].mean()) if answered.any() else None,
        set_coverage=settings.set_coverage,
        set_threshold=choose_set_threshold(given[np.arange(len(labels)), labels], settings.set_coverage),
    )


def trained_weights(train: Train, labels: LabelSet, prevalence: Prevalence) -> NDArray[np.float64] | None:
    """Weight of each label in the loss that was trained, `[num_labels]`; None where all were equal."""
    given = train.class_weights
    if isinstance(given, dict):
        return np.array([given[name] for name in labels.names])
    return 1 / (len(labels) * in_order(prevalence.trained, labels)) if given == "balanced" else None


def fit_temperature(
    logits: Logits, labels: Indices, weights: NDArray[np.float64] | None = None
) -> tuple[float, list[float]]:
    """Temperature of the largest posterior probability, and a bias of each label where the loss had class weights.

    The likelihood is that of temperature scaling (Guo et al. 2017, arXiv:1706.04599), with biases that of
    bias-corrected temperature scaling (Alexandari et al. 2020, arXiv:1901.06852). The prior of the logarithm of the
    temperature is normal about 0 with deviation `SPREAD`, so that few rows leave the logits nearly as they are.

    Weights w that are followed in full add log w to the logits; networks follow them in part (Byrd and Lipton 2019,
    arXiv:1812.03372). The prior of a bias is normal about -log(w)/2, and its deviation half the root mean square of
    log w: from not at all to in full.

    Returns:
        The temperature, and the biases, `[num_labels]`, adding up to 0; none without weights.
    """
    from scipy.optimize import minimize  # half a second, which who applies a temperature need not wait for

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    count = shifted.shape[1]
    true = np.eye(count)[labels]
    centre, spread = np.zeros(count), 1.0
    if weights is not None:
        full = np.log(weights) - np.log(weights).mean()
        centre, spread = -full / 2, float(np.sqrt((full**2).mean())) / 2
    biased = weights is not None and spread > 0

    def penalised(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Negative logarithm of the posterior and its gradient; the first value is that of 1 / temperature."""
        steepness, bias = math.exp(values[0]), values[1:] if biased else np.zeros(count)
        scores = shifted * steepness + bias
        losses = logsumexp(scores, axis=1) - (scores * true).sum(axis=1)
        residual = softmax(scores, axis=1) - true
        value = losses.sum() + values[0] ** 2 / (2 * SPREAD**2)
        gradient = [steepness * (residual * shifted).sum() + values[0] / SPREAD**2]
        if biased:
            value += ((bias - centre) ** 2).sum() / (2 * spread**2)
            gradient.extend(residual.sum(axis=0) + (bias - centre) / spread**2)
        return float(value), np.array(gradient)

    found = minimize(
        penalised,
        np.concatenate([[0.0], centre]) if biased else np.zeros(1),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-STEEPEST, STEEPEST)] + [(None, None)] * (count if biased else 0),
        options={"ftol": 0.0, "gtol": PRECISION * len(labels), "maxiter": 1000},
    )
    bias = found.x[1:]
    return math.exp(-found.x[0]), (bias - bias.mean()).tolist() if biased else []


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


def show_calibration(fitted: Calibration, folder: Path) -> None:
    """Print the summary of `calibrate`."""
    how = f"temperature {fitted.temperature:.3f}" if fitted.fitted else "no temperature, as the settings ask"
    biased = " and a bias of each label" if fitted.bias else ""
    say(f"{how}{biased}, from {fitted.rows:,} validation rows")
    if fitted.abstain != "never":
        right = "" if fitted.accuracy is None else f", {fitted.accuracy:.4f} of them right"
        say(
            f"abstains below a confidence of {fitted.threshold:.3f}: answers {fitted.coverage:.1%} of these rows{right}"
        )
    say(f"the classifier lies in {folder}/")
