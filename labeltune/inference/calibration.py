"""Applying calibration: from logits to calibrated probabilities, answers and prediction sets."""

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
    """What turns logits into probabilities and answers, answers into abstentions, and probabilities into label sets."""

    temperature: float = 1.0
    """The logits are divided by it."""
    bias: list[float] = field(default_factory=list)
    """Added to the logits after that, `[num_labels]`: it takes what `train.class_weights` added to them out of the
    probabilities, while answers stay those of the weighted labels. Empty: nothing is added."""
    shift: list[float] = field(default_factory=list)
    """Also added, `[num_labels]`: the logarithm of how much more frequent each label is in `shares` than among the
    training rows (Saerens et al. 2002). Unlike the bias it counts in the answers. Empty: nothing is added."""
    shares: dict[str, float] = field(default_factory=dict)
    """Label -> share of the texts that the probabilities are right for; empty: that of the validation rows."""
    on_rows: "Calibration | None" = None
    """The calibration for the shares of the validation and test rows, where `shares` are others."""
    fitted: bool = False
    """Whether temperature and bias were fitted."""
    rows: int = 0
    """Validation rows that they were fitted on."""
    effective_rows: float = 0.0
    """How many rows of equal weight tell as much as those do, weighted to the shares."""
    abstain: str = "never"
    """Target that set the threshold: never, coverage or accuracy."""
    target: float | None = None
    """Its level."""
    certainty: float | None = None
    """How probable it is that the classifier meets the target, and prediction sets theirs, on texts like these."""
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

    @classmethod
    def read(cls, content: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` made of one."""
        inner = content.get("on_rows")
        return cls(**content | {"on_rows": None if inner is None else cls.read(inner)})

    @property
    def measured(self) -> "Calibration":
        """The calibration that figures on validation and test rows are of, whose labels have other shares perhaps."""
        return self.on_rows or self

    @property
    def offset(self) -> list[float] | None:
        """What is added to the logits after the temperature, `[num_labels]`; None where nothing is."""
        if self.bias and self.shift:
            return np.add(self.bias, self.shift).tolist()
        return self.bias or self.shift or None

    def scores(self, logits: Logits) -> NDArray[np.float64]:
        """Logarithms of the probabilities up to one constant a row, `[rows, num_labels]`."""
        scaled: NDArray[np.float64] = logits.astype(np.float64) / self.temperature
        return scaled if self.offset is None else scaled + self.offset

    def probabilities(self, logits: Logits) -> Given:
        """Calibrated probabilities, `[rows, num_labels]`."""
        shares: Given = softmax(self.scores(logits), axis=1)
        return shares

    def answers(self, given: Given) -> NDArray[np.int64]:
        """Index of the label that is answered, `[rows]`: the likeliest one, but after a training with class weights.

        Class weights say that an error on one label costs more than on another, so that the answer of least cost need
        not be the likeliest label (Elkan 2001). There the network's own answer stays, which was trained to be of least
        cost, and its confidence, less than a half perhaps, is how likely it is.

        Args:
            given: what `probabilities` gave.
        """
        if not self.bias:
            return given.argmax(axis=1)
        with np.errstate(divide="ignore"):  # a probability of 0 is never the answer
            return (np.log(given) - self.bias).argmax(axis=1)

    def confidence(self, given: Given) -> NDArray[np.float64]:
        """Probability of the label that is answered, `[rows]`."""
        return given[np.arange(len(given)), self.answers(given)]


NONE = Calibration()
"""What a classifier has before it is calibrated: the model's own probabilities, and it never abstains."""
