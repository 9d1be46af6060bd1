"""Pictures of what `sides` or `growth` measured: `python -m benchmarks.figures FILE [FILE ...] OUT`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from labeltune.console import terminal
from labeltune.reporting.plots import style
from labeltune.runtime import errors

PANELS = (
    ("train_seconds", "seconds of training", True),
    ("inference_rows_per_second", "rows answered per second", True),
    ("accuracy", "accuracy on the test rows, 95% interval", False),
)
GROWTH = (("train_seconds", "seconds of training"), ("peak_mib", "memory at most, MiB"))
DPI = 150
SIZE = (11.0, 3.2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="what `sides` wrote, or what runs of `growth` wrote")
    parser.add_argument("out", type=Path, help="the PNG file")
    options = parser.parse_args(arguments)
    records = [json.loads(file.read_text(encoding="utf-8")) for file in options.files]
    if "sides" in records[0]:
        draw_sides(records[0], options.out)
    else:
        draw_growth([run for record in records for run in record["runs"]], options.out)
    terminal.say(f"the picture: {options.out}")


def draw_sides(record: dict[str, Any], out: Path) -> None:
    """Seconds, rates and accuracy of every side; the slowest to train below."""
    names = sorted(record["sides"], key=lambda name: -record["sides"][name]["train_seconds"])
    with style.style(names, DPI):
        panels = Figure(figsize=SIZE, layout="constrained").subplots(1, len(PANELS), sharey=True)
        for axes, (figure, title, logarithmic) in zip(panels, PANELS, strict=True):
            for place, name in enumerate(names):
                one = record["sides"][name]
                colour = style.BLUE if name.startswith("labeltune") else style.FAINT
                if one[figure] is None:
                    continue
                axes.plot([one[figure]], [place], "o", color=colour)
                if logarithmic:
                    shown = f"{one[figure]:,.{0 if one[figure] >= 100 else 1}f}"
                    axes.annotate(shown, (one[figure], place), (7, -4), textcoords="offset points")
                elif one["interval"]:
                    axes.plot(one["interval"], [place, place], color=colour)
            if logarithmic:
                axes.set_xscale("log")
                axes.margins(x=0.35)
                axes.xaxis.set_major_locator(LogLocator(numticks=5))
                axes.xaxis.set_major_formatter("{x:,.9g}")
                axes.xaxis.set_minor_locator(NullLocator())
            else:
                axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_title(title, fontsize=10)
        panels[0].set_yticks(range(len(names)), names)
        style.save(panels[0], out)


def draw_growth(runs: Sequence[dict[str, Any]], out: Path) -> None:
    """Seconds and memory of training by the number of rows, a line for each base model."""
    names = list(dict.fromkeys(run["model"] for run in runs))
    once = {(run["model"], run["rows"]): run for run in reversed(runs)}  # the first of several
    with style.style(names, DPI):
        panels = Figure(figsize=(9.0, 3.4), layout="constrained").subplots(1, 2)
        for axes, (figure, title) in zip(panels, GROWTH, strict=True):
            for name, colour in zip(names, style.PALETTE, strict=False):
                mine = sorted((run["rows"], run[figure]) for run in once.values() if run["model"] == name)
                rows, found = zip(*mine, strict=True)
                axes.plot(rows, found, "o-", color=colour, label=name)
            axes.set_xscale("log")
            if figure == "train_seconds":
                axes.set_yscale("log")
            else:
                axes.set_ylim(0, 1.1 * max(run[figure] for run in runs))
            axes.xaxis.set_major_formatter("{x:,.9g}")
            axes.yaxis.set_major_formatter("{x:,g}")
            axes.set_xlabel("training rows")
            axes.set_title(title, fontsize=10)
        panels[0].legend()
        style.save(panels[0], out)


if __name__ == "__main__":
    errors.run(main)
