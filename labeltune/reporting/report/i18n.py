"""How numbers, shares, intervals and p values are written in the languages of the report."""

from dataclasses import dataclass
from typing import Any, Literal

from labeltune.evaluation.metrics import LEVEL
from labeltune.runtime.templates import decimal

SMALLEST = 0.001
"""Smallest p value that is shown exactly."""
JOINED = "\u00a0"
"""No-break space."""

Recorded = dict[str, Any] | None
"""An interval as the metrics files hold it."""
Unit = Literal["percent", "figure"]
"""What a number is: a share, a difference of shares, or another figure."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language of the report; its methods are filters of the templates."""

    locale: str
    """Name of the locale, as babel knows it."""
    tag: str
    """Language tag, as in the `lang` attribute of HTML."""
    undefined: str
    """What is written for a figure that is undefined."""
    no_interval: str
    """What is written for an interval that is undefined."""
    unmeasured: str
    """What is written for an amount that was not measured."""
    range: str
    """How the two ends of an interval are joined: `{low}` and `{high}`."""
    interval: str
    """An interval with its level in a sentence: `{level}` and `{range}`."""

    def percent(self, value: float | None) -> str:
        """Write a share as a percentage; only 0 and 1 are 0.0% and 100.0%."""
        if value is None:
            return self.undefined
        shown = self._number(value, "0.0%")
        if 0 < value < 1:
            return {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(shown, shown)
        return shown

    def points(self, value: float | None) -> str:
        """Write a difference of shares in percentage points, with its sign."""
        if value is None:
            return self.undefined
        shown = self._number(100 * value, "+0.0;-0.0")
        return "0.0" if shown[1:] == "0.0" else shown

    def figure(self, value: float | None, digits: int = 3) -> str:
        """Write a figure that is not a share."""
        return self.undefined if value is None else self._number(value, "0." + "0" * digits)

    def distance(self, value: float) -> str:
        """Write the size of a difference of shares in percentage points, without its sign."""
        return self._number(100 * abs(value), "0.0")

    def setting(self, value: float) -> str:
        """Write a share that a setting states, with the digits that it has."""
        return self._number(value, "0.0####%")

    def span(self, interval: Recorded, unit: Unit = "percent") -> str:
        """Write an interval, such as `94.3% to 99.0%`."""
        if interval is None:
            return self.no_interval
        low, high = (getattr(self, unit)(interval[end]) for end in ("low", "high"))
        return self.range.format(low=low, high=high)

    def within(self, interval: Recorded, unit: Unit = "percent") -> str:
        """Write an interval with its level, for a sentence."""
        if interval is None:
            return self.no_interval
        return self.interval.format(level=self._number(LEVEL, "0%"), range=self.span(interval, unit))

    def sure(self, value: float | None, interval: Recorded, unit: Unit = "percent") -> str:
        """Write a figure with its interval, for a table whose header says so."""
        shown = str(getattr(self, unit)(value))
        return shown if value is None else f"{shown} ({self.span(interval, unit).replace('%', '')})"

    def p_value(self, value: float) -> str:
        """Write a p value; it is never shown as 0."""
        if value < SMALLEST:
            return f"<{JOINED}{SMALLEST}"
        return self._number(value, "0.000" if value < 0.1 else "0.00")

    def chance(self, value: float) -> str:
        """Write a p value for a sentence."""
        shown = self.p_value(value)
        return f"p{JOINED}{shown}" if value < SMALLEST else f"p{JOINED}={JOINED}{shown}"

    def amount(self, value: float | None) -> str:
        """Write seconds, rows per second or mebibytes, with the digits that matter."""
        if value is None:
            return self.unmeasured
        return self._number(value, "#,##0" if value >= 100 else "0.0")

    def _number(self, value: float, pattern: str) -> str:
        return decimal(value, pattern, locale=self.locale)


LANGUAGES = {
    "en": Language(
        locale="en",
        tag="en",
        undefined="undefined",
        no_interval="no interval",
        unmeasured="not measured",
        range="{low} to {high}",
        interval="{level} interval {range}",
    ),
    "zh": Language(
        locale="zh_Hans",
        tag="zh-Hans",
        undefined="无定义",
        no_interval="无区间",
        unmeasured="未测量",
        range="{low} 至 {high}",
        interval="{level} 置信区间 {range}",
    ),
}
"""`report.language` -> how it is written."""
FILTERS = (
    "amount",
    "chance",
    "distance",
    "figure",
    "p_value",
    "percent",
    "setting",
    "span",
    "sure",
    "within",
)
"""Methods of a language that templates use as filters."""
