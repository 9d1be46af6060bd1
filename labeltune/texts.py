"""Texts as they are given: which of them can be answered."""

BLANK = "is blank"


def unusable(text: object) -> str | None:
    """Why there is no answer to a text, None where there is one.

    >>> unusable(" "), unusable("free entry")
    ('is blank', None)
    """
    if not isinstance(text, str):
        return "is no string"
    if not text.strip():
        return BLANK
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None
