"""Settings of base models, prompts and training: impossible combinations, and the learning rate of a method."""

from typing import Any

import pytest
from pydantic import ValidationError

from labeltune.config.model import RATES, Model, Prompt, Train


def train(**changes: Any) -> Train:
    return Train.model_validate({"seed": 1, **changes})


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        train(class_weights={"a": 0, "b": 1, "c": 1})


def test_the_learning_rate_is_a_number_or_one_per_method() -> None:
    assert train(learning_rate=1e-4).rate == 1e-4
    assert train(learning_rate={"full": 1e-5, "lora": 2e-4}, method="lora").rate == 2e-4
    assert train(method="full").rate < train(method="lora").rate
    with pytest.raises(ValidationError, match=r"learning_rate has \['full', 'lora'\], and none for method: qlora"):
        train(learning_rate={"full": 1e-5, "lora": 2e-4}, method="qlora")
    with pytest.raises(ValidationError):
        train(learning_rate={"full": 1e-5, "adapters": 2e-4})
    with pytest.raises(ValidationError):
        train(learning_rate=0)


def test_every_method_has_a_rate_of_its_own() -> None:
    assert {train(method=method).rate for method in RATES} == set(RATES.values())
    assert {method: train(method=method).rate for method in RATES} == RATES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 2, "lora": {"bias": "all"}}, "lora.bias: all trains biases in every layer; set layers: all, or"),
        ({"head": "label_scoring", "pooling": "mean"}, "reads the last token; pooling: mean does not fit it"),
        ({"head": "mlp", "head_initialization": "regression"}, "regression is for head: linear, not mlp"),
        ({"depth": 0}, "depth"),
        ({"layers": "top"}, "layers"),
        ({"epochs": float("inf")}, "epochs"),
        ({"threads": 1025}, "threads"),
        ({"class_weights": {}, "warmup": 1.0}, "warmup"),
        ({"method": "probe"}, "method: probe fits a linear head, and head: label_scoring is none; set head: linear"),
        ({"method": "probe", "head": "linear", "class_weights": "balanced"}, "neither class_weights nor label_smooth"),
        (
            {"method": "ngrams", "class_weights": {"a": 2.0}},
            "method: ngrams is a regression with neither class_weights",
        ),
        ({"method": "probe", "head": "linear", "label_smoothing": 0.1}, "neither class_weights nor label_smoothing"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        train(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "full", "layers": 2, "lora": {"bias": "all"}},
        {"layers": 2, "lora": {"bias": "lora_only"}},
        {"head": "linear", "pooling": "mean"},
        {"head": "linear", "head_initialization": "regression"},
        {"head": "mlp", "head_initialization": "random"},
        {"method": "probe", "head": "linear", "learning_rate": {"lora": 1e-4}},
        {"method": "ngrams", "head": "label_scoring"},
    ],
)
def test_what_fits_together_is_taken(changes: dict[str, Any]) -> None:
    assert train(**changes).seed == 1


@pytest.mark.parametrize("template", ["no text", "{text} and {text}", "{ text }"])
def test_a_template_that_has_not_its_text_once_is_refused(template: str) -> None:
    with pytest.raises(ValidationError, match=r"template must contain \{text\} exactly once"):
        Prompt(template=template)


def test_a_model_of_a_package_names_its_files() -> None:
    pin = {"requirement": "tiny==1.0", "sha256": "0" * 64}
    with pytest.raises(ValidationError, match="source: package needs the key 'members'"):
        Model.model_validate({"name": "tiny", "source": "package", "archives": [pin]})
    assert Model.model_validate(
        {"name": "tiny", "source": "package", "archives": [pin], "members": ["m.gguf"]}
    ).members == ["m.gguf"]
