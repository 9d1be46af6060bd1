"""Reading archives: copying named members of a wheel or a source archive."""

import difflib
import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from labeltune.runtime.errors import UserError

GLOB = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file inside an archive."""

    name: str
    """Path inside the archive; without the top folder of a source archive."""
    plain: bool
    """Whether it is a regular file, neither a link nor a device."""
    open: Callable[[], IO[bytes]]
    """Function that opens the file."""


def extract(archives: list[Path], members: list[str], destination: Path) -> None:
    """Copy the named members of wheels (.whl, .zip) and source archives (.tar.gz) under `destination`.

    Args:
        archives: The archives; a member may be in any one of them.
        members: Exact paths, folders (`data/`) or globs (`data/*.txt`, where `*` stays inside a folder).
        destination: Folder that receives them under their paths inside the archive.

    Raises:
        UserError: A member is missing, is in two archives, is a link, or would be written elsewhere.
    """
    listings: dict[Path, list[str]] = {}
    for archive in archives:
        with _open_members(archive) as found:
            listings[archive] = [member.name for member in found]
    every = [name for names in listings.values() for name in names]
    wanted: set[str] = set()
    for asked in members:
        matched = select(asked, every)
        if not matched:
            raise UserError(_missing(asked, listings))
        wanted.update(matched)
    twice = sorted(name for name in wanted if every.count(name) > 1)
    if twice:
        raise UserError(f"{twice[0]} is in several of {_names(archives)}: name a member that only one has")
    for archive in archives:
        with _open_members(archive) as found:
            for member in found:
                if member.name in wanted:
                    _copy(member, archive, destination)


def select(asked: str, names: list[str]) -> list[str]:
    """Return which of the names an exact path, a folder or a glob means, sorted.

    >>> select("data/*.txt", ["data/b.txt", "data/a.txt", "data/old/c.txt"])
    ['data/a.txt', 'data/b.txt']
    >>> select("data/old", ["data/b.txt", "data/old/c.txt"])
    ['data/old/c.txt']
    """
    if asked in names:
        return [asked]
    folder = asked.rstrip("/") + "/"
    inside = sorted(name for name in names if name.startswith(folder))
    if inside or not GLOB.intersection(asked):
        return inside
    parts = asked.split("/")
    return sorted(
        name for name in names if name.count("/") == len(parts) - 1 and all(map(fnmatchcase, name.split("/"), parts))
    )


@contextmanager
def _open_members(archive: Path) -> Iterator[list[Member]]:
    """List the members that are not folders; their `open` works inside the block.

    Raises:
        UserError: The file is not a supported archive, or is damaged.
    """
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as opened:
                yield _without_top(archive, [_in_zip(opened, info) for info in opened.infolist() if not info.is_dir()])
        elif archive.name.endswith((".tar.gz", ".tgz")):
            with tarfile.open(archive, "r:gz") as tar:
                yield _without_top(archive, [_in_tar(tar, info) for info in tar if not info.isdir()])
        else:
            raise UserError(f"{archive.name}: only wheels (.whl), .zip and .tar.gz are read")
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive.name} is damaged or no archive: {error}") from error


def _in_zip(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    # The upper half of the attributes is the Unix mode; writers on Windows leave it 0.
    kind = stat.S_IFMT(info.external_attr >> 16)
    return Member(name=info.filename, plain=kind in (0, stat.S_IFREG), open=lambda: opened.open(info))


def _in_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    def open_it() -> IO[bytes]:
        stream = tar.extractfile(info)
        assert stream is not None, "only plain files are opened"
        return stream

    return Member(name=info.name.removeprefix("./"), plain=info.isreg(), open=open_it)


def _without_top(archive: Path, members: list[Member]) -> list[Member]:
    """Remove the top folder NAME-VERSION of a source archive."""
    tops = {member.name.partition("/")[0] for member in members if "/" in member.name}
    if archive.suffix == ".whl" or len(tops) != 1 or any("/" not in member.name for member in members):
        return members
    return [Member(name=member.name.partition("/")[2], plain=member.plain, open=member.open) for member in members]


def _copy(member: Member, archive: Path, destination: Path) -> None:
    path = PurePosixPath(member.name)
    # Backslashes and colons are folders and drives on Windows, where the same archive may be read.
    outside = path.is_absolute() or ".." in path.parts or any(sign in member.name for sign in "\\:\0")
    target = destination / path
    if outside or not target.resolve().is_relative_to(destination.resolve()):
        raise UserError(f"{archive.name}: {member.name!r} would be written outside {destination}: refused")
    if not member.plain:
        raise UserError(f"{archive.name}: {member.name!r} is a link or device, not a plain file: refused")
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)


def _missing(asked: str, listings: dict[Path, list[str]]) -> str:
    every = [name for names in listings.values() for name in names]
    base = PurePosixPath(asked).name
    near = [name for name in every if PurePosixPath(name).name == base]
    near += [name for name in difflib.get_close_matches(asked, every, n=5, cutoff=0.5) if name not in near]
    shown = ", ".join(near[:5] or every[:5]) or "nothing"
    found = "near names" if near else f"of {len(every)} members the first are"
    return f"{_names(list(listings))}: no member {asked!r}; {found}: {shown}"


def _names(archives: list[Path]) -> str:
    return ", ".join(archive.name for archive in archives)
