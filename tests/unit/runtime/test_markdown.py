"""Text of strangers in Markdown stays text; tests/unit/reporting/report/test_render.py tries more of it."""

import pytest
from markdown_it import MarkdownIt

from labeltune.runtime import markdown


@pytest.mark.parametrize("text", ["a```b", "```", "``` x\n````\n<b>", "plain", "`", "a\n\n# b"])
def test_a_block_and_a_span_of_code_end_where_their_text_ends(text: str) -> None:
    block, paragraph_open, *_ = MarkdownIt().parse(f"{markdown.code_block(text)}\n\nafter")
    assert (block.type, block.content) == ("fence", f"{text}\n")
    assert paragraph_open.type == "paragraph_open"
    _, inline, _ = MarkdownIt().parse(f"{markdown.code(text)} after")
    assert [token.type for token in inline.children or []] == ["code_inline", "text"]


def test_hidden_characters_are_shown_and_joiners_kept() -> None:
    assert markdown.visible("a\u202e\x1bb\n") == "a⟨U+202E⟩⟨U+001B⟩b⟨↵⟩"
    assert markdown.visible("a\n", kept="\n") == "a\n"
    assert markdown.visible("क्\u200dष 👩\u200d👧") == "क्\u200dष 👩\u200d👧"
