"""Wording of the report and the chat in English and Chinese, and how numbers are written."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

from labeltune.evaluation.metrics import LEVEL
from labeltune.reporting.report.document import Aside, Code, Line, Name, Run, join

TEXTS = Path(__file__).with_name("templates") / "wording.toml"
LOCALES = {"en": "en", "zh": "zh-Hans"}
"""Language -> language tag of HTML."""
SMALLEST = 0.001
"""Smallest p value that is shown exactly."""
JOINED = "\u00a0"
"""No-break space."""
PRECISE = 6
"""Maximum number of decimals that distinguish a share from 0% or 100%."""

Recorded = dict[str, Any] | None
"""An interval as the metrics files hold it."""


@cache
def texts(source: Path = TEXTS) -> dict[str, dict[str, dict[str, str]]]:
    """Group -> key -> language -> text."""
    return tomllib.loads(source.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Wording:
    """The texts of one language."""

    language: str
    """One of `LOCALES`."""
    source: Path = TEXTS
    """The file that holds the texts."""

    def text(self, key: str, **values: str) -> str:
        """Return a text without user content, by `group.key`."""
        group, name = key.split(".")
        return texts(self.source)[group][name][self.language].format(**values)

    def line(self, key: str, **values: str | Name | Code | Line) -> Line:
        """Return a text with user content or code, which is escaped on every page."""
        group, name = key.split(".")
        runs: list[Run] = []
        for words, place, _, _ in Formatter().parse(texts(self.source)[group][name][self.language]):
            runs += [words] if words else []
            if place is not None:
                value = values[place]
                runs += value if isinstance(value, tuple) else [value]
        return tuple(runs)

    def named(self, group: str, name: str) -> Line:
        """Return the name of a perturbation, a model or a reason; of an unknown one, its identifier."""
        known = texts(self.source)[group].get(name)
        return (known[self.language],) if known else (Code(name),)

    def count(self, noun: str, number: int) -> str:
        """A number of things: `1 row`, `2 rows`; English keeps both forms, parted by a bar."""
        forms = texts(self.source)["count"][noun][self.language].split("|")
        return (forms[0] if number == 1 else forms[-1]).format(f"{number:,}")

    def percent(self, value: float | None) -> str:
        """Format a share as a percentage; only 0 and 1 are shown as 0% and 100%."""
        if value is None:
            return self.text("word.undefined")
        digits = 1
        while digits < PRECISE and 0 < value < 1 and round(100 * value, digits) in (0, 100):
            digits += 1
        return f"{100 * value:.{digits}f}%".replace("-", "−")

    def points(self, value: float | None) -> str:
        """A difference of shares in percentage points, with its sign."""
        if value is None:
            return self.text("word.undefined")
        return "0.0" if round(100 * value, 1) == 0 else f"{100 * value:+.1f}".replace("-", "−")

    def figure(self, value: float | None, digits: int = 3) -> str:
        """Format a figure that is not a share."""
        return self.text("word.undefined") if value is None else f"{value:.{digits}f}".replace("-", "−")

    def span(self, interval: Recorded, unit: str = "percent") -> str:
        """An interval, of shares (`percent`), of their differences (`points`) or of other figures (`figure`)."""
        if interval is None:
            return self.text("word.no_interval")
        low, high = (getattr(self, unit)(interval[end]) for end in ("low", "high"))
        return self.text("word.span", low=low, high=high)

    def sure(self, value: float | None, interval: Recorded, unit: str = "percent") -> Line:
        """A figure with its interval, for a table whose header says so."""
        shown = str(getattr(self, unit)(value))
        return (shown,) if value is None else (shown, Aside(self.span(interval, unit).replace("%", "")))

    def within(self, interval: Recorded, unit: str = "percent") -> str:
        """Return an interval with its level, for a sentence."""
        if interval is None:
            return self.text("word.no_interval")
        return self.text("word.within", level=f"{LEVEL:.0%}", span=self.span(interval, unit))

    def p_value(self, value: float) -> str:
        """Format a p value; it is never shown as 0."""
        if value < SMALLEST:
            return f"<{JOINED}{SMALLEST}"
        return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"

    def chance(self, value: float) -> str:
        """A p value for a sentence."""
        shown = self.p_value(value)
        return f"p{JOINED}{shown}" if value < SMALLEST else f"p{JOINED}={JOINED}{shown}"

    def amount(self, value: float | None) -> str:
        """Seconds, rows per second or mebibytes, with the digits that matter."""
        if value is None:
            return self.text("word.unmeasured")
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

    def listed(self, lines: Iterable[Line]) -> Line:
        """Join several lines into a list."""
        return join(lines, self.text("word.comma"))
