"""Texts in both languages, and numbers as people write them."""

import re
import string
import tomllib
from pathlib import Path

import pytest

from labeltune.reporting.report import data_sections
from labeltune.reporting.report.i18n import TEXTS, Wording

ROOT = Path(__file__).parents[4]


def test_every_text_is_in_both_languages_with_the_same_places_to_fill() -> None:
    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    places = {
        (group, key, language): sorted(
            {name for _, name, _, _ in string.Formatter().parse(text.split("|")[-1]) if name is not None}
        )
        for group, keys in texts.items()
        for key, languages in keys.items()
        for language, text in languages.items()
    }
    for group, keys in texts.items():
        for key, languages in keys.items():
            assert set(languages) == {"en", "zh"}, f"{group}.{key}"
            assert places[group, key, "en"] == places[group, key, "zh"], f"{group}.{key}"
            assert all(text.strip() for text in languages.values()), f"{group}.{key}"


def test_every_text_that_the_code_names_is_there() -> None:
    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    pattern = re.compile(rf'(?:line|text)\(\s*"((?:{"|".join(texts)})\.\w+)"')
    files = set((ROOT / "labeltune/reporting/report").glob("*.py"))
    named = {key for file in files for key in pattern.findall(file.read_text("utf-8"))}
    assert len(named) > 60
    assert all(key.split(".")[1] in texts[key.split(".")[0]] for key in named)


def test_reasons_and_splits_have_names_in_both_languages() -> None:
    from labeltune.data.cleaning import REASONS

    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    assert set(texts["reason"]) == set(REASONS)
    assert set(data_sections.SPLITS) <= set(texts["split"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.96888, "96.9%"), (1.0, "100.0%"), (0.9999, "99.99%"), (0.0, "0.0%"), (0.0004, "0.04%"), (None, "undefined")],
)
def test_a_share_is_all_or_nothing_only_if_it_is(value: float | None, shown: str) -> None:
    assert Wording("en").percent(value) == shown


def test_figures_are_written_as_people_write_them() -> None:
    wording = Wording("en")
    assert wording.points(-0.021) == "−2.1"
    assert wording.points(-0.0001) == "0.0"
    assert wording.chance(1e-9).replace("\u00a0", " ") == "p < 0.001"
    assert wording.chance(0.0004999).replace("\u00a0", " ") == "p < 0.001"
    assert wording.p_value(0.0312) == "0.031"
    assert (wording.count("rows", 1), wording.count("rows", 2000)) == ("1 test row", "2,000 test rows")
    assert wording.span({"low": 0.5, "high": 1.0, "method": "exact"}) == "50.0% to 100.0%"
    assert wording.span(None) == "no interval"
    assert (wording.amount(1234.5), wording.amount(0.25), wording.amount(None)) == ("1,234", "0.2", "not measured")
