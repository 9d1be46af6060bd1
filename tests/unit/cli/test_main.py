"""The commands of `labeltune`."""

from pathlib import Path

import pytest

from labeltune.cli import main
from labeltune.evaluation.robustness import editing
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


@pytest.mark.parametrize(("more", "expected"), [("", {"en"}), ("ham,房间太小服务也不好\n", {"en", "zh"})])
def test_fetch_fills_the_cache_with_the_lexicons_of_the_rows_languages_and_no_others(
    project: Path, monkeypatch: pytest.MonkeyPatch, more: str, expected: set[editing.Language]
) -> None:
    with (project / "data/raw/messages/messages.csv").open("a", encoding="utf-8") as table:
        table.write(more)
    fetched: list[editing.Lexicon] = []
    monkeypatch.setattr(editing, "fetch", fetched.append)
    main.main(["fetch"])
    assert fetched == [lexicon for name in sorted(expected) for lexicon in editing.LEXICONS[name]]
