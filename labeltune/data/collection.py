"""Collection of one data set's rows in one format, so that later stages do not depend on all of data/raw."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from labeltune.config.data import Dataset
from labeltune.data.discovery import find_source
from labeltune.data.loading import pin_revision, read_split
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import read_json, replacing, unchanged, untouched, write_json

TABLES = ("all", "train", "validation", "test")
SOURCE, CORRECTIONS = "source.json", "corrections.jsonl"


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The rows of a data set before any cleaning."""

    frames: dict[str, pd.DataFrame]
    """Table or split -> id, text (or None), label (raw, or None), as `read_split` returns them."""
    source: dict[str, Any]
    """Source of the rows, for the records."""
    corrections: bytes
    """Content of the file that `prepare.corrections` names; empty if it is null."""

    @classmethod
    def read(cls, folder: Path) -> "Collected":
        """Read the files that `collect` wrote."""
        corrections = folder / CORRECTIONS
        return cls(
            frames={name: _read_rows(_file(folder, name)) for name in TABLES if _file(folder, name).is_file()},
            source=read_json(folder / SOURCE),
            corrections=corrections.read_bytes() if corrections.is_file() else b"",
        )


def collect(dataset: Dataset, corrections: str | None, folder: Path) -> dict[str, int]:
    """Read a data set from its files, archive or the Hub, and write only its rows to a folder.

    Args:
        dataset: The data set as its settings describe it.
        corrections: The file that `prepare.corrections` names, or None.
        folder: The folder to write, which is replaced as a whole.

    Returns:
        Table or split -> number of rows.

    Raises:
        UserError: A file is missing, can't be read as declared, or changed while it was read.
    """
    dataset = pin_revision(find_source(dataset))
    given = [name for name in TABLES if getattr(dataset, name) is not None]
    added = correction_file(corrections)
    files = Path(dataset.folder) if dataset.folder and dataset.source == "files" else None
    with replacing(folder) as partial:
        partial.mkdir()
        counts = {}
        with untouched(files), unchanged(added):
            for name in given:
                frame = read_split(dataset, name)
                _write_rows(_file(partial, name), frame)
                counts[name] = len(frame)
            for path in added.values():
                (partial / CORRECTIONS).write_bytes(path.read_bytes())
        write_json(partial / SOURCE, dataset.provenance())
    return counts


def correction_file(corrections: str | None) -> dict[str, Path]:
    """Return the file that `prepare.corrections` names, under the key `corrections`; empty if it is null.

    Raises:
        UserError: there is no such file.
    """
    if corrections is None:
        return {}
    path = Path(corrections)
    if not path.is_file():
        raise UserError(
            f"prepare.corrections: no file {path}; `labeltune chat` writes it, or set the key to null to train without"
        )
    return {"corrections": path}


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"


def _write_rows(path: Path, frame: pd.DataFrame) -> None:
    """Write a JSON object per row; a text's own line ends are escaped, so that a line is a row."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row_id, text, label in frame.itertuples(index=False, name=None):
            row = {"id": row_id, "text": text, "label": label}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _read_rows(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8", newline="\n") as stream:
        rows = [json.loads(line) for line in stream]
    # As objects: pandas would turn None into NaN.
    return pd.DataFrame({name: [row[name] for row in rows] for name in ("id", "text", "label")}, dtype=object)
