"""A project as people have it: under Git and DVC."""

from pathlib import Path

import pytest

from tests.end_to_end.commands import commit_project, user


@pytest.fixture
def repository(project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project as a Git and DVC repository with one commit."""
    user(tmp_path_factory.mktemp("home"), monkeypatch)
    commit_project(project)
    return project
