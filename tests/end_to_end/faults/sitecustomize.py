"""Loaded by every Python process that has this folder on PYTHONPATH; does something only to the train stage.

FAULT=kill:8:PATH kills it, once, where step 8's checkpoint should take its place; PATH is the file that remembers.
FAULT=hold:2:PATH holds it there: it writes its process id into the pipe PATH.held, and goes on once PATH.go is opened.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any


def befall(fault: str) -> None:
    kind, step, path = fault.split(":", 2)
    replace = os.replace

    def replacement(source: Any, target: Any) -> None:
        if Path(target).name == f"step-{int(step):08d}":
            if kind == "kill" and not Path(path).exists():
                Path(path).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "hold":
                held = os.open(f"{path}.held", os.O_WRONLY)  # stays open as long as the process lives
                os.write(held, f"{os.getpid()}\n".encode())
                os.close(os.open(f"{path}.go", os.O_RDONLY))
        replace(source, target)

    os.replace = replacement


if "FAULT" in os.environ and "stages.train" in sys.orig_argv:
    befall(os.environ["FAULT"])
