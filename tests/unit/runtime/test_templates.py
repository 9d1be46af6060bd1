"""Templates of Markdown: values stay text, numbers are written as people write them."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markdown_it import MarkdownIt

from labeltune.runtime.templates import environment


def filled(folder: Path, text: str, locale: str = "en", **facts: object) -> str:
    (folder / "a.md").write_text(text, encoding="utf-8")
    return environment([folder], locale).get_template("a.md").render(facts)


@pytest.mark.parametrize(
    "value",
    ["# a", "> a", "- a", "+ a", "1. a", "12) a", "---", "===", "* a", "```", "~~~", "<b>a</b>", "a\n\nb", "[a]: b",
     "![a](b)", "| a |", "`a`", "&lt;"],
)  # fmt: skip
def test_a_value_is_a_paragraph_of_the_letters_that_it_has(tmp_path: Path, value: str) -> None:
    reader = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    for text in ("{{ value }}", "a\n{{ value }}", "{{ value }}\nb"):
        first, inline, last = reader.parse(filled(tmp_path, text, value=value))
        assert (first.type, last.type) == ("paragraph_open", "paragraph_close")
        assert {part.type for part in inline.children or []} <= {"text", "softbreak"}
        shown = "".join(part.content for part in inline.children or [])
        assert value.replace("\n", "⟨↵⟩") in shown


def test_a_span_and_a_block_of_code_hold_the_text(tmp_path: Path) -> None:
    shown = filled(tmp_path, "{{ value | code }}\n\n{{ value | code_block('yaml') }}", value="<b>`*")
    assert shown == "``<b>`*``\n\n```yaml\n<b>`*\n```"


def test_numbers_have_the_digits_and_signs_of_the_language(tmp_path: Path) -> None:
    text = "{{ 1234.5 | decimal }} {{ -0.02 | decimal('+0.0%;-0.0%') }} {{ 2 | plural('row', 'rows') }}"
    assert filled(tmp_path, text) == "1,235 −2.0% 2 rows"
    assert filled(tmp_path, "{{ 1 | plural('row', 'rows') }}") == "1 row"
    assert filled(tmp_path, "{{ 1 | plural('条样本', '条样本') }}", "zh_Hans") == "1 条样本"


def test_a_name_without_a_value_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="'missing' is undefined"):
        filled(tmp_path, "{{ missing }}")
