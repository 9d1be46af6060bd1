"""Corrections: what people say a text's label should be, kept by the chat and learnt from by `prepare`."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from labeltune.data import clean
from labeltune.errors import UserError
from labeltune.gates import EXAMPLES, gate_across, gate_added
from labeltune.labels import LabelSet
from labeltune.ledger import CORRECTIONS, Frames, Ledger
from labeltune.params import Prepare

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


def append(path: Path, correction: Correction) -> None:
    """Add a line to the file, on the disk when this returns; a line that a crash cut off does not swallow it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(correction), ensure_ascii=False).encode() + b"\n"
    with path.open("a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        stream.write(line)  # at the file's end, wherever another process has put it meanwhile
        stream.flush()
        os.fsync(stream.fileno())


def given(settings: Prepare) -> dict[str, Path]:
    """The file that `prepare.corrections` names, by what it is; nothing where it is null.

    Raises:
        UserError: there is no such file.
    """
    if settings.corrections is None:
        return {}
    path = Path(settings.corrections)
    if not path.is_file():
        raise UserError(
            f"prepare.corrections: no file {path}; `labeltune chat` writes it, or set the key to null to train without"
        )
    return {CORRECTIONS: path}


def read(path: Path, labels: LabelSet) -> pd.DataFrame:
    """Read corrections as rows with the columns id, text, label; of several for one text the last one counts.

    Raises:
        UserError: a line is no correction, or its label is not one of the classes.
    """
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            row = _parsed(line, f"{path}:{number}")
            if row["label"] not in labels.names:
                raise UserError(
                    f"{path}:{number}: {row['label']!r} is not one of the classes: {list(labels.names)[:EXAMPLES]}; "
                    "mend or delete the line"
                )
            rows.pop(row["text"], None)
            rows[row["text"]] = {"id": f"{path.name}:{number}", "text": row["text"], "label": row["label"]}
    if not rows:
        raise UserError(f"prepare.corrections: {path} holds no corrections; set the key to null to train without")
    return pd.DataFrame(list(rows.values()), dtype=object)


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("text"), str) and isinstance(row.get("label"), str):
            return row
    except ValueError:
        pass
    raise UserError(f'{where}: expected {{"text": "...", "label": "..."}}; mend or delete the line')


def add(frames: Frames, rows: pd.DataFrame, settings: Prepare, ledger: Ledger) -> Frames:
    """Add corrections to the training rows; validation and test rows stay exactly as they are without them.

    What repeats a validation or test row, and what stands in the training rows already, goes through the gates that
    all rows go through. They come on top of `balance` and `train_rows`, which choose among the data set's own rows.
    """
    rows = clean({CORRECTIONS: rows}, settings, None, ledger)[CORRECTIONS]
    own = Ledger()  # what these gates find between the other splits is in the books already
    rows = gate_across(frames | {"train": rows}, settings, own, None)["train"]
    for counts, seen in ((ledger.found, own.found), (ledger.dropped, own.dropped)):
        for reason, splits in seen.items():
            counts[reason][CORRECTIONS] += splits["train"]
    return frames | {"train": gate_added(frames["train"], rows, settings, CORRECTIONS, ledger)}
