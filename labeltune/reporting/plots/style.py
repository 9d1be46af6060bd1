"""The style of all figures: colours, fonts for every script, and reproducible files."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager, ft2font
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labeltune.runtime import downloads
from labeltune.runtime.errors import UserError

LATIN = "DejaVu Sans"
"""Matplotlib ships it, so it is the same on every machine."""

PACKAGE = "pylopdf-fonts-zh-cn==0.1.1"
PACKAGE_SHA256 = "e2661ef3790cbe0f0f6aa5338b6859b7cd288ee75bc88cd4239c62cd025d4fb3"
MEMBER = "pylopdf_fonts_zh_cn/NotoSansSC-Regular.otf"
"""Noto Sans SC 2.004, SIL Open Font License 1.1: simplified and traditional Chinese, and kana."""

PREFERRED = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "PingFang SC",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Noto Sans CJK TC",
    "Noto Sans CJK JP",
    "SimHei",
)
"""Tried first of the installed fonts that cover the text: sans serif, like the rest of a figure."""

PLACEHOLDERS = ("Last Resort", "LastResort", ".LastResort", "Adobe Blank")
"""How the names of fonts begin that map every character there is, to a box or to nothing."""


def font_families(texts: Iterable[str]) -> list[str]:
    """Name the font families, in order of preference, that together draw every character of the texts.

    Meant for Matplotlib's `font.family`, which takes each character from the first family that has it. The
    second family is looked for among the installed fonts, then in a package of the Python package index.

    Raises:
        UserError: Some of the characters are in no font that could be found or fetched.
    """
    missing = uncovered(_default_path(), 0, needed("".join(texts)))
    if not missing:
        return [LATIN]
    family = installed(missing) or fetched(missing)
    return [LATIN, family]


def needed(text: str) -> set[str]:
    r"""Collect the characters of a text that leave ink: no spaces, control characters or variation selectors.

    >>> sorted(needed("a b\n\u200d\ufe0f"))
    ['a', 'b']
    """
    return {
        character
        for character in text
        if unicodedata.category(character)[0] not in "CZ" and not 0xFE00 <= ord(character) <= 0xFE0F
    }


def uncovered(path: str | Path, face: int, characters: Iterable[str]) -> set[str]:
    """Collect the characters that a face of a font file has no glyph for, by its character map, not its name."""
    font = ft2font.FT2Font(os.fspath(path), face_index=face)
    return {character for character in characters if font.get_char_index(ord(character)) == 0}


def installed(characters: set[str]) -> str | None:
    """Find the family of an installed upright font that draws all the characters, or None."""
    _register(font_manager.findSystemFonts())
    rank = {name: position for position, name in enumerate(PREFERRED)}
    entries = [entry for entry in font_manager.fontManager.ttflist if entry.style == "normal"]
    # Matplotlib lists the fonts in no fixed order; the figure must not depend on it. The weight that it would
    # take for ordinary text comes first: a family's bold face may cover less or more.
    entries.sort(
        key=lambda entry: (
            rank.get(entry.name, len(rank)),
            abs(int(font_manager.weight_dict.get(str(entry.weight), entry.weight)) - 400),
            (entry.name, entry.fname, entry.index),
        )
    )
    for entry in entries:
        if not entry.name.startswith(PLACEHOLDERS) and _draws(entry, characters):
            return entry.name
    return None


def fetched(characters: set[str]) -> str:
    """Register the font of the package index, and name its family.

    Raises:
        UserError: It can't be had, or lacks some of the characters.
    """
    advice = "install a font that does, for Chinese the Debian package fonts-noto-cjk, and run this again"
    try:
        path = fetch()
    except UserError as error:
        raise UserError(f"No installed font draws {_listed(characters)}: {advice}. {error}") from error
    lacking = uncovered(path, 0, characters)
    if lacking:
        raise UserError(f"Neither an installed font nor {PACKAGE} draws {_listed(lacking)}: {advice}.")
    _register([str(path)])
    return ft2font.FT2Font(os.fspath(path)).family_name


def fetch() -> Path:
    """Return the packaged font in the cache, fetched and taken out of its archive if it is not there yet.

    Raises:
        UserError: The package could not be had, or the cache not be written.
    """
    place = f"fonts/{PACKAGE_SHA256[:12]}"
    return downloads.fetch_members(place, PACKAGE, {PACKAGE: PACKAGE_SHA256}, [MEMBER]) / MEMBER


def _listed(characters: set[str]) -> str:
    shown = sorted(characters)[:20]
    return " ".join(shown) + (f" and {len(characters) - 20} more" if len(characters) > 20 else "")


def _default_path() -> str:
    return font_manager.findfont(font_manager.FontProperties(family=LATIN), fallback_to_default=False)


def _draws(entry: font_manager.FontEntry, characters: set[str]) -> bool:
    try:
        return not uncovered(entry.fname, entry.index, characters)
    except (RuntimeError, OSError):
        # The file was removed since Matplotlib listed it, or FreeType cannot read it: it draws nothing.
        return False


def _register(paths: list[str]) -> None:
    # Matplotlib keeps its list of fonts in a cache file: what was installed since is not in it.
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted(set(map(str, paths)) - known):
        try:
            font_manager.fontManager.addfont(path)
        except (RuntimeError, OSError, ValueError, KeyError):
            # FreeType cannot read it (a bitmap or damaged font), so no figure could use it either.
            continue


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
    families = font_families(texts)
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
