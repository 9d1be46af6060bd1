"""The pictures of what changed texts do to the answers."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from labeltune.drawing import BLUE, FAINT, ORANGE, PALETTE, save, style

COLOURS = {"label_preserving": BLUE, "label_agnostic": ORANGE}
MEANINGS = {"label_preserving": "a reader keeps the label", "label_agnostic": "a reader might not"}


def draw_robustness(figures: dict[str, Any], path: Path, *, dpi: int) -> None:
    """Write the share of answers that each perturbation turns, with its interval, the largest on top.

    `figures` are those of robustness_result.json; what changed no text is left out.
    """
    found = [(name, one) for name, one in figures["perturbation_tests"].items() if one["changed"]]
    found.sort(key=lambda item: (item[1]["kind"], -item[1]["flip_rate"], item[0]), reverse=True)
    with style([], dpi):
        axes = Figure(figsize=(6.2, 1.2 + 0.27 * max(1, len(found)))).add_subplot()
        for place, (_, one) in enumerate(found):
            colour, interval = COLOURS[one["kind"]], one["flip_rate_interval"]
            axes.plot([interval["low"], interval["high"]], [place, place], color=colour, linewidth=1.2, alpha=0.6)
            axes.plot(one["flip_rate"], place, "o", color=colour, markersize=5)
        for kind in dict.fromkeys(one["kind"] for _, one in found):
            axes.plot([], [], "o-", color=COLOURS[kind], markersize=5, linewidth=1.2, label=MEANINGS[kind])
        names = [f"{name.replace('_', ' ')}  ({one['changed']:,})" for name, one in found]
        axes.set_yticks(range(len(found)), names)
        axes.set(title="Answers turned by changed texts", xlabel="share of the changed texts (how many in brackets)")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(visible=False, axis="y")
        if found:
            axes.legend(loc="lower right")
        save(axes, path)


def draw_severity(figures: dict[str, Any], path: Path, *, dpi: int) -> None:
    """Write accuracy over severity for the perturbations that were tried at several; 0 is the unchanged text."""
    with style([], dpi):
        axes = Figure(figsize=(5.4, 3.8)).add_subplot()
        for place, (name, parts) in enumerate(sorted(figures["severities"].items())):
            shown = [part for part in parts if part["changed"]]
            if not shown:
                continue
            colour = PALETTE[place % len(PALETTE)]
            x = [0.0] + [part["severity"] for part in shown]
            y = [shown[0]["original_accuracy"]] + [part["accuracy"] for part in shown]
            axes.plot(x, y, "o-", color=colour, markersize=4, label=name.replace("_", " "))
        rows = figures["sample"]
        axes.set(
            title=f"Accuracy by severity, {rows:,} test rows", xlabel="share of the text changed", ylabel="accuracy"
        )
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        if axes.lines:
            axes.legend(loc="best")
        else:
            axes.text(0.5, 0.5, "no text was changed", transform=axes.transAxes, ha="center", color=FAINT)
        save(axes, path)
