"""Verification: an export's answers, of a process in which there is no labeltune, against the classifier's own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeltune.errors import UserError
from labeltune.predict import Predictions

PROGRAM = "predict.py"
ALONE = "import runpy, sys; sys.modules['labeltune'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
"""Runs a file in a process that can't import labeltune, installed or not."""
ENDING = 2000
"""Characters of a failed process's last words that are shown."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What an export must keep to."""

    agreement: float
    """Least share of rows with the classifier's own answer."""
    probability: float
    """Largest difference of a probability."""


EXACT = Bounds(agreement=0.999, probability=1e-3)
"""The same arithmetic in another order; a row in a thousand may lie on the border."""
HALF = Bounds(agreement=0.98, probability=0.1)
"""Arithmetic in bf16 or fp16 on either side: a logit of 20 has steps of 0.125."""
INT8 = Bounds(agreement=0.98, probability=1.0)
"""Weights of 8 bits: what counts is the answer."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An export beside the classifier that it was made from, on the same rows."""

    rows: int
    """Rows that both answered."""
    changed: list[int]
    """Rows with another answer, from 0."""
    logit: float
    """Largest difference of calibrated logits, after each row's mean is taken off: softmax sees no more of them."""
    probability: float
    """Largest difference of a calibrated probability."""
    cut: list[int]
    """Rows that one side cut and the other did not."""

    @property
    def agreement(self) -> float:
        """Share of rows with the same answer."""
        return 1 - len(self.changed) / self.rows

    def keeps(self, bounds: Bounds) -> bool:
        """Whether the export may be used in the classifier's place."""
        return self.agreement >= bounds.agreement and self.probability <= bounds.probability and not self.cut

    def record(self) -> dict[str, Any]:
        """What verification.json holds."""
        return {
            "rows": self.rows,
            "agreement": self.agreement,
            "changed_rows": self.changed,
            "largest_logit_difference": self.logit,
            "largest_probability_difference": self.probability,
        }

    def __str__(self) -> str:
        return (
            f"{self.rows - len(self.changed):,} of {self.rows:,} answers agree ({self.agreement:.2%}); largest "
            f"difference of a logit {self.logit:.2g}, of a probability {self.probability:.2g}"
        )


def answers(folder: Path, texts: Sequence[str], progress: Callable[[int], None]) -> list[dict[str, Any]]:
    """Let an export's own program answer texts, in a process of its own.

    Raises:
        UserError: it fails, with its last words.
    """
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        given, errors = Path(scratch) / "texts.jsonl", Path(scratch) / "errors"
        given.write_text("".join(f"{json.dumps(text)}\n" for text in texts), encoding="ascii")
        quietly = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": scratch, "TRANSFORMERS_VERBOSITY": "error"}
        with (
            given.open("rb") as stdin,
            errors.open("wb") as stderr,
            subprocess.Popen(
                [sys.executable, "-c", ALONE, str(folder / PROGRAM)],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=os.environ | quietly,
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                found.append(json.loads(line))
                progress(1)
        if process.returncode or len(found) != len(texts):
            told = errors.read_text(encoding="utf-8", errors="replace")[-ENDING:]
            raise UserError(f"the export does not run, so it was not kept (exit status {process.returncode}):\n{told}")
    return found


def compare(expected: Predictions, found: Sequence[dict[str, Any]]) -> Comparison:
    """Put an export's answers beside the classifier's own."""
    given = expected.probabilities
    other = np.array([list(answer["probabilities"].values()) for answer in found])
    logits = expected.logits.astype(np.float64) / expected.calibration.temperature
    apart = _centred(logits) - _centred(np.array([answer["logits"] for answer in found]))
    return Comparison(
        rows=len(found),
        changed=np.flatnonzero(given.argmax(1) != other.argmax(1)).tolist(),
        logit=float(np.abs(apart).max()),
        probability=float(np.abs(given - other).max()),
        cut=[row for row, answer in enumerate(found) if answer["truncated"] != expected.truncated[row]],
    )


def _centred(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return logits - logits.mean(axis=1, keepdims=True)
