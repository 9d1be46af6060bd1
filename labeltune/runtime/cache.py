"""The cache of archives, of what is taken out of them and of converted models; each use verifies the files."""

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
    """Return the folder of everything fetched or converted: LABELTUNE_CACHE, or `~/.cache/labeltune`."""
    chosen = os.environ.get("LABELTUNE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "labeltune"


def cached_folder(name: str, what: str, fill: Callable[[Path], object]) -> Path:
    """Return a folder of the cache whose files are what they were when it was filled; fill it where it is not.

    A folder that is whole is used without a lock and without a write, so that the cache may lie on a read-only disk.
    A damaged one stays until another has been filled.

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
        # Filled by a version that listed nothing; only who may write can fill it anew.
        say(f"{folder}: {UNLISTED}, and the cache can't be written: used without verifying it")
        return folder
    with writing_cache(what), holding(folder.with_name(f".{folder.name}.lock"), what):
        problem = _damage(folder)
        if problem is not None:
            if folder.exists():
                say(f"{folder} is not used ({problem}): filled anew")
            with replacing(folder) as partial:
                fill(partial)
                # Before the folder takes its place: a list without its folder does no harm.
                list_folder(partial, folder)
    return folder


def list_folder(folder: Path, place: Path) -> None:
    """Write down size and sha256 of each file of a folder, beside the place in the cache that it is for."""
    listed: dict[str, Any] = {"files": list_files(folder)}
    write_json(_list(place), listed | {SEAL: sha256(listed)})


def _list(folder: Path) -> Path:
    """The list of a folder's files: beside it, since whoever reads the folder reads all that it holds."""
    return folder.with_name(f".{folder.name}.json")


def _damage(folder: Path) -> str | None:
    """Why a folder can't be used; None where each file, and no other, is what it was when the folder was filled."""
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
    """Hold a file lock, and say so when another process has it."""
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
    """Turn a failed write below the cache into a message that names what was to be written, and LABELTUNE_CACHE.

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
