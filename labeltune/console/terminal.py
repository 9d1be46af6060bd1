"""What people see while a stage or a command runs: lines, tables and progress bars."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from labeltune.console.streams import printable

LINE_SECONDS = 15.0
WHOLE = 10
"""A rate below it is shown with two digits."""


class _Rate(ProgressColumn):
    """Column with the speed of a task."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_rate(speed, self.unit) if speed else "", style="cyan")


def _rate(speed: float, unit: str) -> str:
    """Format a speed.

    >>> _rate(1234.5, "rows"), _rate(1.26, "layers")
    ('1,234 rows/s', '1.3 layers/s')
    """
    return f"{speed:,.0f} {unit}/s" if speed >= WHOLE else f"{speed:.2g} {unit}/s"


class Bar:
    """Progress over rows or another unit: a live bar on a terminal, otherwise a line every 15 seconds.

    A bar whose `with` block ends without an exception is shown as finished, also where less than the total was done:
    training can stop early, and answers can come from a cache.
    """

    def __init__(self, title: str, total: int, unit: str, console: Console) -> None:
        self.title = printable(title)
        self.total = total
        self.unit = unit
        self.done = 0
        self.skipped = 0
        self.console = console
        self.note = ""
        self._lines = 0
        self._started = self._spoken = time.monotonic()
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._task = self._live.add_task(self.title, total=total, note="")

    def advance(self, rows: int) -> None:
        """Count rows as done."""
        self.done = min(self.total, self.done + rows)
        if self.console.is_terminal:
            self._live.update(self._task, completed=self.done, note=printable(self.note))
        elif time.monotonic() - self._spoken > LINE_SECONDS:
            self.say()

    def resume(self, rows: int) -> None:
        """Count rows as done by an earlier run; the speed does not include them."""
        self.done = self.skipped = min(self.total, rows)

    def say(self, note: str | None = None) -> None:
        """Print a line with the number of rows done, the speed and the time left; on a terminal, above the bar."""
        self._lines += 1
        self._spoken = time.monotonic()
        line = f"{self.title}: {self.done:,} of {self.total:,}, {self._left()}"
        self.console.print(Text(printable(f"{line}  {note}" if note else line)))

    def _left(self) -> str:
        """Format the speed and the time left."""
        speed = (self.done - self.skipped) / max(time.monotonic() - self._started, 1e-9)
        seconds = round((self.total - self.done) / speed) if speed else 0
        return f"{_rate(speed, self.unit)}, {seconds // 60}:{seconds % 60:02d} left"

    def __enter__(self) -> "Bar":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self._finish()
        if self.console.is_terminal:
            self._live.stop()

    def _finish(self) -> None:
        if self.console.is_terminal:
            self._live.update(self._task, total=self.done, completed=self.done, note=printable(self.note))
        elif self._lines:  # otherwise a line that promises time left would be the last one
            self.console.print(Text(f"{self.title}: finished, {self.done:,} {self.unit}"))


def bar(title: str, total: int, *, unit: str = "rows") -> Bar:
    """A progress bar, to be used in a `with` block."""
    return Bar(title, total, unit, Console(soft_wrap=True))


@contextmanager
def progress(title: str, total: int, *, unit: str = "rows") -> Iterator[Callable[[int], None]]:
    """Show a progress bar, and yield the function that counts rows as done."""
    with bar(title, total, unit=unit) as shown:
        yield shown.advance


@contextmanager
def download(title: str, total: int | None, received: int = 0) -> Iterator[Callable[[int], None]]:
    """Show the progress of a download on a terminal, and yield the function that counts bytes as received.

    Args:
        title: name of the file.
        total: size of the file in bytes; None if the server does not tell it.
        received: bytes that an earlier attempt received.
    """
    console = Console(soft_wrap=True)
    shown = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    if not console.is_terminal:
        known = f", {received / 1e6:.1f} MB of them received before" if received else ""
        say(f"Downloading {title}" + (f" ({total / 1e6:.1f} MB{known})" if total else ""))
    with shown:
        task = shown.add_task(printable(title), total=total, completed=received)
        yield lambda count: shown.advance(task, count)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a small table, numbers to the right."""
    grid = Table(
        title=Text(printable(title)),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
    )
    for i, name in enumerate(columns):
        numeric = rows and all(isinstance(row[i], int | float) for row in rows)
        grid.add_column(Text(printable(name)), justify="right" if numeric else "left", header_style="dim")
    for row in rows:
        grid.add_row(*(Text(f"{value:,}" if isinstance(value, int) else printable(str(value))) for value in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(grid)


def say(line: str) -> None:
    """Print one line."""
    Console(soft_wrap=True).print(Text(printable(line)))


def print_json(content: object, *, indent: int | None = None, sort_keys: bool = False) -> None:
    """Print a value as JSON, in ASCII where the output's encoding lacks one of its characters."""
    text = json.dumps(content, ensure_ascii=False, indent=indent, sort_keys=sort_keys)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(content, indent=indent, sort_keys=sort_keys)
    print(printable(text))


def warn(line: str) -> None:
    """Print one line to the standard error, beside answers that a program may read from the standard output."""
    Console(stderr=True, soft_wrap=True).print(Text(printable(line)))
