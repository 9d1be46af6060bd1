"""User errors, signals that end a training, and the reporting of both."""

import errno
import gc
import os
import signal
import sys
from collections.abc import Callable

from labeltune.console.streams import accept_any_encoding, printable

MOST_CHARACTERS = 4_000
"""Maximum length of an error message, which may quote a line of a file of any length."""


class UserError(ValueError):
    """An error that the user can fix; the message states the value, what is allowed, and the key, file or line to edit.

    Stages and the command line print it as one message without a traceback and exit with status 1. A message of more
    than `MOST_CHARACTERS` is shortened in the middle.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shorten(message))


def shorten(message: str) -> str:
    """Remove the middle of a message that is too long, and state how many characters were removed.

    >>> shorten("at once")
    'at once'
    """
    left_out = len(message) - MOST_CHARACTERS
    if left_out <= 0:
        return message
    end = MOST_CHARACTERS // 4  # the advice is at the end of a message
    return f"{message[: MOST_CHARACTERS - end]} … ({left_out:,} characters left out) … {message[-end:]}"


def bullet(problems: list[str]) -> str:
    """Join several problems into one message with one line for each, so that all are reported at once."""
    return problems[0] if len(problems) == 1 else "\n".join(f"- {problem}" for problem in problems)


class StoppedError(Exception):
    """A signal ended the training after a step; its checkpoint is kept."""

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} at step {step}; the checkpoint is kept, the same command goes on from it")
        self.status = 128 + number
        """Exit status, by the shell's convention."""


WRITING_FAILED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
}


def run(main: Callable[[], None]) -> None:
    """Run a stage or a command; a user error is printed as one message, without a traceback, with exit status 1."""
    gc.freeze()  # what imports made stays anyway: no collection needs to look through it, as Trainer's first one would
    accept_any_encoding()
    try:
        main()
    except UserError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of the pipe has finished, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(141)  # the exit status after SIGPIPE in a shell
    except OSError as error:
        if error.errno not in WRITING_FAILED:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(printable(f"error: {where}{WRITING_FAILED[error.errno]}"), file=sys.stderr)
        sys.exit(1)
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
