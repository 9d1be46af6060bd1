"""The command line: `main` parses the arguments, and every other module implements one command.

Modules: `main`, `init`, `inspect_data`, `doctor`, `predict`, `compare`.
"""

import os


def entry() -> None:
    """Entry point of the console script."""
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # as in stages/__init__.py
    from labeltune.cli.main import main
    from labeltune.runtime.errors import run

    run(main)
