"""What is printed reaches an output of any encoding, and no text commands the terminal."""

import io
import json
import sys

import pytest

from labeltune.cli import predict
from labeltune.console import terminal
from labeltune.console.streams import printable
from labeltune.inference.classifier import Answer
from labeltune.runtime.errors import UserError, run

LABEL = "差评 \U0001f600 \x1b[2J\x9b2J\u202eham"
ANSWER = Answer(label=LABEL, confidence=0.9, probabilities={LABEL: 0.9, "ham": 0.1}, abstained=False, truncated=True)


def show_all() -> None:
    """Print by every function that prints."""
    terminal.say(LABEL)
    terminal.table(LABEL, ["name", LABEL], [(LABEL, 1234), ("b", 2)])
    terminal.print_json({LABEL: LABEL})
    with terminal.bar(LABEL, 4) as bar:
        bar.say(LABEL)
    predict.say(LABEL, ANSWER)
    predict.show([LABEL], [ANSWER], as_json=False)
    predict.show([LABEL], [ANSWER], as_json=True)


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "gb18030"])
def test_an_output_of_any_encoding_is_written_and_a_terminal_obeys_nothing(
    encoding: str, is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setenv("TERM", "dumb")  # in which rich writes no codes of its own
    monkeypatch.setattr(sys, "stdout", stream)
    run(show_all)
    stream.flush()
    text = written.getvalue().decode(encoding)
    assert text.count("ham") > 6
    assert not set(text) & set("\x1b\x9b\u202e")
    answers = [json.loads(line) for line in text.splitlines() if line.startswith('{"text"')]
    assert answers[-1]["text"] == LABEL  # nothing of JSON is replaced


def test_an_error_does_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError("\x1b]0;title\x07 is no label")

    with pytest.raises(SystemExit):
        run(fail)
    assert capsys.readouterr().err == "error: \\u001b]0;title\\u0007 is no label\n"


def test_words_that_rich_would_read_as_markup_or_emoji_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal.say("[bold]a[/bold] :smile: [/]")
    terminal.table("[b]t[/]", ["[b]name"], [("[/x]",)])
    with terminal.bar("[/red] :smile:", 3) as bar:
        bar.say("[/]")
    shown = capsys.readouterr().out
    for part in ("[bold]a[/bold] :smile: [/]", "[b]t[/]", "[b]name", "[/x]", "[/red] :smile:"):
        assert part in shown, part


@pytest.mark.parametrize("text", ["two\nlines\tand a tab", "क्षि 👩\u200d👧 é 中文"])
def test_scripts_and_emoji_stay(text: str) -> None:
    assert printable(text) == text
