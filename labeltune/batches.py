"""Whole files of answers: every row with its own columns and what the classifier says, whole or not at all."""

import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from labeltune import inputs
from labeltune.artefact import MANIFEST
from labeltune.errors import UserError
from labeltune.inputs import Row, Table
from labeltune.outputs import digest, replacing, write_json
from labeltune.predict import Answer, Classifier
from labeltune.terminal import Bar
from labeltune.writers import FIELDS, TAKEN, WRITTEN, Writer, columns_of

PIPED = 64
"""Rows of a pipe that are answered together."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was done with a file."""

    rows: int
    """Rows written."""
    skipped: int
    """Rows without a text, written without an answer."""
    resumed: int
    """Rows that an earlier run had answered."""
    abstained: int
    """Answers that are too unsure to be relied on."""
    truncated: int
    """Texts that the model saw a part of."""
    labels: dict[str, int]
    """Label -> answers."""
    renamed: dict[str, str]
    """Field -> the column it is written to, where the row has one of its name."""


def answer_file(classifier: Classifier, table: Table, target: Path, bar: Bar | None = None) -> Summary:
    """Label every row of a file and write it with the answers beside its own columns, in its order.

    Answers go to a file beside the target first. Stopped at any time, the same call goes on behind the last answer,
    unless the rows, the classifier or the options have changed; the target appears when it is complete.

    Args:
        table: the rows.
        target: a file of one of `WRITTEN`.
        bar: told of the rows that are done.

    Raises:
        UserError: a file can't be read or written, or another process writes to the same target.
    """
    kind = target.suffix.lower().removeprefix(".")
    if kind not in WRITTEN:
        raise UserError(f"{target}: name the output .{', .'.join(WRITTEN)}")
    source = table.path
    if source.resolve() == target.resolve():
        raise UserError(f"{target} is the input: give the output another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    part, state = (target.with_name(f".{target.name}.{name}") for name in ("answers", "state.json"))
    key = {
        "source": digest(source),
        "classifier": digest(classifier.folders[0] / MANIFEST),
        "options": [table.format, table.text, table.encoding],
    }
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(target.with_name(f".{target.name}.lock"), timeout=0))
        except Timeout:
            raise UserError(f"{target}: another process is writing it") from None
        done = _resume(part, state, key)
        if bar:
            bar.resume(done)
        _answer(classifier, table, part, state, key, done, bar)
        if digest(source) != key["source"]:
            raise UserError(f"{source} changed while it was read, so the answers are not of it; run again")
        summary = _join(table, part, target, kind, done)
        part.unlink()
        state.unlink()
    target.with_name(f".{target.name}.lock").unlink(missing_ok=True)
    return summary


def answers(classifier: Classifier, texts: Sequence[object]) -> list[Answer | None]:
    """The answer to each text, None where there is none: null, or blank."""
    places = [place for place, text in enumerate(texts) if text is not None and str(text).strip()]
    found: list[Answer | None] = [None] * len(texts)
    if places:
        for place, answer in zip(places, classifier.predict(str(texts[place]) for place in places), strict=True):
            found[place] = answer
    return found


def record(answer: Answer | None) -> Row:
    """An answer as JSON has it."""
    return dict.fromkeys(FIELDS) if answer is None else asdict(answer)


def _resume(part: Path, state: Path, key: Mapping[str, Any]) -> int:
    """How many answers of exactly this work there are; what was written behind them is cut off."""
    try:
        left = json.loads(state.read_text(encoding="utf-8"))
        size = part.stat().st_size
    except (OSError, ValueError):
        return 0
    if left["key"] != key or size < left["bytes"]:
        return 0
    with part.open("r+b") as stream:
        stream.truncate(left["bytes"])
    return int(left["rows"])


def _answer(
    classifier: Classifier,
    table: Table,
    part: Path,
    state: Path,
    key: Mapping[str, Any],
    done: int,
    bar: Bar | None,
) -> None:
    """Append the answers that are missing, a JSON array a row, and note after each chunk how far they are whole."""
    with part.open("ab" if done else "wb") as stream:
        for chunk in table.chunks(skip=done):
            for answer in answers(classifier, [row.get(table.text) for row in chunk]):
                said = list(record(answer).values())
                stream.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")
            stream.flush()
            done += len(chunk)
            write_json(state, {"key": dict(key), "rows": done, "bytes": stream.tell()})
            if bar:
                bar.advance(len(chunk))


def _join(table: Table, part: Path, target: Path, kind: str, resumed: int) -> Summary:
    """Write the rows with their answers to the target."""
    skipped = abstained = truncated = 0
    labels: dict[str, int] = {}
    names = columns_of(table)
    with replacing(target) as partial, part.open(encoding="utf-8") as lines, Writer(partial, kind, table) as writer:
        for chunk in table.chunks():
            said = [dict(zip(FIELDS, json.loads(next(lines)), strict=True)) for _ in chunk]
            writer.write(
                [
                    row | {names[field]: value for field, value in answer.items()}
                    for row, answer in zip(chunk, said, strict=True)
                ]
            )
            for answer in said:
                skipped += answer["label"] is None
                abstained += bool(answer["abstained"])
                truncated += bool(answer["truncated"])
                if answer["label"] is not None:
                    labels[answer["label"]] = labels.get(answer["label"], 0) + 1
    return Summary(
        rows=table.rows,
        skipped=skipped,
        resumed=resumed,
        abstained=abstained,
        truncated=truncated,
        labels=dict(sorted(labels.items(), key=lambda item: -item[1])),
        renamed={field: name for field, name in columns_of(table).items() if field != name},
    )


def pipe(classifier: Classifier, source: IO[str], target: IO[str], *, format: str) -> int:
    """Label what comes through a pipe, some rows at a time; an object a line goes out.

    Args:
        format: `txt`, a text a line, or `jsonl`, an object with a `text` a line.

    Returns:
        The number of rows.

    Raises:
        UserError: a line is no object.
    """
    rows = inputs.lines(source, format)
    count = 0
    while chunk := list(itertools.islice(rows, PIPED)):
        for row, answer in zip(chunk, answers(classifier, [row.get("text") for row in chunk]), strict=True):
            said = {TAKEN + field if field in row else field: value for field, value in record(answer).items()}
            target.write(json.dumps(row | said, ensure_ascii=False) + "\n")
        target.flush()
        count += len(chunk)
    return count
