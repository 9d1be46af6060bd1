"""The pictures of a run: the same rows give the same bytes, in any of the labels' languages."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import confusion_matrix

from labeltune.drawing import BLUE, DASHES, FAINT, INK, ORANGE, PALETTE, figure, save, shortened, style
from labeltune.points import Curve, listed, precision_recall_curves, roc_curves


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
