"""The fonts that a figure's texts need: DejaVu Sans, and one more for what it lacks, as Chinese."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from matplotlib import font_manager, ft2font

from labeltune import archives
from labeltune.errors import UserError
from labeltune.members import extract
from labeltune.outputs import replacing

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


def families(texts: Iterable[str]) -> list[str]:
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
    folder = archives.cache_dir() / "fonts" / PACKAGE_SHA256[:12]
    if not folder.is_dir():
        archive = archives.fetch_archive(PACKAGE, PACKAGE_SHA256)
        with archives.writing_cache(), archives.holding(folder.with_suffix(".lock"), PACKAGE):
            if not folder.is_dir():
                with replacing(folder) as partial:
                    extract([archive], [MEMBER], partial)
    return folder / MEMBER


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
