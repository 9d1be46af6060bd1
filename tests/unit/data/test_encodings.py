"""Encodings: the declared one is read strictly, and the likely one is proposed from short, real texts."""

import codecs
import gzip
from pathlib import Path

import pytest

from labeltune.data.encodings import likely_encoding, likely_encodings, read_lines
from labeltune.runtime.errors import UserError

TEXTS = {
    "cp932": [
        "本文,ラベル\nこの商品はとても良かったです,良い\n",
        "text,label\n配送が遅い,悪い\n",
        "text,label\nすごく便利,良\n最悪でした,悪\n",
        "text,label\n全然ダメ。返品したい,ネガティブ\n",
    ],
    "cp949": [
        "text,label\n이 영화 정말 재미있어요,긍정\n",
        "문장,분류\n별로예요,부정\n",
        "text,label\n최고,좋음\n",
        "text,label\n배송이 너무 늦어요 쓸게 없네요 뷁,나쁨\n",
    ],
    "gb18030": [
        "text,label\n这家酒店很好,好评\n房间太小了,差评\n",
        "文本,标签\n不错,好\n",
        "text,label\n中文评论内容,好\n",
        "text,label\n物流很快，包装完好。,正面\n客服态度差！,负面\n",
        "text,label\nit was “fine”,ok\n",
    ],
    "big5": [
        "text,label\n這家飯店很好,好評\n",
        "文字,標籤\n房間太小了,差評\n",
        "text,label\n送貨很快，謝謝。,正面\n",
    ],
    "cp1252": [
        "text,label\nok,ok\ncafé au lait,gut\n",
        "text,label\nDas Zimmer war schön und groß,gut\n",
        "text,label\nit’s fine,good\n",
        "text,label\n“great”,good\n",
        "text,label\nel niño está feliz,sí\n",
        "text,label\nÄrger über Öl,schlecht\n",
        "text,label\n5 € teuer,x\n",
        "text,label\nÀ éviter,non\n",
        "text,label\n¿qué tal?,a\n",
        "text,label\nblåbærgrød på øen,ok\n",
    ],
    "cp1251": ["text,label\nочень хороший отель,хорошо\n", "текст,метка\nплохо,минус\n", "text,label\nОтлично!,Да\n"],
    "koi8-r": ["text,label\nочень хороший отель,хорошо\n", "text,label\nплохо,минус\n"],
    "cp1253": ["text,label\nπολύ καλό ξενοδοχείο,καλό\n"],
    "cp1250": ["text,label\npokój był bardzo mały i zły,źle\n"],
}
TEXTS["euc_jp"] = TEXTS["cp932"]
CASES = [(encoding, text) for encoding, texts in TEXTS.items() for text in texts]


@pytest.mark.parametrize(("encoding", "text"), CASES)
def test_the_likely_encoding_of_a_short_text(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(encoding))
    found, guessed = likely_encoding(path)
    assert (found, guessed) == (encoding, True)
    assert path.read_bytes().decode(found) == text


@pytest.mark.parametrize(("encoding", "text"), CASES)
def test_a_file_in_another_encoding_is_refused_with_the_likely_one(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(
        UserError, match=rf"a\.csv:\d: byte \d+ .* is not utf-8; it is {encoding}.* \(guessed\)"
    ) as caught:
        list(read_lines(path, "utf-8", "conf/datasets/mine.yaml"))
    assert f"set encoding: {encoding} in conf/datasets/mine.yaml" in str(caught.value)
    with pytest.raises(UserError, match=f"give --encoding {encoding}$"):
        list(read_lines(path, "utf-8", None))


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF32_BE])
def test_a_mark_or_utf8_is_no_guess(tmp_path: Path, mark: bytes) -> None:
    codec = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le"}.get(mark, "utf-32-be")
    for content in (mark + "文本".encode(codec), "文本,ok".encode(), b"plain"):
        (tmp_path / "a").write_bytes(content)
        assert likely_encoding(tmp_path / "a") == ("utf-8", False)
    (tmp_path / "a").write_bytes(mark + "文本".encode(codec))
    assert list(read_lines(tmp_path / "a", "gb18030", None)) == ["文本"]


def test_letters_far_below_in_a_compressed_file_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" + b"plain,ok\n" * 50_000 + "schöne Größe,gut\n".encode("cp1252")))
    assert likely_encoding(path) == ("cp1252", True)


def test_no_encoding_is_proposed_for_what_is_no_text(tmp_path: Path) -> None:
    assert likely_encodings(b"a\x00\xff\x81") == []
    (tmp_path / "a.bin").write_bytes(b"a\x00\xff\x81")
    with pytest.raises(UserError, match="in none of the usual encodings: it is damaged or not text"):
        likely_encoding(tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"--encoding: 'utf-9' is unknown; usual are utf-8, .*euc_jp"):
        list(read_lines(tmp_path / "a.bin", "utf-9", None))
