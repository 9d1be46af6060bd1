"""Batch prediction: labelling files, which are written atomically; an interrupted run can be resumed."""

import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from labeltune.console.terminal import Bar
from labeltune.data.formats.rows import Row, as_text
from labeltune.data.normalization import is_blank
from labeltune.inference.artifact import MANIFEST
from labeltune.inference.classifier import Answer, Classifier
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import digest, replacing, write_json
from labeltune.serving.tables import FIELDS, WRITTEN, Table, Writer, columns_of, free, schema_of, to_json

SAVED_SECONDS = 1.0
"""Seconds after which predictions are synced to the disk, or after a chunk that takes longer."""
JOINED = 1 << 14
"""Number of rows that are written at a time: the size of a Parquet row group."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Summary of a labelled file."""

    rows: int
    """Number of rows written."""
    skipped: int
    """Number of rows without a text, which have no prediction."""
    resumed: int
    """Number of rows that an earlier run had labelled."""
    abstained: int
    """Number of predictions below the abstention threshold."""
    truncated: int
    """Number of truncated texts."""
    labels: dict[str, int]
    """Label -> number of predictions."""
    renamed: dict[str, str]
    """Field -> column that it is written to, if the rows already have a column of its name."""
    formulas: int = 0
    """Number of CSV cells that a spreadsheet would treat as formulas; with escaping, they are preceded by `'`."""


def kind_of(target: Path, source: Path) -> str:
    """Return the format of an output file, one of `WRITTEN`.

    Raises:
        UserError: its name has no known suffix, or it is the input.
    """
    kind = target.suffix.lower().removeprefix(".")
    if kind not in WRITTEN:
        raise UserError(f"{target}: name the output .{', .'.join(WRITTEN)}")
    if source.resolve() == target.resolve():
        raise UserError(f"{target} is the input: give the output another name")
    return kind


def answer_file(
    classifier: Classifier,
    table: Table,
    target: Path,
    bar: Bar | None = None,
    *,
    batch_tokens: int | None = None,
    escape_formulas: bool = False,
) -> Summary:
    """Label every row of a file, and write the rows with additional columns for the predictions, in their order.

    Predictions are first saved to a file next to the target. After an interruption the same call resumes after the last
    saved prediction, unless the rows, the classifier or the options have changed. The target is written when it is
    complete.

    Args:
        table: the rows.
        target: a file of one of `WRITTEN`.
        bar: progress bar of the rows.
        batch_tokens: as in `Classifier.predict`; a resumed run may have another value.
        escape_formulas: as in `Writer`.

    Raises:
        UserError: a file can't be read or written, or another process writes to the same target.
    """
    kind, source = kind_of(target, table.path), table.path
    if target.is_dir():
        raise UserError(f"{target} is a folder; name a file for the output")
    schema = schema_of(table) if kind == "parquet" else None
    target.parent.mkdir(parents=True, exist_ok=True)
    part, state, lock = (target.with_name(f".{target.name}.{name}") for name in ("answers", "state.json", "lock"))
    key = {
        "source": digest(source),
        "classifier": digest(classifier.folders[0] / MANIFEST),
        "options": [table.format, table.text, table.encoding],
    }
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(lock, timeout=0))
        except Timeout:
            raise UserError(f"{target}: another process is writing it") from None
        done = _resume(part, state, key)
        if bar:
            bar.resume(done)
        _answer(classifier, table, part, state, key, done, bar, batch_tokens)
        if digest(source) != key["source"]:
            raise UserError(f"{source} changed while it was read, so the predictions are not valid for it; run again")
        if bar:
            bar.note = f"writing {target}"
            bar.advance(0)
        with (
            replacing(target) as partial,
            Writer(partial, kind, table, schema, escape_formulas=escape_formulas) as writer,
        ):
            summary = _join(table, part, writer, done)
        for left in (state, part):
            left.unlink(missing_ok=True)
        with suppress(PermissionError):  # Windows deletes no open file; there the lock's release does it
            lock.unlink(missing_ok=True)
    return summary


def answers(
    classifier: Classifier,
    texts: Sequence[str | None],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Answer | None]:
    """Return the prediction for each text; None for a missing or blank text.

    Args:
        texts: the texts; None for a missing one.
        batch_tokens: as in `Classifier.predict`.
        progress: called with the number of texts done since the last call.
    """
    texts = [None if text is None or is_blank(text) else text for text in texts]
    places = [place for place, text in enumerate(texts) if text is not None]
    found: list[Answer | None] = [None] * len(texts)
    if places:
        given = [text for text in texts if text is not None]
        said = classifier.predict(given, batch_tokens=batch_tokens, progress=progress)
        for place, answer in zip(places, said, strict=True):
            found[place] = answer
    if progress:
        progress(len(texts) - len(places))
    return found


def record(answer: Answer | None) -> Row:
    """Return a prediction as a JSON object."""
    return {field: answer and getattr(answer, field) for field in FIELDS}


def answer_blocks(
    classifier: Classifier,
    blocks: Iterable[Sequence[Row]],
    target: IO[bytes],
    *,
    text: str,
    columns: Collection[str] = (),
    batch_tokens: int | None = None,
) -> int:
    """Label rows as they arrive and write them as JSON Lines with their predictions; each block is flushed.

    Args:
        text: the key of a row's text.
        columns: known keys of the rows; a field with such a name is written under another one.
        batch_tokens: as in `Classifier.predict`.

    Returns:
        The number of rows.
    """
    count = 0
    for block in blocks:
        texts = [as_text(row.get(text), text, "--text-column") for row in block]
        said = answers(classifier, texts, batch_tokens=batch_tokens)
        for row, answer in zip(block, said, strict=True):
            fields = {free(field, {*columns, *row}): value for field, value in record(answer).items()}
            target.write(_line(row | fields))
        target.flush()
        count += len(block)
    return count


def _resume(part: Path, state: Path, key: Mapping[str, Any]) -> int:
    """Return the number of saved predictions of this run; incomplete data after them is cut off."""
    try:
        left = json.loads(state.read_text(encoding="utf-8"))
        if left["key"] == key and part.stat().st_size >= left["bytes"]:
            os.truncate(part, left["bytes"])
            return int(left["rows"])
    except (OSError, ValueError):
        pass
    state.unlink(missing_ok=True)
    return 0


def _answer(
    classifier: Classifier,
    table: Table,
    part: Path,
    state: Path,
    key: Mapping[str, Any],
    done: int,
    bar: Bar | None,
    batch_tokens: int | None,
) -> None:
    """Append the missing predictions, one JSON array per row, and record how many are complete."""
    progress = bar.advance if bar else None
    with part.open("ab" if done else "wb") as stream:
        whole, saved = {"rows": done, "bytes": stream.tell()}, time.monotonic()

        def save() -> None:
            stream.flush()
            os.fsync(stream.fileno())
            write_json(state, {"key": dict(key), **whole})

        try:
            for chunk in table.chunks(skip=done):
                texts = table.values(chunk, table.text)
                said = answers(classifier, texts, batch_tokens=batch_tokens, progress=progress)
                stream.write(b"".join(_line(list(record(answer).values())) for answer in said))
                whole = {"rows": whole["rows"] + len(chunk), "bytes": stream.tell()}
                if time.monotonic() - saved > SAVED_SECONDS:
                    save()
                    saved = time.monotonic()
        finally:
            save()


def _line(content: object) -> bytes:
    return to_json(content).encode() + b"\n"


def _join(table: Table, part: Path, writer: Writer, resumed: int) -> Summary:
    """Write the rows with their predictions."""
    skipped = abstained = truncated = 0
    labels: dict[str, int] = {}
    names = columns_of(table)
    with part.open(encoding="utf-8") as lines:
        for chunk in table.chunks(size=JOINED):
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
        renamed={field: name for field, name in names.items() if field != name},
        formulas=writer.formulas,
    )
