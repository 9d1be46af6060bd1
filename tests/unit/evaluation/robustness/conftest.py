"""Perturbations of a text, with lexicons that a test makes."""

from pathlib import Path

import pytest

from labeltune.data.labels import LabelSet
from labeltune.evaluation.robustness.evaluate import perturb
from labeltune.runtime import cache, downloads
from tests.lexicon import fill_lexicons

LABELS = LabelSet(names=("a", "b", "c"), words=("ham", "spam", "other"))


@pytest.fixture
def lexicons(_own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lexicons of `tests.lexicon` in the cache, and no download."""

    def refuse(requirement: str, sha256: str) -> Path:
        raise AssertionError(f"{requirement} is fetched")

    monkeypatch.setattr(downloads, "fetch_archive", refuse)
    fill_lexicons(cache.cache_dir())


def changed(name: str, text: str, *, row: str = "7", severity: float = 0.1, seed: int = 0, label: int = 0) -> str:
    """Apply the perturbation of this name."""
    return perturb(name, text, row=row, label=label, labels=LABELS, severity=severity, seed=seed)


def many(name: str, text: str, severity: float = 0.1) -> list[str]:
    """Apply a perturbation to a text as 60 different rows."""
    return [changed(name, text, row=str(row), severity=severity) for row in range(60)]
