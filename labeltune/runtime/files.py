"""Output files: written whole or not at all, the same bytes for the same content, and locks between processes."""

import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import psutil
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from labeltune.runtime.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def repository() -> Path:
    """The main repository, also in queued and temporary experiments, whose own folders DVC deletes."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` that takes its place if the block succeeds, and vanishes if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        if path.is_dir():
            if not temporary.is_dir():
                raise UserError(f"{path} is a folder, and a file is to be written there: name another one")
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        _delete(temporary)


def sweep(folder: Path, name: str = "*") -> None:
    """Delete what killed processes left half-written beside a file or folder of this name."""
    for left in folder.glob(f".{name}.*.part"):
        process = left.suffixes[-2][1:]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            _delete(left)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, line ends as they are."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write sorted JSON; an undefined number must be given as None, never as NaN."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False) + "\n")


class CsvStream(io.TextIOWrapper):
    r"""A UTF-8 file for the csv module's writers with the line terminator `\r\n`; its lines end with `\n`.

    The module quotes a field only for the characters of the line terminator, while its reader, pandas and spreadsheets
    take a lone carriage return for the end of a row as well.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("wb"), encoding="utf-8", newline="")

    def write(self, line: str) -> int:
        """Write one row."""
        return super().write(line.removesuffix("\r\n") + "\n")


def write_metrics(path: Path, figures: dict[str, Any]) -> None:
    """Write sorted JSON in ASCII, labels in other scripts escaped; an undefined number must be given as None.

    DVC takes a file for binary, and refuses it as metrics, where over 30% of its first 512 bytes are not ASCII.
    """
    write_text(path, json.dumps(figures, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` or `write_metrics` wrote."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_table(path: Path, frame: "pd.DataFrame") -> None:
    """Write a CSV file in UTF-8 with standard quoting that gives back every text; numbers keep every digit."""
    with replacing(path) as temporary, CsvStream(temporary) as stream:
        frame.to_csv(stream, index=False, lineterminator="\r\n")


def read_prepared(path: Path) -> "pd.DataFrame":
    """Read one of prepare's CSV files, every value as text."""
    import pandas as pd  # half a second, which predicting need not wait for

    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")


def read_predictions(source: Path | IO[str]) -> "pd.DataFrame":
    """Read one of the predictions' CSV files: ids, texts, labels and answers as text, figures as numbers."""
    import pandas as pd

    text = dict.fromkeys(("id", "text", "label", "prediction", "model"), str)
    return pd.read_csv(source, dtype=text, keep_default_na=False, encoding="utf-8")


def probabilities(rows: "pd.DataFrame", names: Sequence[str]) -> NDArray[np.float64]:
    """Return the calibrated probabilities of a table of predictions, `[rows, num_labels]`."""
    return rows[[f"p_{name}" for name in names]].to_numpy(dtype=np.float64)


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


RACY_SECONDS = 2.0
"""A file that changed this recently may change again without its time of change telling."""


def known_digest(path: Path) -> str:
    """sha256 of a file, computed once per process while its size, time of change and inode stay the same."""
    stat = path.stat()
    if abs(time.time() - stat.st_mtime) < RACY_SECONDS:
        return digest(path)
    return _digest_of(path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@cache
def _digest_of(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """The arguments after the first tell a file from what was there before it."""
    return digest(path)


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Path below a folder -> size in bytes and sha256, of each file in it."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": known_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def damage(folder: Path, listed: Mapping[str, Mapping[str, Any]], *, alone: bool = False) -> str | None:
    """Say in which file a folder differs from what `list_files` returned; None if it does not.

    Args:
        alone: whether the folder may hold no other file.
    """
    for name, kept in listed.items():
        try:
            size = (folder / name).stat().st_size
            if size != kept["bytes"]:
                return f"{name} has {size:,} of {kept['bytes']:,} bytes"
            if known_digest(folder / name) != kept["sha256"]:
                return f"{name} changed"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} can't be read: {error.strerror}"
    others = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if alone and path.is_file())
    return next((f"{name} is not a part of it" for name in others if name not in listed), None)


@contextmanager
def unchanged(files: Mapping[str, Path]) -> Iterator[dict[str, str]]:
    """Yield name -> sha256 of a stage's inputs, and see at the end that they are still the same.

    DVC hashes inputs when a stage has ended: what was edited meanwhile would pass for what the result was made from.

    Raises:
        UserError: a file changed or vanished during the block.
    """
    before = {name: digest(path) for name, path in files.items()}
    yield before
    for name, path in files.items():
        if not path.is_file() or digest(path) != before[name]:
            raise UserError(f"{path} changed while it was in use, so the result is not of it; run again")


@contextmanager
def untouched(folder: Path | None) -> Iterator[None]:
    """See that no file below a folder, which may be too large to hash twice, is written while the block reads it.

    Raises:
        UserError: a file changed, came or went during the block.
    """
    before = _stamps(folder)
    yield
    after = _stamps(folder)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        raise UserError(f"{changed[0]} changed while it was read, so the result is not of it; run again")


def _stamps(folder: Path | None) -> dict[Path, tuple[int, int]]:
    """File -> size and time of the last change."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder else []
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def defined(value: float) -> float | None:
    """None for NaN, so that JSON marks an undefined figure as null."""
    return None if math.isnan(value) else float(value)


POLL_SECONDS = 0.2
CLOCK_SECONDS = 2.0


@contextmanager
def held(path: Path, busy: Callable[[int | None], None]) -> Iterator[None]:
    """Hold the lock `path` for the block; the system frees it when the process ends, however it ends.

    Args:
        busy: called where another process holds the lock, with that one's id if it is known. If it raises, the lock
            is not waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        busy(_holder(path))
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        own = psutil.Process()
        write_json(_note(path), {"pid": own.pid, "started": own.create_time()})
        yield
    finally:
        _note(path).unlink(missing_ok=True)
        lock.release()


def _note(path: Path) -> Path:
    """The file that names the holder: beside the lock, because a lock's own file may not be rewritten whole."""
    return path.with_suffix(".holder.json")


def _holder(path: Path) -> int | None:
    """Process id of the lock's holder; None where its note is not there yet, or is of one that was killed.

    A killed holder's id may have passed to a bystander, whom nobody should be told to stop: its start tells.
    """
    try:
        note = json.loads(_note(path).read_bytes())
        started = psutil.Process(note["pid"]).create_time()
        return int(note["pid"]) if abs(started - note["started"]) < CLOCK_SECONDS else None
    except (OSError, ValueError, LookupError, TypeError, psutil.Error):
        return None
