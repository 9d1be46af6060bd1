"""Escaping of untrusted text in Markdown: labels, names and texts are shown literally."""

import re
import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of invisible characters with an effect: controls, bidi overrides, line separators."""
JOINERS = "\u200c\u200d"
"""Joiners, which shape letters and emoji and do not reorder text."""
# Only characters with a meaning in Markdown: a backslash at every full stop would make a text unreadable.
SPECIAL = re.compile(r"[\\`*_\[\]|~$]|<(?=[A-Za-z/!?])|&(?=#|\w+;)|(?<=www)\.|(?<=:)/(?=/)")


def visible(text: str, kept: str = "") -> str:
    r"""Show every hidden character but the kept ones as its code point.

    >>> visible("a\u202eb")
    'a⟨U+202E⟩b'
    """
    if text.isprintable():
        return text
    return "".join(f"⟨{code_point(letter)}⟩" if is_hidden(letter) and letter not in kept else letter for letter in text)


# Begins a heading, a quotation, a list or a rule at the start of a line.
OPENING = re.compile(r"[#>]|[-+](?=\s|$)|[-=](?=[-=\s]*$)|(?P<number>\d{1,9})[.)](?=\s|$)")


def escape(text: str) -> str:
    r"""Escape a text for Markdown, also at the beginning of a line.

    >>> print(escape("![x](http://y) <b> 1 < 2"))
    !\[x\](http:\//y) \<b> 1 < 2
    >>> print(escape("# a"), escape("1. a"), escape("1.5"))
    \# a 1\. a 1.5
    """
    inner = SPECIAL.sub(lambda found: f"\\{found[0]}", visible(text))
    opening = OPENING.match(inner)
    if opening is None:
        return inner
    place = opening.end("number") if opening["number"] else 0
    return f"{inner[:place]}\\{inner[place:]}"


def code(text: str) -> str:
    """Write a code span, fenced with more backticks than any run of them in the text.

    >>> code("a`b")
    '``a`b``'
    """
    shown = visible(text)
    fence = "`" * (longest_backticks(shown) + 1)
    padding = " " if shown.startswith(("`", " ")) or shown.endswith(("`", " ")) else ""
    return f"{fence}{padding}{shown or ' '}{padding}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Write a block of code, fenced with more backticks than any run of them in the text.

    >>> print(code_block("a"))
    ```
    a
    ```
    """
    shown = visible(text, kept="\n").rstrip()
    fence = "`" * max(3, longest_backticks(shown) + 1)
    return f"{fence}{language}\n{shown}\n{fence}"


def longest_backticks(text: str) -> int:
    """Return the length of the longest run of backticks in a text."""
    return max(map(len, re.findall("`+", text)), default=0)


def is_hidden(letter: str) -> bool:
    """Return whether a character is invisible and has an effect."""
    return unicodedata.category(letter) in HIDDEN and letter not in JOINERS


def code_point(letter: str) -> str:
    """Return the code point of a character, or the sign for a newline."""
    return "↵" if letter == "\n" else f"U+{ord(letter):04X}"
