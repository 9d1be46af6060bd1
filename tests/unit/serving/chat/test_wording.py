"""The sentences of the chat: values are escaped, numbers have their forms."""

from markupsafe import Markup

from labeltune.serving.chat.wording import Wording, code


def test_a_value_is_escaped_unless_it_is_markdown_already() -> None:
    english = Wording("en")
    assert english.say("answer.wrong", label="<b>*x*</b>") == "Should be \\<b>\\*x\\*\\</b>"
    assert english.say("answer.wrong", label=code("*x*")) == "Should be `*x*`"
    assert Wording("zh").listed([code("a"), Markup("b")]) == "`a`、b"


def test_one_thing_and_several_have_their_forms() -> None:
    assert [Wording("en").count("rows", number) for number in (1, 2000)] == ["1 row", "2,000 rows"]
    assert Wording("zh").count("rows", 1) == "1 行"
