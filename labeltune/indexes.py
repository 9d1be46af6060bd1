"""The package indexes of the user's own pip configuration, asked without running pip's builds."""

import ast
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.request import getproxies, proxy_bypass

import httpx2
from unearth import Link, PackageFinder
from unearth.auth import MultiDomainBasicAuth
from unearth.fetchers import Fetcher, PyPIClient

from labeltune.errors import UserError

# What a source that cannot be used raises: connection, status, address, broken page, unreadable folder.
SOURCE_ERRORS = (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """Where the user's pip looks for archives, and how it gets there."""

    index_url: str | None = None
    """The main index; None is the finder's own default."""
    extra_index_urls: tuple[str, ...] = ()
    """Further indexes."""
    find_links: tuple[str, ...] = ()
    """Folders, files and pages that list archives."""
    no_index: bool = False
    """Ask no index, only `find_links`."""
    trusted_hosts: tuple[str, ...] = ()
    """Hosts whose certificate is not checked."""
    cert: str | None = None
    """File or folder of certificate authorities."""
    client_cert: str | None = None
    """File with a client certificate and its key."""
    proxy: str | None = None
    """Proxy for every request; None takes the environment's."""
    timeout: float = 15.0
    """Seconds without an answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one source said about a requirement."""

    source: str
    """The source, without credentials."""
    links: tuple[Link, ...]
    """Archives of that name and version."""
    trouble: str | None
    """Why it has none, where it said so."""


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
    # pip's own precedence: a section for the command beats the global one, the environment beats both.
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
        # The client would reach a trusted host directly, past the proxy that the host may stand behind.
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
    # A stage runs unattended: a question for a password would hang it.
    session.auth = MultiDomainBasicAuth(prompting=False, index_urls=urls)
    return session


def search(indexes: Indexes, session: PyPIClient, requirement: str) -> Iterator[Answer]:
    """Ask one source after the other for a requirement such as `snownlp==0.12.3`, local ones first."""
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
    """Collects the finder's warnings, which say why a page was no help."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _finders(indexes: Indexes, session: PyPIClient) -> Iterator[PackageFinder]:
    """One finder per source, so that an unreachable one does not hide what another has."""
    # Typed by a protocol of requests' days, which its own client does not quite meet.
    fetcher = cast(Fetcher, session)
    # Data needs no matching Python or platform: nothing of the archive is run.
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
