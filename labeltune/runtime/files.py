"""Output files, which are written atomically and reproducibly, and locks between processes."""

import ctypes
import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
    """Return the main repository, also in queued and temporary experiments, whose folders DVC deletes."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path` that takes its place if the block succeeds, and vanishes if not.

    The new content is on the disk before the old one is deleted. In no moment is neither there: a kill or a power cut
    leaves the one or the other.

    Args:
        durable: whether to wait for the disk; not for what is verified when it is read and can be made again.

    Raises:
        UserError: a file would replace a folder, or a folder a file.
    """
    changed = [path.parent, *(folder.parent for folder in path.parents if not folder.exists())]
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{_owner()}.part")
    try:
        yield temporary
        if path.exists() and path.is_dir() != temporary.is_dir():
            found, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
            raise UserError(f"{path} is a {found}, and a {wanted} is to be written there: name another one")
        if durable:
            sync(temporary)
        _put(temporary, path)
        if durable:
            for folder in changed:
                sync_entry(folder)
    finally:
        _delete(temporary)


def _put(new: Path, path: Path) -> None:
    """Move a file or folder to its place; the old folder, if there was one, has the name of the new one then."""
    if not path.is_dir():
        os.replace(new, path)
    elif not _exchange(new, path):
        old = path.with_name(f".{path.name}.{_owner()}.old")
        shutil.move(path, old)  # which copies what can't be renamed, as a folder of a container's image
        try:
            os.replace(new, path)
        except BaseException:
            os.replace(old, path)
            raise
        sync_entry(path.parent)
        os.replace(old, new)


AT_FDCWD, RENAME_EXCHANGE = -100, 2


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step, where the system and the file system can; return whether it was done."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # the C library may be another one than GNU's
    names = os.fsencode(one), os.fsencode(other)
    return rename is not None and rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


def sync(path: Path) -> None:
    """Have a file, or a folder with all that it holds, on the disk."""
    for each in (*path.rglob("*"), path):
        if not each.is_symlink():
            sync_entry(each)


def sync_entry(path: Path) -> None:
    """Have a file's bytes, or a folder's entries, on the disk; where folders can't be synced, that is the system's."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


LEFT = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)\.(?P<kind>part|old)", re.DOTALL)
ABANDONED_SECONDS = 7 * 24 * 3600.0
"""What a process of another machine wrote, which can't be asked for, is left alone for so long after the last write."""


def sweep(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes left half-written beside a file or folder of this name, or beside any.

    An old folder that was set aside and whose successor did not come takes its place again.
    """
    for left in folder.iterdir():
        found = LEFT.fullmatch(left.name)
        if found is None or name not in (None, found["name"]) or not _abandoned(left, found):
            continue
        if found["kind"] == "old" and not (folder / found["name"]).exists():
            with suppress(FileNotFoundError):  # another process did it
                os.replace(left, folder / found["name"])
        else:
            _delete(left)


def _abandoned(left: Path, owner: re.Match[str]) -> bool:
    """Whether the process that wrote something has ended, as far as can be told."""
    if owner["host"] == _host():
        return not _runs(int(owner["pid"]), int(owner["started"]))
    try:
        latest = max(each.lstat().st_mtime for each in (left, *left.rglob("*")))
    except FileNotFoundError:  # it is being written
        return False
    return time.time() - latest > ABANDONED_SECONDS


def _owner() -> str:
    """Name this process for what it is writing: its id alone may be another's, later or on another machine."""
    own = psutil.Process()
    return f"{_host()}-{own.pid}-{int(own.create_time())}"


@cache
def _host() -> str:
    """The machine or container whose processes can be asked for by their id, as 8 hexadecimal digits."""
    known = [platform.node()]
    with suppress(OSError):
        known.append(Path("/etc/machine-id").read_text(encoding="ascii"))
    with suppress(OSError):
        known.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:8]


def _runs(process: int, started: float) -> bool:
    """Whether a process of this machine lives; an ended one's id may have passed to another, which started later."""
    try:
        return abs(psutil.Process(process).create_time() - started) < CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _delete(path: Path) -> None:
    """Delete a file or folder; what can't be deleted yet, as an open file on Windows or NFS, goes at a later sweep."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 without changing line ends."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write sorted JSON; an undefined number must be given as None, never as NaN."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False) + "\n")


class CsvStream(io.TextIOWrapper):
    r"""A UTF-8 file for the csv module's writers with the line terminator `\r\n`; its lines end with `\n`.

    The module quotes fields with characters of the line terminator. A lone carriage return must be quoted too, because
    its reader, pandas and spreadsheets treat it as the end of a row.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("wb"), encoding="utf-8", newline="")

    def write(self, line: str) -> int:
        """Write one row."""
        return super().write(line.removesuffix("\r\n") + "\n")


def write_metrics(path: Path, figures: dict[str, Any]) -> None:
    """Write sorted JSON in ASCII, labels in other scripts escaped; an undefined number must be given as None.

    DVC treats a file as binary, and refuses it as metrics, if over 30% of its first 512 bytes are not ASCII.
    """
    write_text(path, json.dumps(figures, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that `write_json` or `write_metrics` wrote."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_table(path: Path, frame: "pd.DataFrame") -> None:
    """Write a CSV file in UTF-8 with standard quoting, from which every text and number can be read back exactly."""
    with replacing(path) as temporary, CsvStream(temporary) as stream:
        frame.to_csv(stream, index=False, lineterminator="\r\n")


def read_prepared(path: Path) -> "pd.DataFrame":
    """Read a CSV file of `prepare` with all values as text."""
    import pandas as pd  # takes half a second to import, and is not needed for prediction

    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")


def read_predictions(source: Path | IO[str]) -> "pd.DataFrame":
    """Read a CSV file of predictions: ids, texts, labels and predictions as text, figures as numbers."""
    import pandas as pd

    text = dict.fromkeys(("id", "text", "label", "prediction", "model"), str)
    return pd.read_csv(source, dtype=text, keep_default_na=False, encoding="utf-8")


def probabilities(rows: "pd.DataFrame", names: Sequence[str]) -> NDArray[np.float64]:
    """Return the calibrated probabilities of a table of predictions, `[rows, num_labels]`."""
    return rows[[f"p_{name}" for name in names]].to_numpy(dtype=np.float64)


def digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


RACY_SECONDS = 2.0
"""Age in seconds below which a file may change again without a change of its modification time."""


def known_digest(path: Path) -> str:
    """Return the sha256 of a file, computed once per process while size, modification time and inode are unchanged."""
    stat = path.stat()
    if abs(time.time() - stat.st_mtime) < RACY_SECONDS:
        return digest(path)
    return _digest_of(path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@cache
def _digest_of(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """Return the sha256 of a file; the other arguments distinguish its versions in the cache."""
    return digest(path)


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the size in bytes and the sha256 of each file in a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": known_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def damage(folder: Path, listed: Mapping[str, Mapping[str, Any]], *, alone: bool = False) -> str | None:
    """Return in which file a folder differs from the list of `list_files`; None if it does not.

    Args:
        alone: whether the folder must not have other files.
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
    return next((f"{name} does not belong to it" for name in others if name not in listed), None)


@contextmanager
def unchanged(files: Mapping[str, Path]) -> Iterator[dict[str, str]]:
    """Yield name -> sha256 of a stage's inputs, and check at the end that they are unchanged.

    DVC hashes inputs when a stage has ended, so it would record a file that was edited meanwhile as the input.

    Raises:
        UserError: a file changed or vanished during the block.
    """
    before = {name: digest(path) for name, path in files.items()}
    yield before
    for name, path in files.items():
        if not path.is_file() or digest(path) != before[name]:
            raise UserError(f"{path} changed while it was in use, so the result is not valid for it; run again")


@contextmanager
def untouched(folder: Path | None) -> Iterator[None]:
    """Check that no file in a folder, which may be too large to hash twice, changes while the block reads it.

    Raises:
        UserError: a file was changed, added or deleted during the block.
    """
    before = _stamps(folder)
    yield
    after = _stamps(folder)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if changed:
        raise UserError(f"{changed[0]} changed while it was read, so the result is not valid for it; run again")


def _stamps(folder: Path | None) -> dict[Path, tuple[int, int]]:
    """Return the size and modification time of each file."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder else []
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def defined(value: float) -> float | None:
    """Return None for NaN, so that an undefined figure is null in JSON."""
    return None if math.isnan(value) else float(value)


POLL_SECONDS = 0.2
CLOCK_SECONDS = 2.0


@contextmanager
def held(path: Path, busy: Callable[[int | None], None]) -> Iterator[None]:
    """Hold the lock `path` for the block; the system releases it when the process ends.

    Args:
        busy: called with the id of another process that holds the lock, if it is known. If it raises an error, the
            lock is not awaited.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        busy(_holder(path))
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        with replacing(_note(path), durable=False) as note:
            note.write_text(_owner(), encoding="ascii")
        yield
    finally:
        _note(path).unlink(missing_ok=True)
        lock.release()


def _note(path: Path) -> Path:
    """Return the file that names the holder, which is separate because the lock file can't be replaced."""
    return path.with_suffix(".holder")


def _holder(path: Path) -> int | None:
    """Process id of the lock's holder; None where its note is missing, or of a process that ended or runs elsewhere.

    A killed holder's id may have passed to a bystander, whom nobody should be told to stop.
    """
    try:
        host, process, started = _note(path).read_text(encoding="ascii").split("-")
        return int(process) if host == _host() and _runs(int(process), int(started)) else None
    except (OSError, ValueError):
        return None
