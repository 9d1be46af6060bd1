"""The language of a text, told by its script."""

import re
from typing import Literal

Language = Literal["en", "zh", "other"]

HAN = r"\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
"""Chinese characters, for the inside of a regular expression's brackets."""
SHARE = 0.3
"""From this share of Chinese characters among all letters, a text is Chinese: names and brands stay in Latin."""

_HAN = re.compile(f"[{HAN}]")
_LATIN = re.compile(r"[A-Za-zÀ-ÖØ-öø-ɏ]")
_LETTER = re.compile(r"[^\W\d_]")
_KANA_OR_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")


def language(text: str) -> Language:
    """Tell English, or any language in Latin letters, from Chinese and from all others.

    >>> language("free call now"), language("房间太小，wifi 很慢"), language("メールを送る"), language("2 + 2")
    ('en', 'zh', 'other', 'other')
    """
    letters = len(_LETTER.findall(text))
    if letters == 0 or len(_KANA_OR_HANGUL.findall(text)) > 0.1 * letters:
        return "other"
    if len(_HAN.findall(text)) >= SHARE * letters:
        return "zh"
    return "en" if len(_LATIN.findall(text)) > 0.5 * letters else "other"
