"""The pictures of what changes of the text do to the answers."""

from pathlib import Path
from typing import Any

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from labeltune.drawing import BLUE, FAINT, ORANGE, PALETTE, save, style

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
        axes.set(title=f"Severity, on {result['sample']:,} test rows", ylabel="answers that flip (95% interval)")
        axes.set(xlabel="share of words or characters that is changed", ylim=(0, None))
        axes.set_xticks(steps, [f"{100 * step:g}%" for step in steps])
        _scale(axes.yaxis)
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
        save(axes, path)


def _scale(axis: Axis) -> None:
    """Per cent at round places."""
    axis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], min_n_ticks=2))
    axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
