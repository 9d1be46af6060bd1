"""Locks between processes that name their holder."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from labeltune.outputs import write_json

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
