"""Fitting calibration, the abstention threshold and prediction sets on validation rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, logsumexp, softmax

from labeltune.config.evaluation import Calibrate
from labeltune.config.model import Train
from labeltune.console.terminal import say
from labeltune.data.labels import Indices, LabelSet
from labeltune.data.prevalence import Prevalence, effective, in_order, log_ratio, row_weights, wanted
from labeltune.inference.calibration import Calibration, Logits
from labeltune.runtime.errors import UserError

SPREAD = math.log(2) / 2
"""Standard deviation of the logarithm of a temperature before any row is seen: 95% of them lie between 1/2 and 2.
Fine-tuned transformers are nearly calibrated on texts like those of their training (Desai and Durrett 2020,
arXiv:2003.07892), so a temperature far from 1 needs evidence: the prior weighs as much as 19 predictions of 90%
confidence, each of which adds p(1 - p) times its squared log-odds, 0.43, to the information about the logarithm."""
STEEPEST = math.log(20)
"""Bound of the absolute logarithm of a temperature in the optimization."""
PRECISION = EQUAL = 1e-9
SHOWN = 8
"""Maximum number of labels whose shares are shown."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Label shares of the rows on which a classifier is measured, and of the texts on which it is used."""

    measured: list[float]
    """Log ratio of each label's share of the validation rows to that of the training rows, `[num_labels]`."""
    used: list[float]
    """Log ratio of each label's share in use to that of the training rows, `[num_labels]`."""
    shares: dict[str, float]
    """Label -> share in use."""

    @classmethod
    def of(cls, setting: str | dict[str, float], prevalence: Prevalence, labels: LabelSet) -> "World":
        """Read `calibrate.prevalence`.

        Raises:
            UserError: it does not name exactly the labels.
        """
        shares = wanted(setting, prevalence, labels)
        return cls(
            measured=log_ratio(prevalence.measured, prevalence.trained, labels),
            used=log_ratio(shares, prevalence.trained, labels),
            shares=shares,
        )


def calibrate(
    logits: Logits,
    labels: Indices,
    settings: Calibrate,
    weights: NDArray[np.float64] | None = None,
    world: World | None = None,
) -> Calibration:
    """Fit temperature, label biases, abstention threshold and prediction sets on validation rows.

    Args:
        logits: `[rows, num_labels]`.
        labels: index of each row's label, `[rows]`.
        weights: weights of the labels in the training loss, `[num_labels]`; None if all were equal.
        world: shares of the labels; None if they are the same everywhere as among the training rows.

    Returns:
        The calibration for the shares in use; it contains the one for the validation rows if their shares differ.

    Raises:
        UserError: no threshold reaches the required accuracy.
    """
    fitted = Calibration(rows=len(labels), shift=world.measured if world else [])
    if settings.temperature == "fit":
        temperature, bias = fit_temperature(logits, labels, weights, fitted.shift)
        fitted = replace(fitted, temperature=temperature, bias=bias, fitted=True)
    on_rows = _decided(fitted, logits, labels, settings, np.ones(len(labels)))
    if world is None or world.used == world.measured:
        return replace(on_rows, shares=world.shares if world else {})
    used = replace(fitted, shift=world.used, shares=world.shares, on_rows=on_rows)
    rows = row_weights(labels, np.array(list(world.shares.values())))
    return _decided(used, logits, labels, settings, rows)


def _decided(
    fitted: Calibration, logits: Logits, labels: Indices, settings: Calibrate, rows: NDArray[np.float64]
) -> Calibration:
    """Choose the thresholds by weighted rows."""
    given = fitted.probabilities(logits)
    confidence = fitted.confidence(given)
    right = fitted.answers(given) == labels
    threshold = choose_threshold(confidence, right, settings.abstain, settings.abstain_target, settings.certainty, rows)
    answered = confidence >= threshold
    return replace(
        fitted,
        effective_rows=effective(rows),
        abstain=settings.abstain,
        target=None if settings.abstain == "never" else settings.abstain_target,
        certainty=settings.certainty,
        threshold=threshold,
        coverage=float(np.average(answered, weights=rows)),
        accuracy=float(np.average(right[answered], weights=rows[answered])) if rows[answered].any() else None,
        set_coverage=settings.set_coverage,
        set_threshold=choose_set_threshold(
            given[np.arange(len(labels)), labels], settings.set_coverage, settings.certainty, rows
        ),
    )


def trained_weights(train: Train, labels: LabelSet, prevalence: Prevalence) -> NDArray[np.float64] | None:
    """Return the weight of each label in the training loss, `[num_labels]`; None if all were equal."""
    given = train.class_weights
    if isinstance(given, dict):
        return np.array([given[name] for name in labels.names])
    return 1 / (len(labels) * in_order(prevalence.trained, labels)) if given == "balanced" else None


def fit_temperature(
    logits: Logits,
    labels: Indices,
    weights: NDArray[np.float64] | None = None,
    shift: Sequence[float] = (),
) -> tuple[float, list[float]]:
    """Return the temperature of maximum posterior probability, and label biases if the loss had class weights.

    The likelihood is that of temperature scaling (Guo et al. 2017, arXiv:1706.04599), with biases that of
    bias-corrected temperature scaling (Alexandari et al. 2020, arXiv:1901.06852). The prior of the logarithm of the
    temperature is normal about 0 with deviation `SPREAD`, so that few rows leave the logits nearly as they are.

    Class weights w add log w to the logits of a model that fits them fully; networks do so partly (Byrd and Lipton
    2019, arXiv:1812.03372). The prior of a bias is normal about -log(w)/2, and its deviation half the root mean square
    of log w: from not at all to in full.

    Args:
        logits: `[rows, num_labels]`.
        labels: index of each row's label, `[rows]`.
        weights: weights of the labels in the training loss, `[num_labels]`; None if all were equal.
        shift: log ratio of the label shares of these rows to those of the training rows, `[num_labels]`; empty for
            none.

    Returns:
        The temperature, and the biases, `[num_labels]`, adding up to 0; none without weights.
    """
    from scipy.optimize import minimize  # takes half a second to import, and is not needed to apply a temperature

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    count = shifted.shape[1]
    true, known = np.eye(count)[labels], np.array(shift) if len(shift) else np.zeros(count)
    centre, spread = np.zeros(count), 1.0
    if weights is not None:
        full = np.log(weights) - np.log(weights).mean()
        centre, spread = -full / 2, float(np.sqrt((full**2).mean())) / 2
    biased = weights is not None and spread > 0

    def penalised(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Negative logarithm of the posterior and its gradient; the first value is that of 1 / temperature."""
        steepness, bias = math.exp(values[0]), values[1:] if biased else np.zeros(count)
        scores = shifted * steepness + bias + known
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


def choose_threshold(
    confidence: NDArray[np.float64],
    right: NDArray[np.bool_],
    rule: str,
    target: float,
    certainty: float,
    weights: NDArray[np.float64] | None = None,
) -> float:
    """Return the confidence threshold with which the target is met, with the certainty, on texts like these rows.

    It is half-way between the confidences of two rows, so that rounding does not change a decision; 0 never abstains.

    A share of at most `1 - target` misses is certain if so few misses among the rows would be less probable than `1 -
    certainty` with a larger share (the binomial bound of learn-then-test, Angelopoulos et al. 2021, arXiv:2110.01052).
    For `coverage` that is the order statistic of a conformal set that holds given its calibration rows (Vovk 2012). For
    `accuracy` the thresholds are tested in turn, with more and more answers, starting from the best half, quarter,
    eighth and so on of the rows, as long as these are enough for a test: each sequence ends with its first failure and
    has its share of the error probability, so that all thresholds before a failure hold simultaneously.

    Args:
        confidence: confidence of each validation row, `[rows]`.
        right: whether the prediction of each row is right, `[rows]`.
        rule: `never`; `coverage`: answer the fewest rows that are `target` of all; `accuracy`: answer the most rows
            of which `target` are right.
        target: share to reach.
        certainty: probability, over draws of the rows, with which it is to be reached.
        weights: weights of the rows, `[rows]`; None for equal ones. With unequal ones, the number of rows is
            `effective`.

    Raises:
        UserError: no threshold reaches the accuracy.
    """
    if rule == "never":
        return 0.0
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    weights = (np.ones(len(order)) if weights is None else weights)[order]
    # Rows with equal confidence are answered together.
    ends = np.flatnonzero(np.append(sorted_confidence[1:] < sorted_confidence[:-1], True))
    if rule == "coverage":
        missed = 1 - np.cumsum(weights)[ends] / weights.sum()
        certain = _probability(missed, effective(weights), 1 - target) <= 1 - certainty
        last = int(ends[certain.argmax()]) if certain.any() else len(order) - 1
    else:
        last = _accurate(weights, right[order], ends, target, certainty)
    if last == len(order) - 1:
        return 0.0
    return float(sorted_confidence[last : last + 2].mean())


def _accurate(
    weights: NDArray[np.float64], right: NDArray[np.bool_], ends: NDArray[np.int64], target: float, certainty: float
) -> int:
    """Return the last row to answer, of rows in descending order of confidence."""
    sums = np.cumsum(weights)[ends]
    known = sums > 0
    counts = np.zeros(len(ends))  # effective number of rows up to each end
    np.divide(sums**2, np.cumsum(weights**2)[ends], out=counts, where=known)
    errors = np.zeros(len(ends))
    np.divide(np.cumsum(weights * ~right)[ends], sums, out=errors, where=known)
    chances = _probability(errors, counts, 1 - target)
    starts = _starts(float(counts[-1]), target, certainty)
    passed = []
    for start in starts:
        for place in range(int((counts >= start - EQUAL).argmax()), len(ends)):
            if chances[place] > (1 - certainty) / len(starts):
                break
            passed.append(place)
    if not passed:
        raise UserError(
            f"calibrate.abstain_target: no confidence gives an accuracy of {target} with a certainty of {certainty} on "
            f"the {len(right)} validation rows: the highest seen is {1 - errors.min():.4f}, and at least "
            f"{math.ceil(_fewest(target, 1 - certainty))} answers without an error are needed; set a lower target or "
            "calibrate.certainty, or calibrate.abstain: coverage"
        )
    return int(ends[max(passed)])


def _starts(rows: float, target: float, certainty: float) -> list[float]:
    """Return the numbers of answers from which thresholds are tested: a half, a quarter and so on of the rows."""
    for count in range(math.ceil(math.log2(rows + 1)), 0, -1):
        starts = [rows / 2**place for place in range(1, count + 1)]
        if starts[-1] >= _fewest(target, (1 - certainty) / count):
            return starts
    return [min(rows, _fewest(target, 1 - certainty))]


def _fewest(target: float, chance: float) -> float:
    """Return the smallest number of rows that can establish a share with certainty, if none of them is a miss."""
    return math.log(chance) / math.log(target)


def _probability(misses: NDArray[np.float64], rows: NDArray[np.float64] | float, allowed: float) -> NDArray[np.float64]:
    """Return the probability of at most this share of misses, if each row is a miss with the allowed probability.

    The binomial distribution function, continued to any number of rows by the incomplete beta function.
    """
    seen = np.minimum(misses * rows, rows * (1 - 1e-12))
    found: NDArray[np.float64] = betainc(rows - seen, seen + 1, 1 - allowed)
    return found


def choose_set_threshold(
    given: NDArray[np.float64], coverage: float, certainty: float, weights: NDArray[np.float64] | None = None
) -> float:
    """Return the minimum probability of a label in a conformal prediction set (Sadinle et al. 2019, arXiv:1609.00451).

    It is the largest probability of a validation row's true label for which, with the certainty, the sets miss at most
    `1 - coverage` of texts like these rows (Vovk 2012, arXiv:1209.2673). The predicted label is always in the set;
    otherwise the sets of a confident classifier would be empty.

    Args:
        given: probability of each validation row's true label, `[rows]`.
        coverage: share of the sets that must contain the true label.
        certainty: probability of that, over draws of the rows.
        weights: as in `choose_threshold`.

    >>> choose_set_threshold(np.array([0.9, 0.2, 0.8, 0.7]), coverage=0.6, certainty=0.5)
    0.7
    """
    order = np.argsort(given, kind="stable")
    weights = (np.ones(len(order)) if weights is None else weights)[order]
    ordered = given[order]
    below = (np.cumsum(weights) - weights)[np.searchsorted(ordered, ordered)] / weights.sum()
    certain = _probability(below, effective(weights), 1 - coverage) <= 1 - certainty
    return float(ordered[certain][-1]) if certain.any() else 0.0


def show_calibration(fitted: Calibration, folder: Path) -> None:
    """Print the summary of `calibrate`."""
    how = f"temperature {fitted.temperature:.3f}" if fitted.fitted else "no temperature, as set"
    biased = " and a bias of each label" if fitted.bias else ""
    say(f"{how}{biased}, from {fitted.rows:,} validation rows")
    if fitted.on_rows:
        most = sorted(fitted.shares, key=lambda name: -fitted.shares[name])[:SHOWN]
        listed = ", ".join(f"{name} {fitted.shares[name]:.1%}" for name in most)
        say(f"probabilities are for texts among which labels have these shares: {listed}")
    if fitted.abstain != "never":
        right = "" if fitted.accuracy is None else f", {fitted.accuracy:.4f} of them right"
        say(
            f"abstains below a confidence of {fitted.threshold:.3f}: answers {fitted.coverage:.1%} of these rows{right}"
        )
    say(f"the classifier is in {folder}/")
