"""`labeltune predict`: label texts on the terminal, as a table, interactively, or as JSON."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from labeltune.console import terminal
from labeltune.console.streams import printable
from labeltune.inference.classifier import Answer, Classifier, unanswerable
from labeltune.modeling.device import choose_threads
from labeltune.runtime.errors import UserError
from labeltune.serving import batch, tables
from labeltune.serving.batch import Summary
from labeltune.serving.tables import Table

BAR = 20
"""Width of the bar for a confidence of 1, in characters."""
SHOWN = 60
"""Maximum number of characters of a text in the table."""
PIPE = "-"
LEAVE = ("quit", "exit", "退出")


def show(texts: Sequence[str], answers: Sequence[Answer], *, as_json: bool) -> None:
    """Print the prediction for each text: a table on a terminal, or JSON Lines if asked for or in a pipe."""
    if as_json or not sys.stdout.isatty():
        for text, answer in zip(texts, answers, strict=True):
            terminal.print_json({"text": text, **asdict(answer)})
        return
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("label", "confidence", "", "text"):
        grid.add_column(name, header_style="dim", overflow="ellipsis", no_wrap=name != "text")
    for text, answer in zip(texts, answers, strict=True):
        shown = printable(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")
        style = "yellow" if answer.abstained else "bold green"
        grid.add_row(
            Text(printable(answer.label), style=style), _bar(answer), Text(_notes(answer), style="yellow"), Text(shown)
        )
    Console().print(grid)


def _bar(answer: Answer) -> Text:
    """Return a bar and a number for the confidence of a prediction."""
    full = round(answer.confidence * BAR)
    colour = "yellow" if answer.abstained else "green"
    return Text.assemble(("━" * full, colour), ("━" * (BAR - full), "dim"), f" {answer.confidence:.1%}")


def _notes(answer: Answer) -> str:
    """Return warnings about a prediction, such as abstention and truncation."""
    return ", ".join(["too unsure to say"] * answer.abstained + ["text cut"] * answer.truncated)


def converse(classifier: Classifier, ask: Callable[[str], str] = input) -> None:
    """Label each line that the user types, until quit, exit, Ctrl-C or Ctrl-D."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  # gives line editing and a history
    names = ", ".join(classifier.record.labels.names)
    terminal.say(f"type a text to label it ({names}); quit, Ctrl-C or Ctrl-D ends")
    while True:
        try:
            text = ask("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            break
        except UnicodeDecodeError as error:
            terminal.say(f"that is not in {error.encoding}, the terminal's encoding; type a text, or quit")
            continue
        if text.casefold() in LEAVE:
            break
        if not text:
            terminal.say("an empty line has no label; type a text, or quit")
        elif fault := unanswerable(text):
            terminal.say(f"that {fault}; type a text, or quit")
        else:
            say(text, classifier.predict([text])[0])
    terminal.say("bye")


def say(text: str, answer: Answer) -> None:
    """Print a prediction with the probability of every label."""
    console = Console(soft_wrap=True)
    verdict = f"too unsure to answer; it would be: {answer.label}" if answer.abstained else answer.label
    console.print(Text(printable(verdict), style="bold yellow" if answer.abstained else "bold green"))
    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    shown = [(printable(name), value) for name, value in ranked]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        full = round(value * BAR)
        console.print(
            Text.assemble(f"  {name:<{width}} ", ("━" * full, "green"), ("━" * (BAR - full), "dim"), f" {value:.1%}")
        )
    if answer.truncated:
        terminal.say(f"  the text has {len(text):,} characters, more than the model reads; its middle was left out")


def demonstrate(classifier: Classifier) -> list[str]:
    """Return the example texts of a classifier.

    Raises:
        UserError: it has none.
    """
    if not classifier.record.examples:
        raise UserError(f"{classifier.record.dataset} has no examples; add examples: to its file in conf/datasets")
    return classifier.record.examples


def summarise(summary: Summary, target: Path, seconds: float, *, escaped: bool = False) -> None:
    """Print a summary of a labelled file; `escaped` states whether cells were written so that none is a formula."""
    answered = summary.rows - summary.skipped
    fresh = summary.rows - summary.resumed
    terminal.table("answers", ["label", "rows"], list(summary.labels.items()))
    notes = [f"{summary.abstained:,} too unsure to rely on (abstained)", f"{summary.truncated:,} texts cut"]
    notes += [f"{summary.skipped:,} without a text, left without an answer"] * bool(summary.skipped)
    notes += [f"{summary.resumed:,} taken from the previous run"] * bool(summary.resumed)
    notes += [f"{field} is in {name}: the rows have a {field} already" for field, name in summary.renamed.items()]
    what = "have ' before them" if escaped else "are formulas to a spreadsheet, unless written with --escape-formulas"
    notes += [f"{summary.formulas:,} cells that begin with =, +, - or @ {what}"] * bool(summary.formulas)
    terminal.say(f"{answered:,} of {summary.rows:,} rows: {'; '.join(notes)}")
    terminal.say(f"written to {target} ({fresh / max(seconds, 1e-9):,.0f} rows/s)")


def predict(
    folder: Path,
    *,
    texts: list[str] | None,
    demo: bool,
    interactive: bool,
    file: str | None,
    out: Path | None,
    format: str | None,
    text_column: str | None,
    encoding: str,
    batch_tokens: int | None,
    as_json: bool,
    escape_formulas: bool = False,
) -> None:
    """Run `labeltune predict`.

    Raises:
        UserError: the classifier, a file or a text can't be used.
    """
    for text in texts or []:
        if fault := unanswerable(text):
            raise UserError(f"--text {fault}: {text!r:.60}")
    if batch_tokens is not None and batch_tokens < 1:
        raise UserError(f"--batch-tokens: {batch_tokens} is too few; leave it out, or give 1 or more")
    options = {"format": format, "text": text_column, "encoding": encoding}
    if file == PIPE:
        _predict_pipe(folder, out, options, batch_tokens=batch_tokens)
        return
    if file:
        _predict_file(
            folder, Path(file), out, options,
            batch_tokens=batch_tokens, as_json=as_json, escape_formulas=escape_formulas,
        )  # fmt: skip
        return
    classifier = _load(folder)
    if interactive:
        converse(classifier)
    else:
        texts = demonstrate(classifier) if demo else texts or []
        show(texts, classifier.predict(texts, batch_tokens=batch_tokens), as_json=as_json)


def _load(folder: Path) -> Classifier:
    """Load a classifier, and compute on as many threads as a container's limits and other trainings leave."""
    torch.set_num_threads(choose_threads("auto"))
    return Classifier.load(folder)


def _predict_pipe(folder: Path, out: Path | None, options: dict[str, Any], *, batch_tokens: int | None) -> None:
    """Label the lines of a pipe as they arrive."""
    if out and str(out) != PIPE:
        raise UserError(f"--out: the labels of a pipe are written to the standard output; omit --out, and add > {out}")
    text = options["text"] or "text"
    read = partial(os.read, sys.stdin.fileno(), tables.BLOCK)
    blocks = tables.stream_lines(read, format=options["format"] or "txt", text=text, encoding=options["encoding"])
    batch.answer_blocks(_load(folder), blocks, sys.stdout.buffer, text=text, batch_tokens=batch_tokens)


def _predict_file(
    folder: Path,
    source: Path,
    out: Path | None,
    options: dict[str, Any],
    *,
    batch_tokens: int | None,
    as_json: bool,
    escape_formulas: bool,
) -> None:
    """Label a file; errors in it are reported before the classifier is loaded."""
    if not out:
        raise UserError("--file needs --out: name the file that the answers go to, .csv, .jsonl or .parquet, or -")
    piped = str(out) == PIPE
    if not piped:
        batch.kind_of(out, source)
    table = Table.survey(source, **options)
    classifier = _load(folder)
    if piped:
        target, names = sys.stdout.buffer, table.columns
        batch.answer_blocks(
            classifier, table.chunks(), target, text=table.text, columns=names, batch_tokens=batch_tokens
        )
        return
    started = time.perf_counter()
    try:
        with nullcontext() if as_json else terminal.bar(f"labelling {source}", table.rows) as bar:
            summary = batch.answer_file(
                classifier, table, out, bar, batch_tokens=batch_tokens, escape_formulas=escape_formulas
            )
    except KeyboardInterrupt:
        print("the predictions so far are kept: the same command continues after them", file=sys.stderr)
        raise
    if as_json:
        terminal.print_json(asdict(summary))
    else:
        summarise(summary, out, time.perf_counter() - started, escaped=escape_formulas)
