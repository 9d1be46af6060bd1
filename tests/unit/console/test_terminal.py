import errno
import io

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
