"""Applying calibration: from logits to calibrated probabilities, answers and prediction sets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Logits = NDArray[np.float32]


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
        shares: NDArray[np.float64] = softmax(logits.astype(np.float64) / self.temperature, axis=1)
        return shares


NONE = Calibration()
"""What a classifier has before it is calibrated: the model's own probabilities, and it never abstains."""
