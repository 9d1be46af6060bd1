"""Members of archives: which are copied out, and which are refused."""

import zipfile

import pytest

from labeltune.runtime.archives import extract
from labeltune.runtime.errors import UserError
from tests.packages import sdist, wheel


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
    with pytest.raises(UserError, match=r"same is in several of a-1\.whl, b-1\.whl"):
        extract(paths, ["same"], tmp_path / "out")


@pytest.mark.parametrize("name", ["a-1.whl", "a-1.tar.gz"])
def test_a_damaged_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(UserError, match=rf"{name} is damaged or no archive"):
        extract([tmp_path / name], ["x"], tmp_path / "out")
