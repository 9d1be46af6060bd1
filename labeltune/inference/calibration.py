"""Applying calibration: from logits to calibrated probabilities, predictions and prediction sets."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Logits = NDArray[np.float32]
Given = NDArray[np.float64]
"""Calibrated probabilities, `[rows, num_labels]`."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Parameters that turn logits into probabilities, predictions, abstentions and prediction sets."""

    temperature: float = 1.0
    """Divisor of the logits."""
    bias: list[float] = field(default_factory=list)
    """Added to the logits after the division, `[num_labels]`: it removes the effect of `train.class_weights` from the
    probabilities, while predictions stay those of the weighted loss. Empty: nothing is added."""
    shift: list[float] = field(default_factory=list)
    """Also added, `[num_labels]`: the log ratio of each label's share in `shares` to that among the training rows
    (Saerens et al. 2002). Unlike the bias, it also changes the predictions. Empty: nothing is added."""
    shares: dict[str, float] = field(default_factory=dict)
    """Label -> share of the texts for which the probabilities are calibrated; empty: that of the validation rows."""
    on_rows: "Calibration | None" = None
    """The calibration for the shares of the validation and test rows, if `shares` differ from them."""
    fitted: bool = False
    """Whether temperature and bias were fitted."""
    rows: int = 0
    """Number of validation rows of the fit."""
    effective_rows: float = 0.0
    """Effective number of these rows after weighting them to the shares."""
    abstain: str = "never"
    """Kind of target of the threshold: never, coverage or accuracy."""
    target: float | None = None
    """Coverage or accuracy to reach."""
    certainty: float | None = None
    """Probability that the classifier and the prediction sets meet their targets on texts like the validation rows."""
    threshold: float = 0.0
    """Confidence below which a prediction is marked as abstained."""
    coverage: float = 1.0
    """Share of the validation rows on which the classifier does not abstain."""
    accuracy: float | None = None
    """Accuracy on those rows; None without rows."""
    set_coverage: float | None = None
    """Share of rows whose prediction set must contain the true label."""
    set_threshold: float = 0.0
    """Minimum probability of the labels in a prediction set, which always contains the predicted label."""

    @classmethod
    def read(cls, content: dict[str, Any]) -> Self:
        """Build a calibration from the content that `dataclasses.asdict` returned."""
        inner = content.get("on_rows")
        return cls(**content | {"on_rows": None if inner is None else cls.read(inner)})

    @property
    def measured(self) -> "Calibration":
        """The calibration for validation and test rows, whose label shares may differ."""
        return self.on_rows or self

    @property
    def offset(self) -> list[float] | None:
        """Return the sum that is added to the logits after the temperature, `[num_labels]`; None if there is none."""
        if self.bias and self.shift:
            return np.add(self.bias, self.shift).tolist()
        return self.bias or self.shift or None

    def scores(self, logits: Logits) -> NDArray[np.float64]:
        """Return the log-probabilities up to a constant per row, `[rows, num_labels]`."""
        scaled: NDArray[np.float64] = logits.astype(np.float64) / self.temperature
        return scaled if self.offset is None else scaled + self.offset

    def probabilities(self, logits: Logits) -> Given:
        """Calibrated probabilities, `[rows, num_labels]`."""
        shares: Given = softmax(self.scores(logits), axis=1)
        return shares

    def answers(self, given: Given) -> NDArray[np.int64]:
        """Return the index of the predicted label, `[rows]`: the most probable one, except after class weights.

        With class weights, errors on some labels cost more than on others, so the label of least expected cost need not
        be the most probable one (Elkan 2001). The prediction is then that of the network, which was trained to
        minimize the cost, and its confidence, which may be below one half, is the probability of that label.

        Args:
            given: probabilities, as `probabilities` returns them.
        """
        if not self.bias:
            return given.argmax(axis=1)
        with np.errstate(divide="ignore"):  # a label of probability 0 is never predicted
            return (np.log(given) - self.bias).argmax(axis=1)

    def confidence(self, given: Given) -> NDArray[np.float64]:
        """Return the probability of the predicted label, `[rows]`."""
        return given[np.arange(len(given)), self.answers(given)]


NONE = Calibration()
"""Calibration that changes nothing: uncalibrated probabilities, and no abstention."""
