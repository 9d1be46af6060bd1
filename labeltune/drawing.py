"""What all pictures share: colours, style, and files that are the same bytes for the same rows."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labeltune import fonts

BLUE, ORANGE = "#0072B2", "#E69F00"
"""Training and validation, in every picture."""
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#4D4D4D")
"""Labels. Colour-blind readers tell them apart: Wong, Color blindness, Nature Methods 8, 441 (2011)."""
DASHES = ("solid", "dashed", "dotted")
"""The line styles of the labels 1 to 7, 8 to 14, 15 to 21."""
LONGEST = 32
"""A label name of more characters is cut, with an ellipsis."""

INK, FAINT = "#333B43", "#8A939C"
STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 12,
    "font.size": 10,
    "grid.color": "#E4E7EB",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.title_fontsize": 9,
    "lines.linewidth": 1.8,
    # The page grows around the axes: a long label name takes nothing from the drawing.
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.15,
    "text.color": INK,
    # A label named "$x_1$" is a name and no formula.
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": INK,
    "ytick.alignment": "center",
    "ytick.color": INK,
}


@contextmanager
def style(texts: Iterable[str], dpi: int) -> Iterator[None]:
    """Draw in the house style, with fonts that have every character of the texts."""
    families = fonts.families(texts)
    with mpl.rc_context():
        # The user's own matplotlibrc would make another picture of the same rows.
        mpl.rcdefaults()
        mpl.rc("font", family=families)
        mpl.rcParams.update(STYLE | {"savefig.dpi": dpi})
        yield


def save(axes: Axes, path: Path) -> None:
    """Write the picture that the axes belong to; it is the same bytes for the same drawing."""
    # Neither date nor version: a new Matplotlib that draws the same pixels writes the same file.
    unnamed = ("CreationDate", "Creator", "Producer") if path.suffix == ".pdf" else ("Software",)
    figure(axes).savefig(path, metadata=dict.fromkeys(unnamed))


def figure(axes: Axes) -> Figure:
    """The picture that the axes belong to."""
    found = axes.get_figure(root=True)
    assert found is not None, "axes are made by a figure and never taken out of it"
    return found


def shortened(names: Iterable[str]) -> list[str]:
    """Cut the names that are too long for a picture."""
    return [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in names]
