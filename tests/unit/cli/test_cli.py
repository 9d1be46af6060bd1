"""The console script."""

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from labeltune import cli


def test_the_console_script_is_the_entry_point() -> None:
    (script,) = entry_points(group="console_scripts", name="labeltune")
    assert script.load() is cli.entry


def test_a_mistake_is_a_message_and_a_status_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["labeltune", "recipes"])
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with pytest.raises(SystemExit) as stopped:
        cli.entry()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "run this in the project's top folder" in said
    assert said.count("\n") == 1
