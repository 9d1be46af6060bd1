import ast
import io
from collections.abc import Callable, Iterator
from inspect import isfunction
from pathlib import Path
from typing import get_type_hints

from rich.console import Console

from labeltune.console import terminal


def test_progress_on_a_terminal_is_a_bar_and_elsewhere_lines() -> None:
    for is_terminal in (True, False):
        stream = io.StringIO()
        shown = terminal.Bar("training", 10, "layers", Console(file=stream, force_terminal=is_terminal, width=120))
        with shown:
            shown.advance(4)
            shown.say("loss 0.5")
        assert "training: 4 of 10" in stream.getvalue()
        assert "layers/s" in stream.getvalue()
        assert "loss 0.5" in stream.getvalue()
        assert ("\x1b[" in stream.getvalue()) == is_terminal


def test_nothing_of_what_is_printed_comes_back() -> None:
    """So no result can depend on messages, and a change in them retrains nothing."""
    public = [value for name, value in vars(terminal).items() if not name.startswith("_") and isfunction(value)]
    own = [function for function in public if function.__module__ == terminal.__name__]
    methods = [value for name, value in vars(terminal.Bar).items() if not name.startswith("_") and isfunction(value)]
    assert len(own) >= 4
    for function in (*own, *methods):
        returned = get_type_hints(function)["return"]
        assert returned in (type(None), terminal.Bar, Iterator[Callable[[int], None]]), function


def test_the_console_imports_nothing_of_the_library_but_itself() -> None:
    for path in Path(terminal.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                assert node.module.startswith("labeltune.console") or not node.module.startswith("labeltune")
