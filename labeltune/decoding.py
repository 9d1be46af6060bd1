"""Decoding of text files: strictly in the declared encoding, with errors that name a better one."""

import codecs
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from labeltune.errors import UserError

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WIDE = ("gb18030", "big5", "shift_jis", "euc_kr")
SNIFFED = 1 << 16


def read_lines(path: Path, encoding: str, conf: str) -> Iterator[str]:
    """Yield a text file's lines with their ends, as the csv module wants them.

    Args:
        path: The file; its byte order mark, if any, decides over `encoding`.
        encoding: The declared encoding, or several as in `codec_of`.
        conf: The file with the key `encoding`, for the messages.

    Raises:
        UserError: The encoding is unknown, some byte is not in it, or there is a NUL byte.
    """
    codec = codec_of(path, encoding, conf)
    try:
        with path.open(encoding=codec, newline="") as handle:
            for number, line in enumerate(handle, 1):
                if "\0" in line:
                    raise UserError(_nul(path, number, codec, conf))
                yield line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeDecodeError:
        raise UserError(_undecodable(path, codec, conf)) from None


def read_text(path: Path, encoding: str, conf: str) -> str:
    """Return a whole text file; errors are those of `read_lines`."""
    return "".join(read_lines(path, encoding, conf))


def codec_of(path: Path, encoding: str, conf: str) -> str:
    """Return the codec to read with: that of the byte order mark, else the declared one.

    Args:
        path: The file.
        encoding: One encoding, or several as in `utf-8, latin-1`: the first that reads the whole file is
            taken, for collections whose files differ.
        conf: The file with the key `encoding`, for the messages.

    Raises:
        UserError: Python knows no such text encoding.
    """
    with path.open("rb") as handle:
        head = handle.read(4)
    for mark, codec in MARKS.items():
        if head.startswith(mark):
            return codec
    declared = [_known(name.strip(), conf) for name in encoding.split(",")]
    for codec in declared[:-1]:
        try:
            path.read_text(encoding=codec)
        except UnicodeDecodeError:
            continue
        return codec
    return declared[-1]


def _known(encoding: str, conf: str) -> str:
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except LookupError:
        raise UserError(
            f"{conf}: encoding: {encoding!r} is unknown; usual are utf-8, utf-16, latin-1, cp1252, {', '.join(WIDE)}"
        ) from None


def _nul(path: Path, number: int, codec: str, conf: str) -> str:
    with path.open("rb") as handle:
        wider = _utf16(handle.read(SNIFFED))
    hint = f"it looks like UTF-16: set encoding: {wider} in {conf}" if wider else "the file is damaged or not text"
    return f"{path}:{number}: a NUL byte, read as {codec}; {hint}"


def _undecodable(path: Path, codec: str, conf: str) -> str:
    data = path.read_bytes()
    try:
        # The codec that drops the mark counts its offsets from behind it.
        data.decode("utf-8" if codec == "utf-8-sig" else codec)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(codec, errors="ignore")
        number = len(re.findall(r"\r\n|\r|\n", before)) + 1
        found = f"{path}:{number}: byte {error.start} (0x{data[error.start]:02x}) is not {codec}"
    else:
        raise AssertionError(f"{path} changed while it was read")
    able = _decodable(data, besides=codec)
    if not able:
        return f"{found}, and none of the usual encodings reads the file: it is damaged or not text ({conf})"
    return f"{found}; the file can be read as {', '.join(able)}: set encoding: {able[0]} in {conf}"


def likely_encoding(path: Path) -> str:
    """The encoding that a text file most likely is in.

    Raises:
        UserError: it is in none of the usual ones.
    """
    data = path.read_bytes()
    if any(data.startswith(mark) for mark in MARKS):
        return "utf-8"  # the mark decides over what is declared
    if b"\0" not in data and _reads(data, "utf-8"):
        return "utf-8"
    able = _decodable(data, besides="")
    if not able:
        raise UserError(f"{path} is in none of the usual encodings: it is damaged or no text")
    return able[0]


def _decodable(data: bytes, besides: str) -> list[str]:
    """List the usual encodings that read all the bytes into assigned characters, the likeliest first."""
    runs = re.findall(rb"[\x80-\xff]+", data)
    # Accented letters stand alone between ASCII ones, the bytes of Chinese or Korean in pairs and more.
    accents = sum(len(run) for run in runs) < 1.5 * len(runs)
    wider = _utf16(data[:SNIFFED])
    usual = [wider] if wider else ["utf-8", "cp1252", *WIDE] if accents else ["utf-8", *WIDE, "cp1252"]
    able = [codec for codec in usual if codec != besides and _reads(data, codec)]
    # Every byte is a character of latin-1: worth a word only where nothing else fits.
    return able[:3] if able or b"\0" in data or besides == "iso8859-1" else ["latin-1"]


def _reads(data: bytes, codec: str) -> bool:
    try:
        characters = set(data.decode(codec))
    except UnicodeDecodeError:
        return False
    return all(unicodedata.category(character) not in ("Co", "Cn") for character in characters)


def _utf16(data: bytes) -> str | None:
    """ASCII characters, of which every table has some, are half NUL bytes in UTF-16."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if max(even, odd) < max(4, len(data) // 100) or min(even, odd) > max(even, odd) // 10:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"
