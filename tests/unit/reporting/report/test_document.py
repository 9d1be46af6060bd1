from labeltune.reporting.report.document import CONTEXT, LONGEST, Quote, compare, quote
from labeltune.runtime.markdown import visible


def shown(quoted: Quote) -> str:
    return "".join(part.text for part in quoted.segments)


def test_hidden_characters_are_shown_as_code_points() -> None:
    quoted = quote("a\u202eb\x00\ufeffc")
    assert [(part.text, part.point) for part in quoted.segments] == [
        ("a", False), ("U+202E", True), ("b", False), ("U+0000", True), ("U+FEFF", True), ("c", False),
    ]  # fmt: skip
    assert shown(quote("a\nb\tc")) == "a↵bU+0009c"


def test_what_letters_need_is_left() -> None:
    for text in ("房间很干净，下次还来。", "👨\u200d👩\u200d👧 ❤\ufe0f", "می\u200cخواهم", "e\u0301 שלום"):
        assert visible(text) == text
        assert shown(quote(text)) == text


def test_a_long_text_is_cut_and_says_so() -> None:
    quoted = quote("x" * (LONGEST + 5))
    assert (len(shown(quoted)), quoted.start, quoted.end, quoted.total) == (LONGEST, 0, LONGEST, LONGEST + 5)
    whole = quote("x" * LONGEST)
    assert (whole.end, whole.total) == (LONGEST, LONGEST)


def test_two_versions_are_whole_and_marked_where_they_differ() -> None:
    text, changed = "the food was good here", "the meal was very good here"
    first, second = compare(text, changed)
    assert (shown(first), shown(second)) == (text, changed)
    assert [part.text for part in first.segments if part.changed] == ["food"]
    assert "".join(part.text for part in second.segments if part.changed).split() == ["meal", "very"]


def test_chinese_is_compared_by_character() -> None:
    first, second = compare("房间很干净", "房间很乾净")
    assert [part.text for part in first.segments if part.changed] == ["干"]
    assert [part.text for part in second.segments if part.changed] == ["乾"]


def test_of_long_versions_the_first_difference_is_shown() -> None:
    text = "a " * 1000 + "end"
    changed = "a " * 1000 + "finish"
    first, second = compare(text, changed)
    assert first.start == second.start == 2000 - CONTEXT
    assert shown(first).endswith("end")
    assert shown(second).endswith("finish")
    longer, shorter = compare("b" * 2000, "b" * 1000)
    assert longer.start == shorter.start == 1000 - CONTEXT


def test_the_same_text_has_no_mark_and_an_empty_one_is_empty() -> None:
    first, second = compare("the same", "the same")
    assert not any(part.changed for part in (*first.segments, *second.segments))
    assert quote("").segments == ()
    assert shown(compare("", "new")[1]) == "new"
