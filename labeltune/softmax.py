"""From logits to probabilities, with NumPy alone: what draws or reports need not wait for PyTorch to load."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Softmax over the labels in double precision, `[rows, num_labels]`."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponential = np.exp(shifted)
    shares: NDArray[np.float64] = exponential / exponential.sum(axis=1, keepdims=True)
    return shares
