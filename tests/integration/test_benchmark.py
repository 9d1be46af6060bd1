from pathlib import Path

import pytest

from benchmarks import run
from stages import configure, prepare


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ("layers: 2", ["trunk, layers 1 to 2", "whole pass", "a training batch"]),
        ("layers: all, method: qlora", ["whole pass", "a training batch"]),
    ],
)
def test_the_benchmark_times_every_part(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: str,
    parts: list[str],
) -> None:
    monkeypatch.setattr(run, "SIZE", 64)
    recipe = Path("conf/recipes/test.yaml")
    recipe.write_text(recipe.read_text().replace("layers: 2", settings))
    configure.main()
    prepare.main()
    capsys.readouterr()
    run.main()
    shown = capsys.readouterr().out
    assert all(part in shown for part in parts)
    assert ("trunk" in shown) == (parts[0].startswith("trunk"))
    assert "rows/s" in shown
