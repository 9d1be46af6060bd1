"""The conversation's steps, with a page that only remembers what it is told."""

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labeltune.inference.classifier import Answer
from labeltune.runtime.errors import UserError
from labeltune.serving.chat import app, conversation
from labeltune.serving.chat.conversation import REMEMBERED, Conversation
from labeltune.serving.chat.messages import LONGEST, Messages
from tests.unit.serving.chat.test_messages import record


class Said:
    """A message on the page, or a button."""

    sent: list["Said"]

    def __init__(self, **given: Any) -> None:
        self.content, self.elements, self.actions = "", [], []
        self.__dict__ |= given

    async def send(self) -> "Said":
        self.sent.append(self)
        return self

    async def update(self) -> None:
        pass

    async def remove_actions(self) -> None:
        self.actions = []


class Stub:
    """Finds spam where `win` stands; breaks at `break`."""

    record = record(examples=["win a prize", "see you"])

    def predict(self, texts: list[str]) -> list[Answer]:
        if texts == ["break"]:
            raise RuntimeError("a secret path")
        share = 0.9 if "win" in texts[0] else 0.2
        given = {"ham": 1 - share, "spam": share}
        label = max(given, key=lambda name: given[name])
        return [Answer(label=label, confidence=given[label], probabilities=given, abstained=False, truncated=False)]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> list[Said]:
    """What was said; Chainlit's place is taken by this."""
    said: list[Said] = []
    visit: dict[str, Any] = {}
    module: Any = SimpleNamespace(user_session=SimpleNamespace(get=visit.get, set=visit.__setitem__))
    for name in ("Message", "ErrorMessage", "Action", "File"):
        setattr(module, name, type(name, (Said,), {"sent": said}))
    monkeypatch.setitem(sys.modules, "chainlit", module)
    return said


@pytest.fixture
def started(page: list[Said], tmp_path: Path) -> Conversation:
    classifier: Any = Stub()
    made = Conversation(
        classifier=classifier, replies=Messages.of(Stub.record, "en"), kept=tmp_path / "kept.jsonl", folder=tmp_path
    )
    asyncio.run(made.greet())
    return made


def typed(started: Conversation, text: str) -> None:
    asyncio.run(started.read(Said(content=text)))


def kept(started: Conversation) -> list[tuple[str, str, str]]:
    lines = started.kept.read_text(encoding="utf-8").splitlines() if started.kept.exists() else []
    return [(row["text"], row["label"], row["predicted"]) for row in map(json.loads, lines)]


def test_buttons_of_the_examples_ask_them(started: Conversation, page: list[Said]) -> None:
    assert [button.label for button in page[0].actions] == ["win a prize", "see you"]
    asyncio.run(started.example(page[0].actions[0]))
    assert [(said.__dict__.get("type"), said.content) for said in page[1:2]] == [("user_message", "win a prize")]
    assert page[2].content.startswith("**`spam`")


def test_a_button_keeps_a_correction_once(started: Conversation, page: list[Said]) -> None:
    typed(started, "you win")
    (button,) = page[-1].actions
    assert button.label == "Should be ham"
    answer = page[-1]
    asyncio.run(started.correct(button))
    assert kept(started) == [("you win", "ham", "spam")]
    assert answer.actions == []
    assert "1 correction so far" in page[-1].content


def test_what_is_typed_corrects_the_last_answer(started: Conversation, page: list[Said]) -> None:
    typed(started, "this should be spam")
    assert page[-1].content == "There is no answer to correct yet."
    typed(started, "hello")
    typed(started, "you win")
    typed(started, "this should be ham")
    typed(started, "no, it should be spam")  # the same answer, thought over
    assert kept(started) == [("you win", "ham", "spam"), ("you win", "spam", "spam")]
    typed(started, "this should be fun")
    assert page[-1].content.startswith("**`ham`")


@pytest.mark.parametrize("payload", [{"key": "unknown", "label": "ham"}, {"label": "ham"}, {}])
def test_a_button_that_is_not_ours_keeps_nothing(
    started: Conversation, page: list[Said], payload: dict[str, str]
) -> None:
    asyncio.run(started.correct(Said(payload=payload)))
    assert page[-1].content.startswith("That answer")
    typed(started, "you win")
    asyncio.run(started.correct(Said(payload=page[-1].actions[0].payload | {"label": "eggs"})))
    assert kept(started) == []


def test_what_is_wrong_is_said_politely(
    started: Conversation, page: list[Said], caplog: pytest.LogCaptureFixture
) -> None:
    for text, words in (
        ("\u200b", "empty"),
        ("x" * (LONGEST + 1), "100,001 characters"),
        ("break", "went wrong inside"),
    ):
        typed(started, text)
        assert words in page[-1].content
        assert "secret" not in page[-1].content
    assert "a secret path" in caplog.text
    typed(started, "you win")
    started.kept.mkdir()
    typed(started, "this should be ham")
    assert "could not be written: `Is a directory`" in page[-1].content


def test_half_a_character_is_replaced(started: Conversation) -> None:
    typed(started, "you win \ud83d")
    typed(started, "this should be ham")
    assert kept(started) == [("you win \ufffd", "ham", "spam")]


def test_memory_is_bounded(started: Conversation, page: list[Said]) -> None:
    typed(started, "you win")
    first = page[-1].actions[0]
    for number in range(REMEMBERED):
        typed(started, f"you win {number}")
    asyncio.run(started.correct(first))
    assert page[-1].content.startswith("That answer")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("picture.png", b"", "is not a file that I can read"),
        ("empty.csv", b"", "the file is empty"),
        ("other.csv", b"a,b\n1,2\n", "no column has a usual name of a text"),
        ("<b>.csv", b"text\n\xff\xfe\n", "`<b>.csv"),
        ("many.txt", b"x\n" * (conversation.ROWS + 1), "2,001 rows; at most 2,000 rows"),
    ],
)
def test_a_file_that_cannot_be_answered_is_told(
    started: Conversation, page: list[Said], tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / "uploaded"
    path.write_bytes(content)
    asyncio.run(started.read(Said(elements=[Said(name=name, path=str(path))])))
    assert words in page[-1].content
    assert str(tmp_path) not in page[-1].content
    assert page[-1].elements == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"uploaded"}


def test_two_chats_in_a_process_are_refused(monkeypatch: pytest.MonkeyPatch, started: Conversation) -> None:
    monkeypatch.setattr(app, "_require_chainlit", lambda: None)
    monkeypatch.setitem(sys.modules, "chainlit.config", SimpleNamespace())
    application: Any = None
    with pytest.raises(RuntimeError, match="mount one chat"):
        app.mount(application, started.classifier)


def test_without_chainlit_one_is_told_how_to_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'labeltune\[chat\]'"):
        app.run(tmp_path, host="127.0.0.1", port=0, language="en", corrections=tmp_path / "c.jsonl")


def press(started: Conversation, button: Said, times: int) -> None:
    async def together() -> None:
        await asyncio.gather(*(started.correct(button) for _ in range(times)))

    asyncio.run(together())


def test_a_button_that_is_pressed_again_and_again_keeps_one_correction(started: Conversation, page: list[Said]) -> None:
    typed(started, "you win")
    (button,) = page[-1].actions
    press(started, button, 50)
    assert kept(started) == [("you win", "ham", "spam")]
    assert [said.content for said in page].count("That correction is kept already.") == 49


@pytest.mark.parametrize("limit", ["SESSION_CORRECTIONS", "ALL_CORRECTIONS"])
def test_corrections_are_bounded(
    started: Conversation, page: list[Said], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(conversation, limit, 1_000)
    typed(started, "you win")
    answer = page[-1].actions[0].payload
    for turn in range(40):  # from one label to the other
        asyncio.run(started.correct(Said(payload=answer | {"label": ("ham", "spam")[turn % 2]})))
    assert 0 < len(kept(started)) < 10
    assert started.kept.stat().st_size <= 1_000
    assert any("as many as it may" in said.content for said in page)


def test_a_correction_that_could_not_be_written_can_be_made_again(started: Conversation, page: list[Said]) -> None:
    typed(started, "you win")
    (button,) = page[-1].actions
    started.kept.mkdir()
    asyncio.run(started.correct(button))
    assert "could not be written" in page[-1].content
    started.kept.rmdir()
    asyncio.run(started.correct(button))
    assert kept(started) == [("you win", "ham", "spam")]
    assert started.written.total() == started.kept.stat().st_size


def test_a_session_without_room_is_given_no_file(page: list[Said], tmp_path: Path) -> None:
    """Answers to a file that was sent once can be asked for again and again."""
    classifier: Any = Stub()
    replies = Messages.of(Stub.record, "en")
    full = Conversation(
        classifier=classifier, replies=replies, kept=tmp_path / "k", folder=tmp_path, has_room=lambda session: False
    )
    asyncio.run(full.greet())
    asyncio.run(full.read(Said(content="", elements=[Said(name="a.csv", path="nowhere")])))
    assert "as many files as it may" in page[-1].content
