"""Pictures of what `sides` measured: `python -m benchmarks.figures FILE OUT`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from labeltune import drawing, terminal

PANELS = (
    ("train_seconds", "seconds of training", True),
    ("inference_rows_per_second", "rows answered per second", True),
    ("accuracy", "accuracy on the test rows, 95% interval", False),
)
DPI = 150
SIZE = (11.0, 3.2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="what `sides` wrote")
    parser.add_argument("out", type=Path, help="the PNG file")
    options = parser.parse_args(arguments)
    record = json.loads(options.file.read_text(encoding="utf-8"))
    names = sorted(record["sides"], key=lambda name: -record["sides"][name]["train_seconds"])
    with drawing.style(names, DPI):
        panels = Figure(figsize=SIZE, layout="constrained").subplots(1, len(PANELS), sharey=True)
        for axes, (figure, title, logarithmic) in zip(panels, PANELS, strict=True):
            for place, name in enumerate(names):
                one = record["sides"][name]
                colour = drawing.BLUE if name.startswith("labeltune") else drawing.FAINT
                if one[figure] is None:
                    continue
                axes.plot([one[figure]], [place], "o", color=colour)
                if logarithmic:
                    axes.annotate(f"{one[figure]:,.1f}", (one[figure], place), (7, -4), textcoords="offset points")
                elif one["interval"]:
                    axes.plot(one["interval"], [place, place], color=colour)
            if logarithmic:
                axes.set_xscale("log")
                axes.margins(x=0.2)
                axes.xaxis.set_major_formatter("{x:,g}")
            else:
                axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_title(title, fontsize=10)
        panels[0].set_yticks(range(len(names)), names)
        drawing.save(panels[0], options.out)
    terminal.say(f"the picture: {options.out}")


if __name__ == "__main__":
    terminal.run(main)
