"""Messages of the chat, as Markdown in which users' text stays text, and the corrections it records."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from markupsafe import Markup

from labeltune.evaluation import metrics
from labeltune.inference.artifact import Record
from labeltune.inference.classifier import Answer
from labeltune.runtime.markdown import visible
from labeltune.serving.batch import Summary
from labeltune.serving.chat.wording import Wording, code

KEPT = Path("data/raw/corrections.jsonl")
"""Where the chat keeps them unless told: `prepare` depends on data/raw."""
QUOTES = "\"'`“”‘’「」『』«»"
SAID = (
    re.compile(
        r"(?:no[,.]?\s+)?(?:(?:this|that|it)(?: one)?\s+)?should(?:\s+(?:be|have been))(?:\s+label+ed)?\s+(.+)", re.I
    ),
    re.compile(r"(?:不对?[，,。]?\s*)?(?:这|那|它)?(?:一?条|个)?(?:应该|应当|应)(?:标)?(?:是|为|成)\s*(.+)"),
)
"""Ways of saying what a label should be; the label is what is said last."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One text and the label that a person gave it; a line of the file."""

    text: str
    """The text as it was asked about."""
    label: str
    """The label's name that it should have."""
    predicted: str
    """The label that the classifier gave it."""
    confidence: float
    """The classifier's confidence in that."""
    time: str
    """When it was said: ISO 8601, in UTC."""


def said(message: str, names: Iterable[str]) -> str | None:
    """The label that a message says a text should have; None where it says something else.

    >>> said("No, this should be Spam.", ["ham", "spam"])
    'spam'
    >>> said("这条应该是「负面」。", ["负面", "正面"])
    '负面'
    >>> said("this should be fun", ["ham", "spam"])
    """
    names = list(names)
    for way in SAID:
        if found := way.fullmatch(message.strip()):
            word = found[1].strip()
            for candidate in (word, word.rstrip(".!。！ ").strip(QUOTES + ".!。！ ")):
                same = [name for name in names if name.casefold() == candidate.casefold()]
                if same:
                    return candidate if candidate in same else same[0]
    return None


def to_line(correction: Correction) -> bytes:
    """Write a correction as a line of the file."""
    return json.dumps(asdict(correction), ensure_ascii=False).encode() + b"\n"


def append_correction(path: Path, correction: Correction) -> None:
    """Add a line to the file, on the disk when this returns; a line that a crash cut off does not swallow it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = to_line(correction)
    with path.open("a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        stream.write(line)  # at the file's end, wherever another process has put it meanwhile
        stream.flush()
        os.fsync(stream.fileno())


LONGEST = 100_000
"""Most characters of a message; no prompt holds a tenth of them."""
LISTED = 12
"""Labels that are named in a greeting, or shown under an answer; a classifier may have hundreds."""
CELLS = 24
"""Width of a full bar, in characters."""
EIGHTHS = " ▏▎▍▌▋▊▉"
QUOTED = 60
"""Characters of a text that a correction or a button repeats."""


@dataclass(frozen=True, kw_only=True)
class Messages:
    """One classifier's replies in one language."""

    wording: Wording
    record: Record

    @classmethod
    def of(cls, record: Record, language: str) -> "Messages":
        """The replies of a classifier in `en` or `zh`."""
        return cls(wording=Wording(language), record=record)

    def greeting(self) -> str:
        """What the classifier is, how good, and what one may do here."""
        names = self.record.labels.names
        shown = [code(name) for name in names[:LISTED]]
        if len(names) > LISTED:
            shown.append(self.wording.say("greeting.more", number=f"{len(names) - LISTED:,}"))
        hello = self.wording.say("greeting.hello", labels=self.wording.listed(shown))
        # The example is something to type, and so no label that code would have to fence.
        example = code(self.wording.say("greeting.example", label=Markup(names[-1])))
        return "\n\n".join(
            [
                f"### {code(self.record.dataset)}",
                hello,
                "\n".join(f"- {fact}" for fact in self._facts()),
                self.wording.say("greeting.use"),
                self.wording.say("greeting.correct", example=example),
            ]
        )

    def _facts(self) -> Iterator[str]:
        """What the model card says that a reader needs before the first answer."""
        record, wording, calibration = self.record, self.wording, self.record.calibration
        method = wording.say(f"method.{record.train.method}")
        rows, dataset = wording.count("rows", record.rows["train"]), code(record.dataset)
        if record.model is None:
            yield wording.say("greeting.fitted", method=method, rows=rows, dataset=dataset)
        else:
            yield wording.say(
                "greeting.trained", method=method, model=code(record.model.title), rows=rows, dataset=dataset
            )
        if record.validation:
            count, accuracy = record.rows["validation"], record.validation["accuracy"]
            interval = metrics.share_interval(round(accuracy * count), count)
            yield wording.say(
                "greeting.accuracy",
                accuracy=wording.numbers.percent(accuracy),
                rows=wording.count("validation_rows", count),
                interval=wording.numbers.within(interval.record() if interval else None),
            )
        yield wording.say("greeting.calibrated" if calibration.fitted else "greeting.uncalibrated")
        if calibration.threshold:
            yield wording.say("greeting.abstains", threshold=wording.numbers.percent(calibration.threshold))
        unknown = wording.say("greeting.unknown")
        data = code(record.license) if record.license else unknown
        if record.model is None:
            yield wording.say("greeting.licence", data=data)
            return
        yield wording.say("greeting.length", tokens=wording.count("tokens", record.prompt.max_length))
        model = code(record.model.license) if record.model.license else unknown
        yield wording.say("greeting.licences", data=data, model=model)

    def answer(self, answer: Answer) -> str:
        """An answer: the label or that there is none, a bar for each label, and what to mind."""
        wording = self.wording
        label, confidence = code(answer.label), wording.numbers.percent(answer.confidence)
        if answer.abstained:
            threshold = wording.numbers.percent(self.record.calibration.threshold)
            unsure = wording.say("answer.unsure", label=label, confidence=confidence, threshold=threshold)
            head = f"**{wording.say('answer.abstained')}** {unsure}"
        else:
            head = f"**{wording.say('answer.sure', label=label, confidence=confidence)}**"
        parts = [head, self._bars(answer.probabilities)]
        if answer.truncated:
            tokens = wording.count("tokens", self.record.prompt.max_length)
            parts.append(wording.say("answer.truncated", tokens=tokens))
        return "\n\n".join(parts)

    def _bars(self, probabilities: dict[str, float]) -> str:
        ranked = ranking(probabilities)
        rows = [(cell(name), probabilities[name]) for name in ranked[:LISTED]]
        if len(ranked) > LISTED:
            others = ranked[LISTED:]
            rest = self.wording.say("answer.rest", labels=self.wording.count("labels", len(others)))
            rows.append((rest, sum(probabilities[name] for name in others)))
        head = f"| {self.wording.say('answer.label')} | | {self.wording.say('answer.probability')} |"
        lines = [f"| {name} | {bar(share)} | {self.wording.numbers.percent(share)} |" for name, share in rows]
        return "\n".join([head, "| :-- | :-- | --: |", *lines])

    def corrected(self, correction: Correction, count: int) -> str:
        """That a correction was kept, and what it says."""
        key = "agreed" if correction.label == correction.predicted else "kept"
        return self.say(
            f"correction.{key}",
            label=code(correction.label),
            predicted=code(correction.predicted),
            text=code(shortened(correction.text)),
            count=self.wording.count("corrections", count),
            setting=code("prepare.corrections"),
        )

    def unfit(self, text: str) -> str | None:
        """Why a text can't be answered; None where it can."""
        if not text.strip(" \t\r\n\v\f\u00a0\u200b\u2060\u3000\ufeff"):
            return self.say("error.empty")
        if len(text) > LONGEST:
            count = self.wording.count
            characters, most = count("characters", len(text)), count("characters", LONGEST)
            return self.say("error.long", characters=characters, most=most)
        return None

    def say(self, key: str, **values: str) -> str:
        """A text with somebody's words in it, by `group.key`."""
        return str(self.wording.say(key, **values))

    def button(self, label: str) -> str:
        """What a button says that corrects an answer; a page shows it as it is, and not as Markdown."""
        return self.say("answer.wrong", label=Markup(shortened(label)))

    def answered(self, summary: Summary) -> str:
        """How a file was answered: rows by label, and how many to mind."""
        wording, total = self.wording, sum(summary.labels.values())
        lines: list[str] = [wording.say("file.done", rows=wording.count("rows", total))]
        for key in ("abstained", "truncated", "skipped", "formulas"):
            if number := getattr(summary, key):
                unit = "cells" if key == "formulas" else "rows"
                lines.append(wording.say(f"file.{key}", **{unit: wording.count(unit, number)}))
        head = f"| {wording.say('answer.label')} | | {wording.say('file.rows')} |"
        ranked = list(summary.labels.items())[:LISTED]
        table = [f"| {cell(name)} | {bar(rows / total)} | {rows:,} |" for name, rows in ranked]
        return "\n\n".join([" ".join(lines), "\n".join([head, "| :-- | :-- | --: |", *table])])


def shortened(text: str) -> str:
    """The beginning of a text, on one line, with what is hidden in it shown."""
    words = visible(" ".join(text.split()))
    return words if len(words) <= QUOTED else f"{words[:QUOTED]}…"


def whole(text: str) -> str:
    r"""A text that can be written: a browser may send half of a character, which is replaced.

    >>> whole("😀\ud83d")
    '😀�'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def ranking(probabilities: dict[str, float]) -> Sequence[str]:
    """The labels, the likeliest first; those alike in the order of the label set."""
    return sorted(probabilities, key=lambda name: -probabilities[name])


def cell(name: str) -> str:
    """A user's word in a table, where a bar parts cells even within code."""
    return code(name).replace("|", "\\|")


def bar(share: float) -> str:
    """A bar of block characters, to an eighth of one; what is above nothing is seen.

    >>> bar(0.5), bar(0.0), bar(1e-9)
    ('████████████', '', '▏')
    """
    eighths = max(round(share * CELLS * 8), 1 if share > 0 else 0)
    full, part = divmod(eighths, 8)
    return "█" * full + EIGHTHS[part].strip()
