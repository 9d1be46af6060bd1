"""Finding the text column and the label column of a table."""

import difflib
from collections.abc import Collection, Mapping, Sequence

from labeltune.runtime.errors import UserError, bullet

# No title or description: often they are an additional column and not the text.
USUAL = {
    "text": (
        "text", "sentence", "sms", "content", "review", "message", "comment", "question", "document", "body",
        "tweet", "utterance", "article", "query", "文本", "内容", "评论",
    ),
    "label": (
        "label", "labels", "class", "category", "target", "sentiment", "topic", "intent", "tag", "emotion",
        "标签", "类别",
    ),
}  # fmt: skip
SPLITS = {
    "train": ("train", "training", "trn", "0"),
    "validation": ("validation", "valid", "val", "dev", "development", "1"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "2"),
}
"""Split -> its names in files and columns; the numbers are those of Ludwig."""
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2"),
    ("text_a", "text_b"), ("sentence_a", "sentence_b"), ("query", "passage"), ("query", "document"),
)  # fmt: skip
"""Columns whose texts are labelled together."""
SHOWN = 12


def find_columns(
    names: Sequence[str] | int, text: str | int | None, label: str | int | None, where: str, conf: str
) -> tuple[int, int]:
    """Return the 0-based positions of the text column and the label column.

    Args:
        names: The columns' names, empty where one has none, or their number where there is no header.
        text: The key `text`: a name, a position, or None to find it by its usual names.
        label: The key `label`, likewise.
        where: File of the table, for the messages.
        conf: File with the keys, for the messages.

    Raises:
        UserError: A column is missing, ambiguous or not found; all problems are in one message.
    """
    chosen = match_columns(names, text, label, where, {key: f"edit {key}: in {conf}" for key in ("text", "label")})
    problems = [
        f"{where}: {_untold(key, names, chosen)}: set {key}: {_position_hint(names)}in {conf}"
        for key, found in chosen.items()
        if found is None
    ]
    if problems:
        raise UserError(bullet(problems))
    found_text, found_label = chosen["text"], chosen["label"]
    assert found_text is not None, "the column was found, or a problem was reported"
    assert found_label is not None, "the column was found, or a problem was reported"
    if found_text == found_label:
        raise UserError(f"{where}: text: and label: name the same column {found_text} in {conf}")
    return found_text, found_label


def split_of(value: str | None) -> str | None:
    """Return the split that a value of a split column names; None for another value.

    >>> split_of("Dev"), split_of("2"), split_of("holdout")
    ('validation', 'test', None)
    """
    return next((split for split, words in SPLITS.items() if (value or "").strip().casefold() in words), None)


def find_text_column(names: Sequence[str], text: str | None, where: str) -> int:
    """Return the 0-based position of the text column of rows to be labelled.

    A single column is the text, whatever its name.

    Args:
        names: The columns' names, empty where one has none.
        text: The option `--text-column`; None finds it as `find_columns` does.
        where: File of the table, for the message.

    Raises:
        UserError: There is no such column, or none is found.
    """
    ask = {"text": "name one with --text-column"}
    found = match_columns(names, text, None, where, ask)["text"]
    named = [i for i, name in enumerate(names) if name.strip()]
    if found is None and len(named) == 1:
        return named[0]
    if found is None:
        raise UserError(f"{where}: {_untold('text', names, {})}; {ask['text']}")
    return found


def match_columns(
    names: Sequence[str] | int, text: str | int | None, label: str | int | None, where: str, ask: Mapping[str, str]
) -> dict[str, int | None]:
    """Return the positions of the columns `text` and `label`; None if the names do not identify a column.

    Args:
        names: As in `find_columns`.
        text: A name, a position, or None to find it by its usual names; of two columns, the other one is the text.
        label: Likewise.
        where: File of the table, for the message.
        ask: `text` and `label` -> where to name the column, for the message.

    Raises:
        UserError: There is no column of a given name.
    """
    columns = [] if isinstance(names, int) else [name.strip() for name in names]
    width = names if isinstance(names, int) else len(columns)
    problems: list[str] = []
    chosen: dict[str, int | None] = {}
    for key, value in (("text", text), ("label", label)):
        try:
            chosen[key] = None if value is None else _position(key, value, columns, width, ask[key])
        except LookupError as error:
            problems.append(f"{where}: {error.args[0]}")
    if problems:
        raise UserError(bullet(problems))
    for key, other in (("text", "label"), ("label", "text")):
        found = _candidates(key, columns, taken=[chosen[other]])
        if chosen[key] is None and len(found) == 1:
            chosen[key] = found[0]
    # Spreadsheets write empty columns at the right edge: without a name they are ignored.
    named = [i for i, name in enumerate(columns) if name] or range(width)
    for key, other in (("text", "label"), ("label", "text")):
        if chosen[key] is None and chosen[other] in named and len(named) == 2:
            chosen[key] = next(i for i in named if i != chosen[other])
    return chosen


def _position(key: str, value: str | int, columns: list[str], width: int, ask: str) -> int:
    if isinstance(value, int):
        if 0 <= value < width:
            return value
        raise LookupError(f"no column at position {value}, they are 0 to {width - 1}: {ask}")
    if not columns:
        raise LookupError(
            f"the columns have no names (header: false): give a position instead of {value!r} to {key}: {ask}"
        )
    if value.strip() in columns:
        return columns.index(value.strip())
    close = difflib.get_close_matches(value.casefold(), [name.casefold() for name in columns], n=1)
    near = next((name for name in columns if close and name.casefold() == close[0]), None)
    hint = f" Did you mean {near!r}?" if near else ""
    raise LookupError(f"no column {value!r}.{hint} There are: {_shown(columns)}. {ask[0].upper()}{ask[1:]}")


def _candidates(key: str, columns: list[str], taken: Collection[int | None]) -> list[int]:
    return [i for i, name in enumerate(columns) if name.casefold() in USUAL[key] and i not in taken]


def _untold(key: str, names: Sequence[str] | int, chosen: Mapping[str, int | None]) -> str:
    if isinstance(names, int):
        return f"its {names} columns have no names"
    columns = [name.strip() for name in names]
    found = [columns[i] for i in _candidates(key, columns, chosen.values())]
    reason = f"{' and '.join(found)} may each be the {key}" if found else f"no column has a usual name of a {key}"
    return f"{reason}; columns: {_shown(columns)}"


def _position_hint(names: Sequence[str] | int) -> str:
    return f"to a position, 0 to {names - 1}, " if isinstance(names, int) else ""


def _shown(columns: list[str]) -> str:
    more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
    return ", ".join(name or "(no name)" for name in columns[:SHOWN]) + more
