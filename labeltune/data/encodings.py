"""Opening text files: compressed ones, byte order marks, the declared encoding and the likely one."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from labeltune.runtime.errors import UserError

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LATIN = ("cp1252", "cp1250", "cp1254")
CYRILLIC_OR_GREEK = ("cp1251", "koi8-r", "cp1253")
# Of each double-byte encoding the lead bytes of its usual letters (syllables, kana, ideographs of the first level) and
# their least trail byte: text that is read in a wrong encoding consists of rare characters.
WIDE = {
    "gb18030": ((range(0xB0, 0xD8),), 0xA1),
    "big5": ((range(0xA4, 0xC7),), 0x40),
    "cp949": ((range(0xB0, 0xC9),), 0xA1),
    "cp932": ((range(0x82, 0x84), range(0x88, 0x98)), 0x40),
    "euc_jp": ((range(0xA4, 0xA6), range(0xB0, 0xD0)), 0xA1),
}
JAPANESE = ("cp932", "euc_jp")
KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
TYPOGRAPHY = "‘’“”„–—…•€£¡¿«»§°"
WIDE_PUNCTUATION = "“”‘’「」『』，。、！？：；（）《》【】・ー～…—"
CANDIDATES = ("cp1252", *WIDE, *LATIN[1:], *CYRILLIC_OR_GREEK)
"""Encodings that are considered for text that is not UTF-8; of equally likely ones, the first is taken."""
SNIFFED = 1 << 16
"""Number of bytes from which an encoding is guessed."""
MARGIN = 0.25
"""Difference from the best score from which an encoding is not mentioned."""
UNPACK: dict[bytes, Callable[..., Any]] = {
    rb"\x1f\x8b": gzip.open,
    rb"BZh[1-9]1AY&SY": bz2.open,
    rb"\xfd7zXZ\x00": lzma.open,
}
COMPRESSED = (".gz", ".bz2", ".xz")
"""Suffixes of compressed files, which follow that of the format: rows.csv.gz."""


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed if it is compressed with gzip, bzip2 or xz."""
    with path.open("rb") as handle:
        head = handle.read(10)
    unpack = next((opener for magic, opener in UNPACK.items() if re.match(magic, head)), None)
    return cast(IO[bytes], unpack(path, "rb")) if unpack else path.open("rb")


@contextmanager
def decompressing(path: Path) -> Iterator[None]:
    """Turn the errors of damaged compressed data into a message for the user.

    Raises:
        UserError: The data is damaged or cut off.
    """
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: the compressed data is damaged or cut off: {error}") from error


def read_bytes(path: Path) -> bytes:
    """Return a whole file, decompressed.

    Raises:
        UserError: The compressed data is damaged or cut off.
    """
    with decompressing(path), open_bytes(path) as handle:
        return handle.read()


def read_lines(path: Path, encoding: str, conf: str | None) -> Iterator[str]:
    """Yield a text file's lines with their ends, as the csv module wants them.

    Args:
        path: The file; its byte order mark, if any, takes precedence over `encoding`.
        encoding: The declared encoding, or several as in `codec_of`.
        conf: The file with the key `encoding`, for the messages; None if `--encoding` gives it.

    Raises:
        UserError: The encoding is unknown, some byte is not in it, or there is a NUL byte.
    """
    codec = codec_of(path, encoding, conf)
    try:
        with decompressing(path), io.TextIOWrapper(open_bytes(path), encoding=codec, newline="") as handle:
            for number, line in enumerate(handle, 1):
                if "\0" in line:
                    raise UserError(_nul(path, number, codec, conf))
                yield line.removeprefix("\ufeff") if number == 1 else line
    except UnicodeError as error:
        raise UserError(_undecodable(path, codec, conf, error)) from None


def read_text(path: Path, encoding: str, conf: str | None) -> str:
    """Return a whole text file; errors are those of `read_lines`."""
    return "".join(read_lines(path, encoding, conf))


def codec_of(path: Path, encoding: str, conf: str | None) -> str:
    """Return the codec to read with: that of the byte order mark, else the declared one.

    Args:
        path: The file.
        encoding: One encoding, or several as in `utf-8, latin-1`: each file is read with the first one that can
            decode it.
        conf: As in `read_lines`.

    Raises:
        UserError: Python knows no such text encoding.
    """
    declared = [text_codec(name.strip(), conf) for name in encoding.split(",")]
    with decompressing(path), open_bytes(path) as handle:
        head = handle.read(4)
    for mark, codec in MARKS.items():
        if head.startswith(mark):
            return codec
    for codec in declared[:-1]:
        try:
            read_bytes(path).decode(codec)
        except UnicodeError:
            continue
        return codec
    return declared[-1]


def text_codec(encoding: str, conf: str | None) -> str:
    """Return Python's name of an encoding.

    Raises:
        UserError: Python knows no such text encoding.
    """
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        usual = ", ".join(("utf-8", "utf-16", "latin-1", "cp1252", *WIDE))
        named = f"{conf}: encoding:" if conf else "--encoding:"
        raise UserError(f"{named} {encoding!r} is unknown; usual are {usual}") from None


def likely_encoding(path: Path) -> tuple[str, bool]:
    """Return the encoding that a text file most likely is in, and whether that is a guess.

    Raises:
        UserError: It is in none of the usual encodings.
    """
    data = read_bytes(path)
    if any(data.startswith(mark) for mark in MARKS):
        return "utf-8", False  # the mark takes precedence over the declared encoding
    if b"\0" not in data and _reads(data, "utf-8"):
        return "utf-8", False
    able = likely_encodings(data)
    if not able:
        raise UserError(f"{path} is in none of the usual encodings: it is damaged or not text")
    return able[0], True


def likely_encodings(data: bytes) -> list[str]:
    """List up to three usual encodings that read all the bytes into assigned characters, the likeliest first.

    charset-normalizer measures how much of a text is implausible in an encoding and how well its letters fit a
    language. That decides for pages, and leaves several encodings at the same measure for a few short texts: there,
    the share of usual characters decides, and of equal ones the earlier in `CANDIDATES`.
    """
    wider = _utf16(data[:SNIFFED])
    if wider:
        return [wider] if _reads(data, wider) else []
    if b"\0" in data:
        return []
    if _reads(data, "utf-8"):
        return ["utf-8"]
    import charset_normalizer

    sample = _telling(data)
    found = charset_normalizer.from_bytes(sample, cp_isolation=list(CANDIDATES), threshold=1.0)
    measured = {codecs.lookup(match.encoding).name: match.coherence - match.chaos for match in found}
    # A decoding that equals another one's is listed as its alias there.
    measured |= {
        codecs.lookup(name).name: match.coherence - match.chaos
        for match in found
        for name in match.could_be_from_charset
    }
    scores = {
        name: measured.get(codecs.lookup(name).name, -1.0) + _usual_share(sample, name)
        for name in CANDIDATES
        if _reads(data, name)
    }
    if not scores:
        # Every byte is a character of latin-1, which is therefore listed only if nothing else fits.
        return ["latin-1"]
    best = max(scores.values())
    able = [name for name in scores if scores[name] >= best - MARGIN]
    return sorted(able, key=lambda name: -round(scores[name], 2))[:3]


def _telling(data: bytes) -> bytes:
    """Return lines with bytes beyond ASCII, up to the number of bytes from which an encoding is guessed."""
    lines = [line for line in data.splitlines(keepends=True) if not line.isascii()]
    sample: list[bytes] = []
    size = 0
    for line in lines:
        if size + len(line) > SNIFFED and sample:
            break
        sample.append(line)
        size += len(line)
    return b"".join(sample)


def _usual_share(data: bytes, codec: str) -> float:
    """Return the share of the characters beyond ASCII that are usual in this encoding, 0 to 1."""
    text = data.decode(codec, errors="ignore")
    beyond = [character for character in text if character > "\x7f"]
    if codec in WIDE:
        leads, least = WIDE[codec]
        letters = [character for character in beyond if character.isalpha()]
        pairs = [character.encode(codec, errors="ignore") for character in letters]
        usual = sum(len(pair) == 2 and any(pair[0] in lead for lead in leads) and pair[1] >= least for pair in pairs)
        kana = min(1.0, 4 * len(KANA.findall(text)) / max(1, len(letters))) if codec in JAPANESE else 1.0
        return kana * (usual + sum(character in WIDE_PUNCTUATION for character in beyond)) / max(1, len(beyond))
    runs = re.findall(r"[^\x00-\x7f]+", text)
    if codec in LATIN:
        # Accented letters stand alone between ASCII ones; bytes of other scripts are symbols here.
        short = sum(len(run) == 1 or (len(run) == 2 and run.isalpha()) for run in runs) / max(1, len(runs))
        return short * sum(one.isalpha() or one in TYPOGRAPHY for one in beyond) / max(1, len(beyond))
    words = sum(len(run) for run in runs if len(run) > 1)
    return min(words, sum(character.islower() for character in beyond)) / max(1, len(beyond))


def _reads(data: bytes, codec: str) -> bool:
    try:
        characters = set(data.decode(codec))
    except UnicodeError:
        return False
    return all(unicodedata.category(character) not in ("Co", "Cn") for character in characters)


def _utf16(data: bytes) -> str | None:
    """Detect UTF-16, in which every second byte of ASCII characters is NUL."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if max(even, odd) < max(4, len(data) // 100) or min(even, odd) > max(even, odd) // 10:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _set(encoding: str, conf: str | None) -> str:
    return f"set encoding: {encoding} in {conf}" if conf else f"give --encoding {encoding}"


def _nul(path: Path, number: int, codec: str, conf: str | None) -> str:
    with open_bytes(path) as handle:
        wider = _utf16(handle.read(SNIFFED))
    hint = f"it looks like UTF-16: {_set(wider, conf)}" if wider else "the file is damaged or not text"
    return f"{path}:{number}: a NUL byte, read as {codec}; {hint}"


def _undecodable(path: Path, codec: str, conf: str | None, fault: UnicodeError) -> str:
    data = read_bytes(path)
    try:
        # The codec that drops the mark counts its offsets from the end of it.
        data.decode("utf-8" if codec == "utf-8-sig" else codec)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(codec, errors="ignore")
        number = len(re.findall(r"\r\n|\r|\n", before)) + 1
        found = f"{path}:{number}: byte {error.start} (0x{data[error.start]:02x}) is not {codec}"
    except UnicodeError as error:  # UTF-16 without a byte order mark raises an error without a position
        found = f"{path}: not {codec}: {error}"
    else:
        found = f"{path}: not {codec}: {fault}"
    able = [name for name in likely_encodings(data) if name != codec]
    if not able or (able == ["latin-1"] and codec == "iso8859-1"):
        return f"{found}, and none of the usual encodings reads the file: it is damaged or not text"
    others = f", or {' or '.join(able[1:])}" if able[1:] else ""
    return f"{found}; it is {able[0]}{others} (guessed): {_set(able[0], conf)}"
