"""The package: what `import labeltune` gives, and what it does not load."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import labeltune
from labeltune.inference import classifier


def test_what_is_heavy_or_not_used_is_not_waited_for() -> None:
    script = """
import sys, labeltune
print("torch" in sys.modules, labeltune.Classifier.__module__)
import labeltune.cli.predict
print({"pandas", "peft", "sklearn", "matplotlib", "babel", "markdown_it"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["False labeltune.inference.classifier", "set()"]


@pytest.mark.parametrize("name", ["Answer", "Classifier", "Predictions"])
def test_what_predicts_is_imported_by_name(name: str) -> None:
    assert getattr(labeltune, name) is getattr(classifier, name)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'labeltune' has no attribute 'Clasifier'"):
        _ = labeltune.Clasifier


def test_the_version_is_the_distributions() -> None:
    assert labeltune.__version__ == version("labeltune")
