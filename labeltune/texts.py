"""Texts as they are given: which of them can be answered."""

BLANK = "has nothing in it"


def unusable(text: object) -> str | None:
    """Why there is no answer to a text, None where there is one.

    >>> unusable(" "), unusable("free entry")
    ('has nothing in it', None)
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
