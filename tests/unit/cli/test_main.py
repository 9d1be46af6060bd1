"""The commands of `labeltune`."""

import pytest

from labeltune.cli import main
from labeltune.runtime.errors import UserError


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
