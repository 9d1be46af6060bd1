"""A user's mistake, a full disk and a signal: one message each, and an exit status."""

import errno
import signal

import pytest

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


def test_a_full_disk_of_an_unnamed_file_is_no_file_called_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        errors.run(failing(OSError(errno.ENOSPC, "No space left on device")))
    assert capsys.readouterr().err == "error: the disk is full; free some space\n"


def test_a_stopped_training_exits_as_the_shell_tells_of_its_signal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        errors.run(failing(errors.StoppedError(signal.SIGTERM, 40)))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM at step 40" in capsys.readouterr().err


def test_what_ends_well_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    called = []
    errors.run(lambda: called.append(1))
    assert called == [1]
    assert capsys.readouterr() == ("", "")


def test_several_problems_are_listed_and_a_single_one_is_not() -> None:
    assert errors.bullet(["one"]) == "one"
    assert errors.bullet(["one", "two"]) == "- one\n- two"


def test_a_message_of_a_megabyte_keeps_its_beginning_and_its_end() -> None:
    line = "x" * 1_000_000
    message = str(UserError(f"data.csv:3: {line}: name the column with --text"))
    assert len(message) < 1.1 * errors.MOST_CHARACTERS
    assert message.startswith("data.csv:3: xxx")
    assert message.endswith("name the column with --text")
    assert "996,041 characters left out" in message
    short = "x" * errors.MOST_CHARACTERS
    assert str(UserError(short)) == short
