"""The pictures of what a classifier's confidence is worth."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from labeltune.confidence import Confidence, risk_coverage
from labeltune.drawing import BLUE, FAINT, INK, ORANGE, save, style
from labeltune.intervals import Flags


def draw_reliability(calibration: dict[str, Any], path: Path, *, dpi: int) -> None:
    """Write the reliability diagram: accuracy over confidence, and how many rows have which confidence.

    `calibration` is the section of confidence_analysis.json.
    """
    with style([], dpi):
        axes, rows_axes = Figure(figsize=(4.4, 5.6)).subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": (3.4, 1), "hspace": 0.12}
        )
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":", label="perfect")
        fitted = calibration["fitted"]
        shown = (("before", ORANGE, "o--"), ("after", BLUE, "o-")) if fitted else (("after", BLUE, "o-"),)
        for name, colour, line in shown:
            curve = [part for part in calibration[name]["reliability"] if part["rows"]]
            x, y = ([part[key] for part in curve] for key in ("confidence", "accuracy"))
            what = f"{name} temperature {calibration['temperature']:.2f}" if fitted else "the model's own"
            axes.plot(x, y, line, color=colour, markersize=4, label=f"{what}: error {calibration[name]['ece']:.3f}")
            if name == "after":
                low, high = ([part["interval"][end] for part in curve] for end in ("low", "high"))
                axes.vlines(x, low, high, color=colour, linewidth=1, alpha=0.5)
        axes.set(title="Reliability on the test rows", ylabel="accuracy", ylim=(0, 1.02))
        axes.legend(loc="lower right")
        parts = calibration["after"]["reliability"]
        middles = [(part["low"] + part["high"]) / 2 for part in parts]
        rows_axes.bar(middles, [part["rows"] for part in parts], width=0.09, color=BLUE, alpha=0.55)
        rows_axes.set(xlabel="confidence", ylabel="rows", xlim=(_start(calibration), 1.0))
        save(axes, path)


def draw_risk_coverage(confidence: Confidence, right: Flags, threshold: float, path: Path, *, dpi: int) -> None:
    """Write the risk-coverage curve: the share of errors among the answers, as more of the unsure ones are given.

    Args:
        confidence: of each row, `[rows]`.
        right: whether its answer is, `[rows]`.
        threshold: confidence below which the classifier abstains.
    """
    coverage, risk = risk_coverage(confidence, right)
    with style([], dpi):
        axes = Figure(figsize=(5.4, 3.8)).add_subplot()
        axes.plot(coverage, risk, color=BLUE, drawstyle="steps-post")
        axes.axhline(risk[-1], color=FAINT, linewidth=1, linestyle=":", label=f"all answered: {risk[-1]:.1%} wrong")
        answered = int((confidence >= threshold).sum())
        if threshold and answered:
            at = f"abstaining below {threshold:.3f}: {risk[answered - 1]:.1%} wrong of {coverage[answered - 1]:.1%}"
            ring: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "markeredgecolor": INK}
            axes.plot(coverage[answered - 1], risk[answered - 1], "o", label=at, linestyle="none", **ring)
        axes.set(title="Risk and coverage on the test rows", xlabel="share of rows answered", ylabel="share wrong")
        axes.set(xlim=(0, 1.01), ylim=(0, max(0.02, 1.3 * float(np.max(risk)))))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.legend(loc="upper left")
        save(axes, path)


def _start(calibration: dict[str, Any]) -> float:
    """Left end of the axis: the lowest bin that has rows, before or after."""
    return min(part["low"] for name in ("before", "after") for part in calibration[name]["reliability"] if part["rows"])
