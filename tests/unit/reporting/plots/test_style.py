"""Which font draws a label's name: chosen by what the font covers, fetched where none is installed."""

import warnings
import zipfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from matplotlib import font_manager

from labeltune.reporting.plots import figures, style
from labeltune.runtime import downloads
from labeltune.runtime.errors import UserError

SHIPPED = Path(mpl.get_data_path()) / "fonts" / "ttf"


def make_font(path: Path, family: str, characters: str) -> Path:
    """Build a font of one family that draws the characters, all with the glyph of an `A`."""
    font = TTFont(SHIPPED / "DejaVuSansMono.ttf")
    for table in font["cmap"].tables:
        if table.isUnicode():
            table.cmap = {ord(character): "A" for character in characters}
    for record in font["name"].names:
        if record.nameID in (1, 4, 16):
            record.string = family
    path.parent.mkdir(parents=True, exist_ok=True)
    font.save(path)
    return path


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Hide this machine's fonts and package indexes; returns the list of installed fonts, to be filled."""
    installed: list[str] = []
    shipped = [entry for entry in font_manager.fontManager.ttflist if entry.fname.startswith(str(SHIPPED))]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", shipped)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(installed))
    monkeypatch.setenv("LABELTUNE_CACHE", str(tmp_path / "cache"))

    def unreachable(requirement: str, sha256: str) -> Path:
        raise UserError(f"{requirement} was not found")

    monkeypatch.setattr(downloads, "fetch_archive", unreachable)
    return installed


def offer_package(monkeypatch: pytest.MonkeyPatch, folder: Path, characters: str, family: str) -> list[tuple[str, str]]:
    """Make the package index offer a wheel with such a font; returns the list of what was asked for."""
    font = make_font(folder / "packaged.otf", family, characters)
    wheel = folder / "fonts-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(font, style.MEMBER)
    asked: list[tuple[str, str]] = []

    def fetch(requirement: str, sha256: str) -> Path:
        asked.append((requirement, sha256))
        return wheel

    monkeypatch.setattr(downloads, "fetch_archive", fetch)
    return asked


def test_latin_and_greek_names_need_no_other_font() -> None:
    assert style.font_families(["spam", "naïve, Ωμέγα", "a\u200bb\n"]) == ["DejaVu Sans"]


def test_the_font_is_chosen_by_its_characters_and_not_by_its_name(bare_machine: list[str], tmp_path: Path) -> None:
    bare_machine.append(str(make_font(tmp_path / "liar.ttf", "Noto Sans CJK SC", "正")))
    bare_machine.append(str(make_font(tmp_path / "plain.ttf", "Plain Hanzi", "正负面")))
    assert style.font_families(["正面", "负面"]) == ["DejaVu Sans", "Plain Hanzi"]


def test_of_several_that_cover_the_preferred_is_taken(bare_machine: list[str], tmp_path: Path) -> None:
    bare_machine.append(str(make_font(tmp_path / "a.ttf", "Another Hanzi", "正负面")))
    bare_machine.append(str(make_font(tmp_path / "z.ttf", "WenQuanYi Zen Hei", "正负面")))
    assert style.font_families(["正面", "负面"]) == ["DejaVu Sans", "WenQuanYi Zen Hei"]


def test_a_damaged_font_file_is_passed_over(bare_machine: list[str], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.ttf"
    damaged.write_bytes(b"no font")
    bare_machine.append(str(damaged))
    bare_machine.append(str(make_font(tmp_path / "whole.ttf", "Whole Hanzi", "正")))
    assert style.font_families(["正"]) == ["DejaVu Sans", "Whole Hanzi"]


def test_a_font_of_placeholders_is_no_font() -> None:
    # Matplotlib ships one that maps every character to a box.
    names = [entry.name for entry in font_manager.fontManager.ttflist]
    assert any(name.startswith("Last Resort") for name in names)
    assert style.installed({"正"}) is None


def test_a_packaged_font_is_fetched_once_and_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = offer_package(monkeypatch, tmp_path, "正负面繁體", "Packaged Hanzi")
    assert style.font_families(["正面", "繁體"]) == ["DejaVu Sans", "Packaged Hanzi"]
    assert style.font_families(["负面"]) == ["DejaVu Sans", "Packaged Hanzi"]
    style.fetch()
    assert asked == [(style.PACKAGE, style.PACKAGE_SHA256)]
    assert list((tmp_path / "cache" / "fonts").rglob("*.otf")) == [style.fetch()]
    names, out = ["正面", "负面"], tmp_path / "out.png"
    # Matplotlib warns of every character that none of the families has.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.draw_confusion(np.array([0, 1]), np.array([0, 0]), names, out, dpi=80)
    monkeypatch.setattr(style, "font_families", lambda texts: [style.LATIN])
    with pytest.warns(UserWarning, match="missing from font"):
        figures.draw_confusion(np.array([0, 1]), np.array([0, 0]), names, out, dpi=80)


def test_a_packaged_font_that_lacks_a_character_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer_package(monkeypatch, tmp_path, "正面", "Packaged Hanzi")
    with pytest.raises(UserError, match=f"{style.PACKAGE} draws 负: install a font"):
        style.font_families(["正面", "负面"])


def test_without_font_and_index_the_user_is_told_what_to_install() -> None:
    with pytest.raises(UserError, match=r"No installed font draws 正 面: .*fonts-noto-cjk.*was not found"):
        style.font_families(["正面"])
