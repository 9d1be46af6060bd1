"""Jinja2 templates of Markdown: every value is escaped, and numbers are written as the language writes them."""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, localcontext
from functools import partial
from pathlib import Path
from typing import Any

from babel import Locale
from babel.numbers import format_decimal
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from labeltune.runtime import markdown

MINUS = "\u2212"


def environment(folders: Sequence[Path], locale: str) -> Environment:
    """Return an environment in which a value can't become markup.

    A template is Markdown. Inserted values are escaped unless a filter has converted them to Markdown: `code` and
    `code_block` for names and texts of others, `decimal` and `plural` for numbers.

    Args:
        folders: folders of the templates; a name is looked up in this order.
        locale: name of a locale in babel, such as `en` or `zh_Hans`.
    """
    found = Environment(
        autoescape=True,
        finalize=_escaped,
        keep_trailing_newline=True,
        loader=FileSystemLoader(folders),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    language = Locale.parse(locale)

    def plural(number: int, one: str, other: str) -> str:
        return f"{decimal(number, locale=locale)} {one if language.plural_form(number) == 'one' else other}"

    found.filters |= {
        "code": lambda text: Markup(markdown.code(str(text))),
        "code_block": lambda text, language="": Markup(markdown.code_block(str(text), language)),
        "decimal": partial(decimal, locale=locale),
        "plural": plural,
    }
    return found


def decimal(value: float, pattern: str = "#,##0", *, locale: str) -> str:
    """Write a number by a pattern of Unicode's locale data; a half is rounded away from zero.

    >>> decimal(-1234.5, "#,##0", locale="en"), decimal(0.4285, "0.0%", locale="en")
    ('−1,235', '42.9%')
    """
    with localcontext() as context:
        context.rounding = ROUND_HALF_UP
        return str(format_decimal(value, pattern, locale)).replace("-", MINUS)


def _escaped(value: Any) -> Any:
    """Escape a value for Markdown; autoescape, which comes after this, is for HTML and leaves markup as it is."""
    return value if isinstance(value, Markup) else Markup(markdown.escape(str(value)))
