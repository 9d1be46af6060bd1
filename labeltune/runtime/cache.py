"""The cache of archives, their members and converted models, whose files are verified at each use."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from labeltune.console.terminal import say
from labeltune.runtime.environment import sha256
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import damage, list_files, replacing, write_json

UNLISTED = "the list of its files is missing"
SEAL = "sha256"


def cache_dir() -> Path:
    """Return the folder of downloads and converted models: LABELTUNE_CACHE, or `~/.cache/labeltune`."""
    chosen = os.environ.get("LABELTUNE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "labeltune"


def cached_folder(name: str, what: str, fill: Callable[[Path], object]) -> Path:
    """Return a folder of the cache whose files are unchanged since it was filled; fill it if it is not there.

    An intact folder is used without a lock and without a write, so that the cache may be on a read-only disk. A damaged
    one is kept until another has been filled.

    Args:
        name: the folder, below the cache.
        what: what the folder holds, for messages.
        fill: writes the files into the folder that it is given, which does not exist yet.

    Raises:
        UserError: the folder is missing or damaged, and the cache cannot be written.
    """
    folder = cache_dir() / name
    problem = _damage(folder)
    if problem is None:
        return folder
    if folder.is_dir() and not os.access(folder.parent, os.W_OK):
        if problem != UNLISTED:
            raise UserError(
                f"{folder} is damaged ({problem}), and the cache can't be written: have `labeltune fetch` run by "
                "someone who may write it, or set LABELTUNE_CACHE to a folder that can be written"
            )
        # Filled by a version without a list; it can only be filled again where it can be written.
        say(f"{folder}: {UNLISTED}, and the cache can't be written: used without verifying it")
        return folder
    with writing_cache(what), holding(folder.with_name(f".{folder.name}.lock"), what):
        problem = _damage(folder)
        if problem is not None:
            if folder.exists():
                say(f"{folder} is not used ({problem}) and is filled again")
            with replacing(folder) as partial:
                fill(partial)
                # Before the folder is moved to its place: a list without a folder does no harm.
                list_folder(partial, folder)
    return folder


def list_folder(folder: Path, place: Path) -> None:
    """Write the size and sha256 of each file of a folder next to its place in the cache."""
    listed: dict[str, Any] = {"files": list_files(folder)}
    write_json(_list(place), listed | {SEAL: sha256(listed)})


def _list(folder: Path) -> Path:
    """Return the path of the list of a folder's files, which is next to it because readers read all of its files."""
    return folder.with_name(f".{folder.name}.json")


def _damage(folder: Path) -> str | None:
    """Return why a folder can't be used; None if it has exactly the files with which it was filled."""
    try:
        listed = json.loads(_list(folder).read_bytes())
        sealed = listed.pop(SEAL) == sha256(listed)
    except FileNotFoundError:
        return UNLISTED
    except (ValueError, LookupError, AttributeError, TypeError):
        sealed = False
    return damage(folder, listed["files"], alone=True) if sealed else f"{_list(folder).name} changed"


@contextmanager
def holding(lock: Path, what: str) -> Iterator[None]:
    """Hold a file lock, and print a message if another process holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = FileLock(lock)
    try:
        handle.acquire(timeout=0.5)
    except Timeout:
        say(f"{what}: waiting for another process that is fetching it")
        handle.acquire()
    try:
        yield
    finally:
        handle.release()


@contextmanager
def writing_cache(what: str) -> Iterator[None]:
    """Turn a failed write to the cache into a message that names the content and LABELTUNE_CACHE.

    Raises:
        UserError: The cache cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The cache {cache_dir()} cannot be written ({error.strerror or error}), and {what} is not in it: "
            "free some space, or set LABELTUNE_CACHE to a folder that can be written"
        ) from error
