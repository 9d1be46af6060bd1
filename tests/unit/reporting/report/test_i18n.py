"""Templates in both languages, and numbers as people write them."""

import re
from collections import Counter

import pytest
from jinja2 import nodes

from labeltune.data.cleaning import REASONS
from labeltune.reporting.report.data_sections import SPLITS
from labeltune.reporting.report.i18n import FILTERS, LANGUAGES
from labeltune.reporting.report.render import TEMPLATES, template_environment

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]
NAMES = sorted(path.name for path in (TEMPLATES / "en").iterdir())


def named(language: str, name: str) -> set[str]:
    """Every value that a template names, with its attributes."""
    source = (TEMPLATES / language / name).read_text(encoding="utf-8")
    tree = template_environment(language).parse(source)
    places = [node for kind in (nodes.Getattr, nodes.Name) for node in tree.find_all(kind)]
    return {node.attr if isinstance(node, nodes.Getattr) else node.name for node in places}


@pytest.mark.parametrize("name", NAMES)
def test_a_template_states_the_same_facts_in_both_languages(name: str) -> None:
    assert named("en", name) == named("zh", name)
    assert {path.name for path in (TEMPLATES / "zh").iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_chinese_template_is_chinese(name: str) -> None:
    text = (TEMPLATES / "zh" / name).read_text(encoding="utf-8")
    prose = re.sub(r"\{[{%#].*?[}%#]\}|`[^`]*`|!?\[|\]\(.*?\)", "", text, flags=re.DOTALL)
    known = {"Brier", "Clopper", "Pearson", "ECE", "F1", "Face", "Hub", "Hugging", "JSON", "McNemar", "MiB", "Python",
             "ROC", "AUC", "TF", "IDF", "details", "gram", "labeltune", "logits", "resolved", "summary", "token",
             "yaml"}  # fmt: skip
    assert not set(re.findall(r"[A-Za-z]{2,}\d?", prose)) - known
    assert re.search(r"[\u4e00-\u9fff]", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_and_split_has_a_name(language: str) -> None:
    terms = template_environment(language).get_template("terms.jinja").make_module({"pictures": [], "only_label": None})
    assert set(terms.reasons) == set(REASONS)
    assert set(SPLITS) <= set(terms.splits)


def test_every_filter_of_numbers_is_used() -> None:
    texts = "".join(path.read_text("utf-8") for path in TEMPLATES.rglob("*") if path.is_file())
    used = Counter(re.findall(r"\| ([a-z_]+)", texts))
    assert not set(FILTERS) - set(used)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.96888, "96.9%"), (1.0, "100.0%"), (0.9999, ">99.9%"), (0.9995, ">99.9%"), (0.99949, "99.9%"), (0.0, "0.0%"),
     (0.0004, "<0.1%"), (0.0005, "0.1%"), (0.00049, "<0.1%"), (None, "undefined")],
)  # fmt: skip
def test_a_share_is_all_or_nothing_only_if_it_is(value: float | None, shown: str) -> None:
    assert ENGLISH.percent(value) == shown


def test_figures_are_written_as_people_write_them() -> None:
    assert ENGLISH.points(-0.021) == "−2.1"
    assert ENGLISH.points(0.021) == "+2.1"
    assert ENGLISH.points(-0.0001) == "0.0"
    assert ENGLISH.figure(-0.12345) == "−0.123"
    assert ENGLISH.distance(-0.0172) == "1.7"
    assert ENGLISH.setting(0.9995) == "99.95%"
    assert ENGLISH.chance(1e-9).replace("\u00a0", " ") == "p < 0.001"
    assert ENGLISH.chance(0.0004999).replace("\u00a0", " ") == "p < 0.001"
    assert ENGLISH.p_value(0.0312) == "0.031"
    assert ENGLISH.span({"low": 0.5, "high": 1.0, "method": "exact"}) == "50.0% to 100.0%"
    assert ENGLISH.span({"low": 0.91, "high": 0.9999999, "method": "exact"}) == "91.0% to >99.9%"
    assert ENGLISH.sure(0.75, {"low": 0.5, "high": 1.0}) == "75.0% (50.0 to 100.0)"
    assert ENGLISH.span(None) == "no interval"
    assert CHINESE.within({"low": 0.5, "high": 1.0}) == "95% 置信区间 50.0% 至 100.0%"
    amounts = (ENGLISH.amount(1234.5), ENGLISH.amount(0.25), ENGLISH.amount(None))
    assert amounts == ("1,235", "0.3", "not measured")
