"""What the chat says: every figure and warning is there, in both languages, and nobody's words become markup."""

import re
import string
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from markdown_it import MarkdownIt

import labeltune
from labeltune.config.model import Method, Model, Prompt, Train
from labeltune.data.labels import LabelSet
from labeltune.inference.artifact import Record
from labeltune.inference.calibration import Calibration
from labeltune.inference.classifier import Answer
from labeltune.modeling.device import Machine
from labeltune.serving.batch import Summary
from labeltune.serving.chat.messages import LISTED, LONGEST, Correction, Messages, bar, shortened
from labeltune.serving.chat.wording import TEXTS, code

HOSTILE = (
    "<script>alert(1)</script>",
    "![x](http://127.0.0.1:9/a.png)",
    "[x](javascript:alert(1)) <http://127.0.0.1:9> www.example.com",
    "``` | a | `b` \n\n# head",
    "<img src=http://127.0.0.1:9/b.png onerror=alert(1)> \u202e\u200b",
    ":::danger\nx\n:::",
)

PACKAGE = Path(labeltune.__file__).parent


def record(names: tuple[str, ...] = ("ham", "spam"), **changes: Any) -> Record:
    whole = Record(
        labels=LabelSet(names=names, words=names), prompt=Prompt(max_length=99), train=Train(seed=1),
        model=Model(name="base", source="files", folder="x", hub="org/base", license="Apache-2.0"), base_files={},
        machine=Machine(dtype="fp32", attention="eager", kernels="fused", threads=1), data={},
        rows={"train": 1234, "validation": 200}, dataset="messages", license=None, validation={"accuracy": 0.975},
        calibration=Calibration(fitted=True, threshold=0.875),
    )  # fmt: skip
    return replace(whole, **changes)


def answer(**changes: Any) -> Answer:
    given = {"label": "spam", "confidence": 0.9, "probabilities": {"ham": 0.1, "spam": 0.9}}
    return Answer(**(given | {"abstained": False, "truncated": False} | changes))


def rendered(markdown: str) -> tuple[list[str], str]:
    """The kinds of markup that a page makes of it, and the text that a reader sees."""
    kinds: list[str] = []
    parts: list[str] = []
    for token in MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(markdown):
        for inner in token.children or [token]:
            kinds.append(inner.type)
            parts.append(inner.content)
    return kinds, " ".join(parts)


def test_every_text_is_in_both_languages_with_the_same_places() -> None:
    for group, texts in tomllib.loads(TEXTS.read_text(encoding="utf-8")).items():
        for key, both in texts.items():
            assert list(both) == ["en", "zh"], (group, key)
            places = [
                sorted({place for _, place, _, _ in string.Formatter().parse(text) if place is not None})
                for text in both.values()
            ]
            assert places[0] == places[1], (group, key)


def test_every_text_is_used_and_every_used_one_is_there() -> None:
    source = "".join(
        (PACKAGE / f"serving/chat/{name}.py").read_text(encoding="utf-8")
        for name in ("messages", "conversation", "app", "wording")
    )
    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    named = re.findall(rf"[\"']((?:{'|'.join(texts)})\.\w+)[\"']", source)
    assert len(named) > 30
    assert all(name.split(".")[1] in texts[name.split(".")[0]] for name in named)
    assert set(texts.pop("word")) == {"comma"}
    assert set(texts.pop("method")) == set(get_args(Method))
    for group, keys in texts.items():
        for key in keys:
            put_together = group in ("count", "file", "correction") and key in source
            assert put_together or re.search(f"[\"']{group}.{key}[\"']", source), (group, key)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_greeting_says_what_it_is_and_how_good(language: str) -> None:
    _, text = rendered(Messages.of(record(), language).greeting())
    # 195 of 200: Clopper and Pearson's interval by R's binom.test(195, 200).
    for part in ("messages", "ham", "spam", "org/base", "1,234", "97.5%", "94.3%", "99.2%", "200", "87.5%", "99"):
        assert part in text, part
    for part in ("Apache-2.0", "unknown" if language == "en" else "未知"):
        assert part in text, part


def test_the_greeting_leaves_out_what_there_is_not() -> None:
    plain = rendered(Messages.of(record(validation={}, calibration=Calibration()), "en").greeting())[1]
    assert "Right on" not in plain
    assert "abstains" not in plain
    assert "not calibrated" in plain
    many = rendered(Messages.of(record(tuple(f"intent {i}" for i in range(77))), "en").greeting())[1]
    assert "intent 11" in many
    assert "intent 12" not in many
    assert "and 65 more" in many


def test_an_answer_has_its_label_its_confidence_and_a_bar_for_each_label() -> None:
    kinds, text = rendered(Messages.of(record(), "en").answer(answer()))
    assert text.split("Label")[0].split() == ["spam", ",", "with", "a", "confidence", "of", "90.0%"]
    cells = text.split("Probability")[1].split()
    assert cells == ["spam", bar(0.9), "90.0%", "ham", bar(0.1), "10.0%"]
    assert kinds.count("table_open") == 1
    assert "Only a part" not in text


@pytest.mark.parametrize(("language", "words"), [("en", "Not sure enough"), ("zh", "把握不足")])
def test_an_abstention_is_said_in_words(language: str, words: str) -> None:
    text = rendered(Messages.of(record(), language).answer(answer(abstained=True, confidence=0.8)))[1]
    assert words in text
    assert "80.0%" in text
    assert "87.5%" in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_abstention_does_not_call_its_label_the_likeliest(language: str) -> None:
    """After a training with class weights, the label of least cost may have the lesser probability."""
    unsure = answer(abstained=True, confidence=0.4, probabilities={"ham": 0.6, "spam": 0.4})
    said = rendered(Messages.of(record(), language).answer(unsure))[1].split("%")[0]
    assert "spam" in said
    assert not [word for word in ("likel", "most", "best", "最", "可能") if word in said]


def test_a_text_that_was_cut_is_said() -> None:
    assert "99 tokens" in rendered(Messages.of(record(), "en").answer(answer(truncated=True)))[1]


def test_many_labels_are_summed_up() -> None:
    shares = {f"label {i}": 0.5 / 2**i for i in range(19)}
    text = rendered(Messages.of(record(), "en").answer(answer(label="label 0", confidence=0.5, probabilities=shares)))[
        1
    ]
    assert f"label {LISTED - 1}" in text
    assert f"label {LISTED}" not in text
    assert "7 labels more" in text


def test_bars_grow_with_the_share() -> None:
    lengths = [len(bar(i / 200)) for i in range(201)]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (0, 24)
    assert len({bar(i / 200) for i in range(201)}) > 190


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_nobodys_words_become_markup(hostile: str, language: str) -> None:
    harmless, names = Messages.of(record(license="x"), language), ("ham", hostile)
    replies = Messages.of(record(names, dataset=hostile, license=hostile), language)

    def correction(text: str, label: str) -> Correction:
        return Correction(text=text, label=label, predicted="ham", confidence=0.5, time="now")

    def summary(name: str) -> Summary:
        return Summary(rows=3, skipped=1, resumed=0, abstained=1, truncated=1, labels={name: 2}, renamed={})

    probabilities = {"ham": 0.4, hostile: 0.6}
    for mine, theirs in (
        (harmless.greeting(), replies.greeting()),
        (harmless.answer(answer()), replies.answer(answer(label=hostile, probabilities=probabilities))),
        (
            harmless.answer(answer(abstained=True)),
            replies.answer(answer(label=hostile, abstained=True, probabilities=probabilities)),
        ),
        (harmless.corrected(correction("x", "spam"), 1), replies.corrected(correction(hostile, hostile), 1)),
        (harmless.answered(summary("spam")), replies.answered(summary(hostile))),
        (harmless.say("file.working", name=code("x")), replies.say("file.working", name=code(hostile))),
    ):
        expected, kinds = rendered(mine)[0], rendered(theirs)[0]
        assert [kind for kind in kinds if kind != "text"] == [kind for kind in expected if kind != "text"]
        assert "\u202e" not in theirs
        assert "\u200b" not in theirs  # Chainlit draws a cursor for it


@pytest.mark.parametrize("text", ["", "  \n\t ", "\u200b\ufeff\u3000"])
def test_an_empty_text_is_refused(text: str) -> None:
    assert Messages.of(record(), "en").unfit(text) == "That message is empty: type a text to label."


def test_a_text_may_be_long_but_not_endless() -> None:
    replies = Messages.of(record(), "en")
    assert replies.unfit("x" * LONGEST) is None
    assert "100,001 characters" in str(replies.unfit("x" * (LONGEST + 1)))


def test_what_is_repeated_is_short_and_on_one_line() -> None:
    assert shortened(" a\n b ") == "a b"
    assert shortened("x" * 99) == "x" * 60 + "…"


def test_the_package_brings_the_page() -> None:
    files = {path.name for path in Path(TEXTS).parent.iterdir()}
    assert files == {"chat.css", "config.toml", "mark.svg", "theme.js", "theme.json", "wording.toml"}
