from labeltune.reporting.report.quotes import CONTEXT, LONGEST, compare, quote, quote_both
from labeltune.runtime.markdown import visible


def differing(first: str, second: str) -> tuple[list[str], list[str]]:
    """The parts of two versions that differ; all parts are the texts."""
    left, right = compare(first, second)
    assert "".join(part.text for part in left) == first
    assert "".join(part.text for part in right) == second
    return [part.text for part in left if part.changed], [part.text for part in right if part.changed]


def test_hidden_characters_are_shown_as_code_points() -> None:
    assert quote("a\u202eb\x00\ufeffc") == "a⟨U+202E⟩b⟨U+0000⟩⟨U+FEFF⟩c"
    assert quote("a\nb\tc") == "a⟨↵⟩b⟨U+0009⟩c"


def test_what_letters_need_is_left() -> None:
    for text in ("房间很干净，下次还来。", "👨\u200d👩\u200d👧 ❤\ufe0f", "می\u200cخواهم", "e\u0301 שלום"):
        assert visible(text) == text
        assert quote(text) == text


def test_a_long_text_is_cut_and_says_so() -> None:
    assert quote("x" * (LONGEST + 5)) == "x" * LONGEST + f" … {LONGEST} / {LONGEST + 5}"
    assert quote("x" * LONGEST) == "x" * LONGEST


def test_two_versions_are_marked_where_they_differ() -> None:
    left, right = differing("the food was good here", "the meal was very good here")
    assert left == ["food"]
    assert "".join(right).split() == ["meal", "very"]
    assert differing("the same", "the same") == ([], [])
    assert differing("", "new") == ([], ["new"])


def test_chinese_is_compared_by_character_and_a_code_point_as_one() -> None:
    assert differing("房间很干净", "房间很乾净") == (["干"], ["乾"])
    assert differing("a⟨U+200B⟩b", "a⟨U+200D⟩b") == (["⟨U+200B⟩"], ["⟨U+200D⟩"])


def test_of_long_versions_the_first_difference_is_shown() -> None:
    first, second = quote_both("a " * 1000 + "end", "a " * 1000 + "finish")
    assert first == "…" + "a " * (CONTEXT // 2) + "end"
    assert second.endswith("finish")
    longer, shorter = quote_both("b" * 2000, "b" * 1000)
    assert longer == "…" + "b" * LONGEST + f" … {LONGEST} / 2000"
    assert shorter == "…" + "b" * CONTEXT
