"""The figures of a run: the same rows give the same bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import confusion_matrix

from labeltune.evaluation.confidence import Confidence, risk_coverage
from labeltune.evaluation.metrics import Flags
from labeltune.reporting.plots.curves import Curve, listed, precision_recall_curves, roc_curves
from labeltune.reporting.plots.style import BLUE, DASHES, FAINT, INK, ORANGE, PALETTE, figure, save, shortened, style


def draw_comparison(groups: Sequence[dict[str, Any]], path: Path, *, dpi: int) -> None:
    """Write accuracy per configuration: a small dot per seed, a large one for their mean, a bar for the deviation.

    `groups` are those of `experiments.Comparison.record`, the best first.
    """
    names = [group["name"] for group in groups]
    with style(names, dpi):
        axes = Figure(figsize=(5.6, 0.9 + 0.42 * len(groups))).add_subplot()
        for place, group in enumerate(groups):
            figure = group["accuracy"]
            axes.plot(figure["values"], [place] * len(figure["values"]), "o", color=FAINT, markersize=4, alpha=0.8)
            if figure["deviation"] is not None:
                axes.errorbar(figure["mean"], place, xerr=figure["deviation"], color=INK, linewidth=1.2, capsize=3)
            axes.plot(figure["mean"], place, "o", color=BLUE, markersize=8)
        axes.set_yticks(range(len(names)), names)
        axes.set(title="Accuracy on the test rows, by training seed", xlabel="accuracy: seeds, mean and deviation")
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.grid(visible=False, axis="y")
        save(axes, path)


def draw_training(train: pd.DataFrame, validation: pd.DataFrame, best_step: int, folder: Path, *, dpi: int) -> None:
    """Write accuracy.png, loss.png and training_metrics.pdf (both, side by side) into a folder.

    `train` has the columns step, epoch, loss, accuracy, `validation` also macro_f1; `best_step` is the step
    of `validation` whose weights are kept.
    """
    metrics = ("accuracy", "loss")
    with style([], dpi):
        for metric in metrics:
            axes = Figure(figsize=(6.4, 3.8)).add_subplot()
            plot_training(axes, train, validation, metric, best_step)
            save(axes, folder / f"{metric}.png")
        for axes, metric in zip(Figure(figsize=(13.6, 3.8)).subplots(1, 2), metrics, strict=True):
            plot_training(axes, train, validation, metric, best_step)
        save(axes, folder / "training_metrics.pdf")


def plot_training(axes: Axes, train: pd.DataFrame, validation: pd.DataFrame, metric: str, best_step: int) -> None:
    """Plot a column of both frames over the steps: training blue and solid, validation orange and dashed."""
    kept = validation.loc[validation["step"] == best_step, metric]
    if kept.empty:
        raise ValueError(f"best_step is {best_step}, the validation steps are {sorted(validation['step'])}")
    point = "o" if len(train) < 2 else ""  # a line through one point would not be seen
    axes.plot(train["step"], train[metric], f"{point}-", label="training", color=BLUE, markersize=4)
    axes.plot(validation["step"], validation[metric], "o--", label="validation", color=ORANGE, markersize=4)
    axes.axvline(best_step, color=FAINT, linewidth=1, linestyle=":", zorder=1)
    ring: dict[str, Any] = {
        "markersize": 9,
        "markerfacecolor": "none",
        "markeredgecolor": INK,
        "markeredgewidth": 1.3,
    }
    axes.plot(best_step, kept.iloc[0], "o", label=f"kept (step {best_step})", **ring)
    axes.set(title=metric.capitalize(), xlabel="step", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.3, ncols=3, columnspacing=1.4)


def draw_confusion(y_true: np.ndarray, y_pred: np.ndarray, names: list[str], path: Path, *, dpi: int) -> None:
    """Write the confusion matrix: counts in the cells, shaded by their share of the true label's rows.

    `y_true` and `y_pred` are positions in `names`, `[rows]` each.
    """
    size = len(names)
    counts = np.zeros((size, size), dtype=int)  # [num_labels, num_labels]
    if len(y_true):
        counts = confusion_matrix(y_true, y_pred, labels=range(size))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.4, 0.5 * size)  # inches
    with style(names, dpi):
        axes = Figure(figsize=(side, side)).add_axes((0, 0, 1, 1))
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(counts.shape):
            text = f"{counts[row, column]:,}"
            fontsize = min(13 if size < 6 else 11, 80 * side / size / len(text))
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=fontsize)
        _name_cells(axes, shortened(names), side / size)
        axes.set(title="Confusion matrix of the test rows", xlabel="predicted label", ylabel="true label")
        scale = axes.inset_axes((1 + 0.2 / side, 0.1, 0.14 / side, 0.8))
        share = PercentFormatter(1)
        bar = figure(axes).colorbar(image, cax=scale, format=share, label="share of the true label")
        bar.outline.set_visible(False)
        save(axes, path)


def _name_cells(axes: Axes, names: list[str], width: float) -> None:
    """Put the names of the labels along both axes of a matrix whose cells are `width` inches wide."""
    # A letter is about 0.085 inch wide at this size, and a Chinese character almost twice that.
    widest = max(sum(0.085 if ord(letter) < 0x1100 else 0.15 for letter in name) for name in names)
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if widest > 0.9 * width else {}
    axes.set_xticks(range(len(names)), names, **turned)
    axes.set_yticks(range(len(names)), names)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def draw_roc(y_true: np.ndarray, probabilities: np.ndarray, names: list[str], path: Path, *, dpi: int) -> None:
    """Write the ROC curve of each label against all others; of two labels, only the last one's.

    `y_true` `[rows]` are positions in `names`, `probabilities` is `[rows, num_labels]`. A label that no row
    or every row has gets no curve, and the legend says so.
    """
    curves = roc_curves(y_true, probabilities)
    with style(names, dpi):
        axes = Figure(figsize=(4.4, 4.4)).add_axes((0, 0, 1, 1))
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        handles, labels = _plot_curves(axes, curves, names)
        axes.set(title=f"ROC: {_against(names)}", xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(handles, labels, title="area under the curve", **_legend(names, "lower right"))
        save(axes, path)


def draw_precision_recall(
    y_true: np.ndarray, probabilities: np.ndarray, names: list[str], path: Path, *, dpi: int
) -> None:
    """Write the precision-recall curves, of the same labels and arrays as `draw_roc`."""
    curves = precision_recall_curves(y_true, probabilities)
    with style(names, dpi):
        axes = Figure(figsize=(4.4, 4.4)).add_axes((0, 0, 1, 1))
        handles, labels = _plot_curves(axes, curves, names, drawstyle="steps-pre")
        axes.set(title=f"Precision and recall: {_against(names)}", xlabel="recall", ylabel="precision")
        axes.legend(handles, labels, title="average precision", **_legend(names, "lower left"))
        save(axes, path)


def _plot_curves(axes: Axes, curves: list[Curve], names: list[str], **line: Any) -> tuple[list[Line2D], list[str]]:
    """Plot the curves over the unit square; returns the handles and texts of the legend."""
    drawn, shown = {curve.label: curve for curve in curves}, shortened(names)
    handles, labels = [], []
    for place, label in enumerate(listed(len(names))):
        if label in drawn:
            dash = DASHES[place // len(PALETTE) % len(DASHES)]
            line |= {"color": PALETTE[place % len(PALETTE)], "linestyle": dash, "clip_on": False}
            handles += axes.plot(drawn[label].x, drawn[label].y, **line)
            # The number first: a legend drops a text that begins with an underscore.
            labels.append(f"{drawn[label].area:.3f}  {shown[label]}")
        else:
            handles.append(Line2D([], [], linestyle="none"))
            labels.append(f"none   {shown[label]} (in none or in all of the test rows)")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return handles, labels


def _against(names: list[str]) -> str:
    shown = shortened(names)
    return f"{shown[1]} against {shown[0]}" if len(names) == 2 else "each label against the rest"


def _legend(names: list[str], corner: str) -> dict[str, Any]:
    if len(names) == 2:
        return {"alignment": "left", "loc": corner}
    return {"alignment": "left", "loc": "center left", "bbox_to_anchor": (1.02, 0.5)}


KINDS = {"label_preserving": ("the label stays", BLUE), "label_agnostic": ("the label may change", ORANGE)}
MARKS = ("o", "s", "^", "D")


def draw_robustness(result: dict[str, Any], path: Path, *, dpi: int) -> None:
    """Write the flip rate of every perturbation with its interval, grouped by what it does to the label.

    `result` is what robustness_result.json holds. A perturbation that changed no text gets its line, without a dot.
    """
    tests = result["perturbation_tests"]
    groups = [(kind, [name for name in tests if tests[name]["kind"] == kind]) for kind in KINDS]
    lines = [(kind, name) for kind, names in groups for name in names]
    with style([], dpi):
        axes = Figure(figsize=(6.4, 0.9 + 0.29 * len(lines))).add_subplot()
        for place, (kind, name) in enumerate(lines):
            figures, colour = tests[name], KINDS[kind][1]
            note = f"{figures['changed']:,} of {figures['rows']:,} changed"
            axes.text(1.02, place, note, transform=axes.get_yaxis_transform(), va="center", color=FAINT, fontsize=9)
            if figures["flip_rate"] is None:
                continue
            interval = figures["flip_rate_interval"]
            axes.hlines(place, interval["low"], interval["high"], color=colour, linewidth=1.6, alpha=0.55)
            axes.plot(figures["flip_rate"], place, "o", color=colour, markersize=6, clip_on=False)
        for kind, names in groups:
            if names:
                label, colour = KINDS[kind]
                axes.plot([], [], "o-", color=colour, label=label)
        labels = [name.replace("_", " ") for _, name in lines]
        axes.set_yticks(range(len(lines)), labels)
        axes.set(ylim=(len(lines) - 0.4, -0.6), xlim=(0, None), xlabel="answers that flip (95% interval)")
        axes.set_title("Robustness")
        _scale(axes.xaxis)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, pad=8)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.3)
        save(axes, path)


def draw_severity(result: dict[str, Any], path: Path, *, dpi: int) -> None:
    """Write the flip rate of the named perturbations over the share of the text that is changed, with intervals."""
    curves = {
        name: [point for point in points if point["flip_rate"] is not None]
        for name, points in result["severities"].items()
    }
    steps = sorted({point["severity"] for points in result["severities"].values() for point in points})
    gap = 0.03 * (steps[-1] - steps[0]) if len(steps) > 1 else 0.03 * steps[0]
    with style([], dpi):
        axes = Figure(figsize=(5.4, 3.8)).add_subplot()
        for place, (name, points) in enumerate(curves.items()):
            colour, shift = PALETTE[place % len(PALETTE)], gap * (place - (len(curves) - 1) / 2)
            x = [point["severity"] + shift for point in points]  # beside one another, else intervals lie on intervals
            label = name.replace("_", " ") + ("" if points else " (no text changed)")
            axes.plot(x, [point["flip_rate"] for point in points], f"{MARKS[place % len(MARKS)]}-", color=colour,
                      markersize=5, label=label, clip_on=False)  # fmt: skip
            low, high = ([point["flip_rate_interval"][end] for point in points] for end in ("low", "high"))
            axes.vlines(x, low, high, color=colour, linewidth=1.2, alpha=0.5)
        axes.set(
            title=f"Severity, on {result['severity_sample']:,} test rows", ylabel="answers that flip (95% interval)"
        )
        axes.set(xlabel="share of words or characters that is changed", ylim=(0, None))
        axes.set_xticks(steps, [f"{100 * step:g}%" for step in steps])
        _scale(axes.yaxis)
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
        save(axes, path)


def _scale(axis: Axis) -> None:
    """Per cent at round places."""
    axis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], min_n_ticks=2))
    axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")


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
