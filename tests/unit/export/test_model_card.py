"""The card of an export."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from labeltune.export import model_card
from labeltune.inference.artifact import Record
from tests import tuning


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["call the doctor", "win a prize now"], "en"),
        (["房间太小了", "很好"], "zh"),
        (["rufen Sie uns an", "gewinnen Sie jetzt"], None),
        (["メールを送る"], None),
    ],
)
def test_the_language_is_named_only_where_it_can_be_told(texts: list[str], code: str | None) -> None:
    assert model_card.spoken(texts) == code


@pytest.fixture
def record(tiny_base: Callable[..., Path]) -> Record:
    """The record of a classifier that was trained on a data set of the Hub."""
    return replace(
        tuning.record(tuning.plan(tiny_base("llama"))), dataset="sms", data={"source": "hub", "hub": "a/sms"}
    )


def header_of(record: Record, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "onnx": False,
        "own": False,
        "texts": ["call the doctor"],
        "compared": "c",
        "figures": None,
    }
    card = model_card.export_card(record, **given | options)
    return dict(YAML(typ="safe").load(card.removeprefix("---\n").split("\n---\n\n", 1)[0]))


@pytest.mark.parametrize(
    ("license", "header"),
    [
        (None, {"license": "unknown"}),
        ("MIT", {"license": "mit"}),
        ("LicenseRef-Gemma-Terms-of-Use", {"license": "gemma"}),
        ("Mine 2", {"license": "other", "license_name": "mine-2", "license_link": "https://example.com/terms"}),
    ],
)
def test_the_licence_has_the_hubs_name_or_its_own(record: Record, license: str | None, header: dict[str, str]) -> None:
    model = record.model.model_copy(update={"license": license, "url": "https://example.com/terms"})
    found = header_of(replace(record, model=model))
    assert {key: value for key, value in found.items() if key.startswith("license")} == header


FIGURES = {
    "accuracy": 0.91234, "macro_f1": 0.9, "roc_auc": None, "n": 57,
    "intervals": {"accuracy": {"low": 0.81, "high": 0.97}, "macro_f1": None, "roc_auc": None},
}  # fmt: skip


def test_the_header_holds_the_figures_that_are_defined_with_their_intervals(record: Record) -> None:
    (model,) = header_of(record, figures=FIGURES)["model-index"]
    (result,) = model["results"]
    accuracy, f1 = result["metrics"]
    assert (accuracy["type"], accuracy["value"], f1["type"], f1["value"]) == ("accuracy", 0.9123, "f1", 0.9)
    assert accuracy["args"] == {"interval_95": [0.81, 0.97], "rows": 57}
    assert "args" not in f1
    assert result["dataset"]["split"] == "test"
    assert "model-index" not in header_of(record)


def test_the_table_shows_the_same_figures_and_says_where_there_are_none(record: Record) -> None:
    def shown(figures: dict[str, Any] | None) -> str:
        options: dict[str, Any] = {"onnx": False, "own": False, "texts": ["a"], "compared": "c"}
        return model_card.export_card(record, figures=figures, **options)

    assert "This export on 57 test rows of sms:" in shown(FIGURES)
    assert "| Accuracy | 0.912 | 0.810 to 0.970 |" in shown(FIGURES)
    assert "| F1, macro | 0.900 |  |" in shown(FIGURES)
    assert "ROC-AUC" not in shown(FIGURES)
    assert "One row is 14.29 points of accuracy.\nNo labelled test rows" in shown(None)


@pytest.mark.parametrize(("onnx", "own"), [(True, False), (False, True), (False, False)])
def test_the_snippet_is_python_and_trusts_code_only_where_there_is_some(record: Record, onnx: bool, own: bool) -> None:
    use = model_card.export_card(record, onnx=onnx, own=own, texts=["a"], compared="all agree", figures=None)
    compile(use.split("```python\n")[1].split("```")[0], "snippet", "exec")
    assert ("trust_remote_code=True" in use) == own
    assert ("onnxruntime" in use) == onnx
    assert "all agree" in use
