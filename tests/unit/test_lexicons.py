from pathlib import Path

import pytest

from labeltune import archives, lexicons

SENSES = """\
glad%3:00:00:: 01361414 1 20
happy%3:00:00:: 01148283 1 37
happy%3:00:02:: 01361414 2 2
fast%3:00:01:: 00976508 1 18
quick%5:00:00:fast:00 00976508 1 9
quick%5:00:02:hurried:00 01270175 2 3
scores%1:23:00:: 13774404 1 5
dozens%1:23:00:: 13774404 1 4
after%4:02:00:: 00061203 1 9
afterward%4:02:00:: 00061203 1 9
rare%3:00:00:: 00000001 1 0
seldom%3:00:00:: 00000001 1 0
bank%1:17:01:: 09213565 1 20
side%1:17:01:: 09213565 1 1
bank%2:40:00:: 02343056 1 25
""".splitlines()


def test_english_synonyms_share_the_sense_that_each_mostly_has() -> None:
    assert lexicons.read_senses(SENSES) == {"fast": ["quick"], "quick": ["fast"]}


def test_chinese_synonyms_are_unambiguous_words_of_one_length() -> None:
    lines = ["Aa01A02= 人类 生人 全人类", "Aa01A03= 人手 人员 口", "Ba01A01# 人头 脑袋", "Ca01A01= 生人 陌路"]
    assert lexicons.read_cilin(lines) == {"人手": ["人员"], "人员": ["人手"]}


def test_homophones_are_the_commonest_of_their_sound() -> None:
    common = "\t".join("的地得德嘚锝脦淂惪恴棏底")
    table = lexicons.read_homophones([f"de\t{common}\t迪", "x\t1\t丽"])
    assert "迪" not in table
    assert table["的"][0] == "地"
    assert "丽" not in table


def test_variants_leave_out_what_has_only_itself() -> None:
    assert lexicons.read_variants(["发\t發 髮", "人\t人", ""]) == {"发": ["發", "髮"]}


def test_a_table_is_made_once_and_then_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    archive = tmp_path / "opencc-1.whl"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("opencc/dictionary/STCharacters.txt", "发\t發 髮\n")
    fetched: list[str] = []

    def fetch(requirement: str, sha256: str) -> Path:
        fetched.append(requirement)
        return archive

    monkeypatch.setattr(archives, "fetch_archive", fetch)
    for _ in range(2):
        lexicons.load.cache_clear()
        assert lexicons.traditional() == {"发": ["發", "髮"]}
    lexicons.load.cache_clear()
    assert fetched == ["opencc-python-reimplemented==0.1.7"]
