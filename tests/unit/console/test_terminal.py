import ast
import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from inspect import isfunction
from pathlib import Path
from typing import get_type_hints

import pytest
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


@pytest.mark.parametrize("done", [0, 4, 10])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_that_ends_early_by_design_is_shown_as_finished(done: int, is_terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, width=120, color_system=None)
    with terminal.Bar("training", 10, "rows", console) as shown:
        if done:
            shown.advance(done)
        shown.say("validation accuracy 0.9")
    last = [line for line in stream.getvalue().splitlines() if "training" in line][-1]
    if is_terminal:
        assert "━" in last
        assert "╸" not in last
        assert f"{done}/{done}" in last
    else:
        assert last == f"training: finished, {done} rows"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_that_an_error_ends_is_not(is_terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, width=120, color_system=None)
    with suppress(RuntimeError), terminal.Bar("training", 10, "rows", console) as shown:
        shown.advance(4)
        shown.say()
        raise RuntimeError
    assert "finished" not in stream.getvalue()
    assert "4/4" not in stream.getvalue()
    assert ("4/10" in stream.getvalue()) == is_terminal


def test_progress_is_shown_by_one_library_from_one_module() -> None:
    package = Path(terminal.__file__).parents[1]
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] in ("tqdm", "alive_progress") or name == "rich.progress" for name in names):
                found.add(path.relative_to(package).as_posix())
    assert found == {"console/terminal.py"}


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
