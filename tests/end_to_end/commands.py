"""Commands as people type them, in a project as a Git and DVC repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(command: str, status: int = 0) -> str:
    """Run a command and return what it printed."""
    finished = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    printed = finished.stdout + finished.stderr
    assert finished.returncode == status, printed
    return printed


def user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user with a name and a home, who has this Python's commands."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "A User")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "user@example.org")


def commit_project(project: Path) -> None:
    """Make the project, the working folder, a repository with one commit."""
    (project / ".dvc/config").write_text(
        "[core]\n    analytics = false\n    check_update = false\n[plots]\n    html_template = plots/offline.html\n"
    )
    for command in (
        "git init --quiet",
        "dvc add --quiet data/raw/messages",
        "git add .",
        "git commit --quiet -m start",
    ):
        run(command)
