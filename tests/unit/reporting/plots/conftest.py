from pathlib import Path

import pytest
from matplotlib.axes import Axes

from labeltune.reporting.plots import figures


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """Collect the axes of every figure that is saved."""
    collected: list[Axes] = []
    save = figures.save

    def keep(axes: Axes, path: Path) -> None:
        save(axes, path)
        collected.append(axes)

    monkeypatch.setattr(figures, "save", keep)
    return collected
