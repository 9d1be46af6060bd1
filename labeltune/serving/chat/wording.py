"""The sentences of the chat in English and Chinese, as Markdown in which users' text stays text."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup

from labeltune.reporting.report.i18n import LANGUAGES, Language
from labeltune.runtime import markdown

TEXTS = Path(__file__).with_name("page") / "wording.toml"


@cache
def texts() -> dict[str, dict[str, dict[str, str]]]:
    """Group -> key -> language -> sentence."""
    return tomllib.loads(TEXTS.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Wording:
    """The sentences of one language."""

    language: str
    """`en` or `zh`."""

    @property
    def numbers(self) -> Language:
        """How the language writes numbers."""
        return LANGUAGES[self.language]

    def say(self, key: str, **values: str) -> Markup:
        r"""Return a sentence by `group.key`; a value is escaped unless it is Markdown already, as `code` gives it.

        >>> Wording("en").say("answer.wrong", label="*a*")
        Markup('Should be \\*a\\*')
        """
        group, name = key.split(".")
        inserted = {
            name: value if isinstance(value, Markup) else markdown.escape(value) for name, value in values.items()
        }
        return Markup(texts()[group][name][self.language].format(**inserted))

    def count(self, noun: str, number: int) -> str:
        """A number of things: `1 row`, `2 rows`; English keeps both forms, parted by a bar."""
        forms = texts()["count"][noun][self.language].split("|")
        return (forms[0] if number == 1 else forms[-1]).format(f"{number:,}")

    def listed(self, parts: Iterable[Markup]) -> Markup:
        """Join several parts into a list."""
        return Markup(texts()["word"]["comma"][self.language]).join(parts)


def code(text: str) -> Markup:
    """Write somebody's word as a code span."""
    return Markup(markdown.code(text))
