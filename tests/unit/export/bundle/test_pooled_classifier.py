"""A head on pooled states, against the same arithmetic row by row."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModel

from labeltune.export.bundle.pooled_classifier import PooledClassifier, PooledConfig
from tests.tiny import CONFIGURATIONS

Bases = Callable[..., Path]
ROWS = [[5, 17, 40, 9], [63, 22], [7]]


def made(folder: Path, pooling: str, widths: list[int], *, bias: bool = True) -> PooledClassifier:
    backbone = AutoModel.from_pretrained(folder)
    torch.manual_seed(0)
    config = PooledConfig(
        backbone=backbone.config.to_dict(), pooling=pooling, widths=widths, bias=bias, num_labels=3, pad_token_id=0
    )
    model = PooledClassifier(config).eval()
    model.backbone.load_state_dict(backbone.state_dict(), strict=False)
    return model


def batch() -> dict[str, torch.Tensor]:
    length = max(map(len, ROWS))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ROWS])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_logits_are_those_of_each_row_by_itself(tiny_base: Bases, architecture: str, pooling: str) -> None:
    model = made(tiny_base(architecture), pooling, [8])
    with torch.no_grad():
        found = model(**batch()).logits
        for row, logits in zip(ROWS, found, strict=True):
            states = model.backbone(input_ids=torch.tensor([row])).last_hidden_state[0]  # [length, size]
            pooled = {"first": states[0], "last": states[-1], "mean": states.mean(0)}[pooling]
            inner = functional.relu(functional.linear(pooled, model.head[0].weight, model.head[0].bias))
            expected = functional.linear(inner, model.head[1].weight, model.head[1].bias)
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_without_a_mask_every_token_counts(tiny_base: Bases) -> None:
    model = made(tiny_base("gpt2"), "mean", [])
    ids = torch.tensor([[5, 17, 0]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, model(ids, attention_mask=torch.ones_like(ids)).logits)


def test_its_layers_are_those_of_the_configuration_and_no_pooler(tiny_base: Bases) -> None:
    model = made(tiny_base("bert"), "first", [8, 4], bias=False)
    size = CONFIGURATIONS["bert"][2]["hidden_size"]
    assert [(layer.in_features, layer.out_features) for layer in model.head] == [(size, 8), (8, 4), (4, 3)]
    assert all(layer.bias is None for layer in model.head)
    assert model.backbone.pooler is None


def test_it_is_saved_and_loaded_as_models_of_transformers_are(tiny_base: Bases, tmp_path: Path) -> None:
    model = made(tiny_base("gpt2"), "last", [8])
    model.save_pretrained(tmp_path)
    again = PooledClassifier.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**batch()).logits, model(**batch()).logits, rtol=0, atol=0)
