import ast
import errno
import io
from collections.abc import Callable, Iterator
from inspect import isfunction
from pathlib import Path
from typing import get_type_hints

import pytest
from rich.console import Console

from labeltune.cli import main
from labeltune.console import terminal
from labeltune.runtime import errors
from labeltune.runtime.errors import UserError


def failing(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("train.depth: 9"), 1, "error: train.depth: 9\n"),
        (PermissionError(errno.EACCES, "x", "models/classifier"), 1, "error: models/classifier: permission denied\n"),
        (OSError(errno.ENOSPC, "x", "data/a.csv"), 1, "error: data/a.csv: the disk is full; free some space\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_a_users_mistake_is_one_message_and_a_status(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        errors.run(failing(error))
    assert stopped.value.code == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.ECONNRESET, "x")])
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        errors.run(failing(error))


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


@pytest.mark.parametrize(
    ("kind", "name"), [("recipes", "default"), ("datasets", "sms-spam"), ("models", "smollm2-135m")]
)
def test_the_command_lists_what_can_be_chosen(kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main.main([kind])
    out = capsys.readouterr().out
    assert any(line.startswith(name) and len(line) > 40 for line in out.splitlines())


def test_the_command_without_a_project_says_where_to_run_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run this in the project's top folder"):
        main.main(["recipes"])


def test_nothing_of_what_is_printed_comes_back() -> None:
    """So no result can depend on messages, and a change in them retrains nothing."""
    public = [value for name, value in vars(terminal).items() if not name.startswith("_") and isfunction(value)]
    own = [function for function in public if function.__module__ == terminal.__name__]
    methods = [value for name, value in vars(terminal.Bar).items() if not name.startswith("_") and isfunction(value)]
    assert len(own) >= 4
    for function in (*own, *methods):
        returned = get_type_hints(function)["return"]
        assert returned in (type(None), terminal.Bar, Iterator[Callable[[int], None]]), function


def test_the_console_imports_nothing_of_the_library() -> None:
    for path in Path(terminal.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                assert not node.module.startswith("labeltune")


def test_a_full_disk_of_an_unnamed_file_is_no_file_called_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        errors.run(failing(OSError(errno.ENOSPC, "No space left on device")))
    assert capsys.readouterr().err == "error: the disk is full; free some space\n"
