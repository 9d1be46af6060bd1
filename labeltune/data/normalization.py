"""Text normalization: the same for training rows and for the texts to be labelled."""

import json
import re
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

from labeltune.runtime.files import write_json

FILE = "normalization.json"
SPACE = re.compile(r"[\s\u200b\ufeff]+")
"""White space, zero-width spaces and byte order marks included."""


@dataclass(frozen=True, kw_only=True)
class Normalization:
    r"""A Unicode normal form and a rule for white space. The defaults change nothing.

    >>> Normalization(unicode="NFC", whitespace="collapse")(" free\n\nentry ")
    'free entry'
    """

    unicode: str = "none"
    """`NFC`, `NFKC` or `none`, as in `prepare.unicode`."""
    whitespace: str = "keep"
    """`collapse`, `strip` or `keep`, as in `prepare.whitespace`."""

    def __call__(self, text: str) -> str:
        """Return the normalized text; a second call changes nothing more."""
        if self.unicode != "none":
            text = unicodedata.normalize(self.unicode, text)  # type: ignore[arg-type]
        if self.whitespace == "collapse":
            return SPACE.sub(" ", text).strip(" ")
        return text.strip() if self.whitespace == "strip" else text

    def save(self, folder: Path) -> None:
        """Write normalization.json into a folder."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "Normalization":
        """Read normalization.json of a folder."""
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))


UNCHANGED = Normalization()


def is_blank(text: str) -> bool:
    r"""Return whether a text holds only white space and zero-width characters.

    >>> is_blank("\u200b\n"), is_blank("a")
    (True, False)
    """
    return not SPACE.sub("", text)
