"""Finding the text column and the label column of a table."""

import difflib
from collections import Counter
from collections.abc import Collection, Sequence

from labeltune.runtime.errors import UserError, bullet

# No title or description: they stand beside the text as often as for it.
USUAL = {
    "text": (
        "text", "sentence", "sms", "content", "review", "message", "comment", "question", "document", "body",
        "tweet", "utterance", "article", "query", "文本", "内容", "评论",
    ),
    "label": (
        "label", "class", "category", "target", "sentiment", "topic", "intent", "tag", "emotion", "标签", "类别",
    ),
}  # fmt: skip
SHOWN = 12


def find_columns(
    names: Sequence[str] | int, text: str | int | None, label: str | int | None, where: str, conf: str
) -> tuple[int, int]:
    """Return the 0-based positions of the text column and the label column.

    Args:
        names: The columns' names, or their number where they have none.
        text: The key `text`: a name, a position, or None to find it by its usual names.
        label: The key `label`, likewise.
        where: File of the table, for the messages.
        conf: File with the keys, for the messages.

    Raises:
        UserError: A column is missing, ambiguous or not to be told; everything in one message.
    """
    columns = [] if isinstance(names, int) else [name.strip() for name in names]
    width = names if isinstance(names, int) else len(columns)
    # Spreadsheets write empty columns at the right edge: without a name they are in nobody's way.
    twice = [name for name, count in Counter(columns).items() if count > 1 and name]
    if twice:
        raise UserError(f"{where}: column names stand twice: {', '.join(twice)}; columns: {_shown(columns)}")
    problems: list[str] = []
    chosen: dict[str, int | None] = {}
    for key, value in (("text", text), ("label", label)):
        try:
            chosen[key] = None if value is None else _position(key, value, columns, width)
        except LookupError as error:
            problems.append(f"{where}: {error.args[0]} in {conf}")
    if not problems:
        for key, other in (("text", "label"), ("label", "text")):
            found = _candidates(key, columns, taken=[chosen[other]])
            if chosen[key] is None and len(found) == 1:
                chosen[key] = found[0]
        for key, other in (("text", "label"), ("label", "text")):
            if chosen[key] is None and chosen[other] is not None and width == 2:
                chosen[key] = 1 - int(chosen[other] or 0)
        problems = [
            f"{where}: {_untold(key, columns, width, chosen.values())} in {conf}"
            for key in chosen
            if chosen[key] is None
        ]
    if problems:
        raise UserError(bullet(problems))
    found_text, found_label = chosen["text"], chosen["label"]
    assert found_text is not None, "it is found or among the problems"
    assert found_label is not None, "it is found or among the problems"
    if found_text == found_label:
        raise UserError(f"{where}: text: and label: name the same column {found_text} in {conf}")
    return found_text, found_label


def _position(key: str, value: str | int, columns: list[str], width: int) -> int:
    if isinstance(value, int):
        if 0 <= value < width:
            return value
        raise LookupError(f"no column at position {value}, they are 0 to {width - 1}: edit {key}:")
    if not columns:
        raise LookupError(f"the columns have no names (header: false): give a position instead of {value!r} to {key}:")
    if value.strip() in columns:
        return columns.index(value.strip())
    close = difflib.get_close_matches(value.casefold(), [name.casefold() for name in columns], n=1)
    near = next((name for name in columns if close and name.casefold() == close[0]), None)
    hint = f" Did you mean {near!r}?" if near else ""
    raise LookupError(f"no column {value!r}.{hint} There are: {_shown(columns)}. Edit {key}:")


def _candidates(key: str, columns: list[str], taken: Collection[int | None]) -> list[int]:
    return [i for i, name in enumerate(columns) if name.casefold() in USUAL[key] and i not in taken]


def _untold(key: str, columns: list[str], width: int, taken: Collection[int | None]) -> str:
    if not columns:
        return f"its {width} columns have no names: set {key}: to a position, 0 to {width - 1},"
    found = [columns[i] for i in _candidates(key, columns, taken)]
    reason = f"{' and '.join(found)} may each be the {key}" if found else f"no column has a usual name of a {key}"
    return f"{reason}; columns: {_shown(columns)}: set {key}:"


def _shown(columns: list[str]) -> str:
    more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
    return ", ".join(name or "(no name)" for name in columns[:SHOWN]) + more
