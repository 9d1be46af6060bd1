"""The picture of several configurations over their training seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from labeltune.drawing import BLUE, FAINT, INK, save, style


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
