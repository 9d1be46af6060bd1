"""A conversation: what the chat does with a message, a file and a button."""

import asyncio
import datetime as dt
import logging
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from labeltune.data.normalization import is_blank
from labeltune.inference.classifier import Answer, Classifier
from labeltune.runtime.errors import UserError
from labeltune.runtime.markdown import escape
from labeltune.serving.batch import answer_file
from labeltune.serving.chat.messages import (
    Correction,
    Messages,
    append_correction,
    ranking,
    said,
    shortened,
    to_line,
    whole,
)
from labeltune.serving.chat.wording import code
from labeltune.serving.tables import Table

BUTTONS = 5
"""Labels that are offered as corrections; any can be typed."""
REMEMBERED = 100
"""Answers of a conversation that can still be corrected by their buttons."""
ENDINGS = {".csv": ".csv", ".tsv": ".csv", ".txt": ".csv", ".jsonl": ".jsonl"}
"""Of a file that is taken -> of the one that is given back."""
ROWS = 2_000
"""Most rows of a file: a minute or two on a small machine, in which others wait."""
MIME = "application/octet-stream"
SESSION_CORRECTIONS, ALL_CORRECTIONS = 4_000_000, 64_000_000
"""Most bytes of corrections that are kept: of a session, and of all of them until the chat is started again."""
VISIT = "visit"
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A text that was answered."""

    text: str
    answer: Answer
    message: Any
    """Chainlit's message that holds the answer and its buttons."""
    key: str
    """By which a button names it."""
    corrected: str | None = None
    """The label of the correction that was kept last."""


Step = Callable[["Conversation", Any], Awaitable[None]]


def _politely(step: Step) -> Step:
    """Say what is wrong in the conversation; what is wrong inside stays on the terminal."""

    async def guarded(self: "Conversation", given: Any) -> None:
        from chainlit import ErrorMessage

        try:
            await step(self, given)
        except UserError as error:
            await ErrorMessage(content=escape(str(error))).send()
        except Exception:
            LOG.exception("the chat could not answer")
            await ErrorMessage(content=self.replies.say("error.internal")).send()

    return guarded


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a classifier's conversations share; each browser tab has its own `Asked` texts, by id."""

    classifier: Classifier
    replies: Messages
    kept: Path
    """The file of corrections."""
    folder: Path
    """Where files may lie for the moment."""
    corrections: list[Correction] = field(default_factory=list)
    """Those that were kept since the start."""
    written: Counter[str] = field(default_factory=Counter)
    """Session id -> bytes of its corrections."""
    has_room: Callable[[str], bool] = lambda session: True
    """Whether a session may have a further file."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Texts are answered one at a time: each is fast, and two at once take turns on the same cores."""
    file_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Files too, beside the texts."""

    async def greet(self) -> None:
        """Say what this classifier is."""
        from chainlit import Action, Message, user_session

        user_session.set(VISIT, {})
        content, actions = self.replies.greeting(), []
        if self.classifier.record.examples:
            content += f"\n\n{self.replies.say('greeting.examples')}"
            actions = [
                Action(name="example", payload={"number": number}, label=shortened(text))
                for number, text in enumerate(self.classifier.record.examples)
            ]
        await Message(content=content, actions=actions).send()

    @_politely
    async def read(self, message: Any) -> None:
        """Answer a message: its files, its text, or the correction that it says."""
        for element in message.elements:
            await self._answer_file(element)
        text = whole(message.content)
        if not is_blank(text) or not message.elements:
            await self._answer(text)

    @_politely
    async def example(self, action: Any) -> None:
        """Ask one of the example texts."""
        from chainlit import Message

        text = self.classifier.record.examples[int(action.payload["number"])]
        await Message(content=text, type="user_message").send()
        await self._answer(text)

    @_politely
    async def correct(self, action: Any) -> None:
        """Keep the correction that a button says."""
        from chainlit import Message, user_session

        asked = user_session.get(VISIT).get(action.payload.get("key"))
        label = action.payload.get("label")
        if asked is None or label not in self.classifier.record.labels.names:
            await Message(content=self.replies.say("correction.gone")).send()
        else:
            await self._keep(asked, label)

    async def _answer(self, text: str) -> None:
        from chainlit import Action, Message, user_session

        visit: dict[str, Asked] = user_session.get(VISIT)
        if problem := self.replies.unfit(text):
            await Message(content=problem).send()
            return
        if label := said(text, self.classifier.record.labels.names):
            if visit:
                await self._keep(list(visit.values())[-1], label)
            else:
                await Message(content=self.replies.say("correction.nothing")).send()
            return
        async with self.turn:
            (answer,) = await asyncio.to_thread(self.classifier.predict, [text])
        key = uuid.uuid4().hex
        others = [name for name in ranking(answer.probabilities) if name != answer.label][:BUTTONS]
        actions = [
            Action(
                name="correct",
                payload={"key": key, "label": name},
                label=self.replies.button(name),
            )
            for name in others
        ]
        message = Message(content=self.replies.answer(answer), actions=actions)
        visit[key] = Asked(text=text, answer=answer, message=message, key=key)
        while len(visit) > REMEMBERED:
            del visit[next(iter(visit))]
        await message.send()

    async def _keep(self, asked: Asked, label: str) -> None:
        from chainlit import Message, user_session

        if label == asked.corrected:
            await Message(content=self.replies.say("correction.again")).send()
            return
        correction = Correction(
            text=asked.text,
            label=label,
            predicted=asked.answer.label,
            confidence=asked.answer.confidence,
            time=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )
        session, size = user_session.get("id"), len(to_line(correction))
        if self.written[session] + size > SESSION_CORRECTIONS or self.written.total() + size > ALL_CORRECTIONS:
            await Message(content=self.replies.say("correction.full")).send()
            return
        # Before it is written: the same button may be pressed again meanwhile.
        visit: dict[str, Asked] = user_session.get(VISIT)
        visit[asked.key] = replace(asked, corrected=label)
        self.written[session] += size
        try:
            await asyncio.to_thread(append_correction, self.kept, correction)
        except OSError as error:
            visit[asked.key] = asked
            self.written[session] -= size
            LOG.exception("the correction could not be written to %s", self.kept)
            reason = code(error.strerror or type(error).__name__)
            await Message(content=self.replies.say("correction.unwritten", reason=reason)).send()
            return
        self.corrections.append(correction)
        await asked.message.remove_actions()
        await Message(content=self.replies.corrected(correction, len(self.corrections))).send()

    async def _answer_file(self, element: Any) -> None:
        """Answer a file's rows and give them back with the answers."""
        from chainlit import File, Message, user_session

        name, ending = element.name, Path(element.name).suffix.lower()
        if ending not in ENDINGS:
            content = self.replies.say("file.kinds", name=code(name), endings=", ".join(ENDINGS))
            await Message(content=content).send()
            return
        if not self.has_room(user_session.get("id")):
            await Message(content=self.replies.say("file.full")).send()
            return
        message = await Message(content=self.replies.say("file.working", name=code(name))).send()
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            source, target = Path(place) / f"texts{ending}", Path(place) / f"answers{ENDINGS[ending]}"
            shutil.copyfile(element.path, source)
            try:
                table = await asyncio.to_thread(Table.survey, source)
                if table.rows <= ROWS:
                    async with self.file_turn:
                        answered = partial(answer_file, self.classifier, table, target, escape_formulas=True)
                        summary = await asyncio.to_thread(answered)
                    message.content = self.replies.answered(summary)
                    answers = f"{Path(name).stem}-answers{target.suffix}"
                    message.elements = [File(name=answers, path=str(target), display="inline", mime=MIME)]
                else:
                    rows, most = (self.replies.wording.count("rows", number) for number in (table.rows, ROWS))
                    command = code("labeltune predict --file")
                    message.content = self.replies.say("file.many", rows=rows, most=most, command=command)
            except UserError as error:
                reason = code(str(error).replace(str(source), name))
                message.content = self.replies.say("file.unread", reason=reason, column=code("text"))
            await message.update()
