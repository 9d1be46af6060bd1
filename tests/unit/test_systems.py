"""Settings that others have published: each is one valid section, and trains a model of its family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft.tuners.lora import LoraLayer

from labeltune.methods import plain
from tests.tuning import logits, plan, reloaded, tune

Bases = Callable[..., Path]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHINESE: dict[str, Any] = {"words": ("正面", "负面"), "cue": "\n答案："}
SENTIMENT: dict[str, Any] = {
    "lora": {"rank": 8, "alpha": 16, "dropout": 0.05, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 1e-4,
    "scheduler": "linear",
    "warmup": 0.1,
    "checkpoints": 3,
}
SYSTEMS: dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]] = {
    # name: (family, plan, section, adapted layers by the ends of their names)
    "a decoder with an MLP head, LoRA": (
        "llama",
        {},
        {
            "seed": 42,
            "method": "lora",
            "head": "mlp",
            "lora": {"rank": 64, "alpha": 16, "dropout": 0.1, "targets": "all-linear"},
            "gradient_checkpointing": True,
            "checkpoints": 2,
        },
        ALL,
    ),
    "a decoder with an MLP head, full": (
        "llama",
        {"dtype": "bf16"},
        {"seed": 123, "method": "full", "head": "mlp", "gradient_checkpointing": True, "checkpoints": 2},
        [],
    ),
    "Chinese sentiment, LoRA": ("qwen2", CHINESE, {"method": "lora", "head": "linear", **SENTIMENT}, ALL[:4]),
    "Chinese sentiment, QLoRA": (
        "qwen2",
        CHINESE,
        {"method": "qlora", "head": "linear", "optimizer": "paged_adamw_8bit", **SENTIMENT},
        ALL[:4],
    ),
    "Chinese sentiment by label scoring": (
        "qwen2",
        CHINESE,
        {"method": "lora", "head": "label_scoring", **SENTIMENT},
        ALL[:4],
    ),
    "spam messages with GPT-2": (
        "gpt2",
        {},
        {
            "method": "lora",
            "head": "linear",
            "lora": {"rank": 8, "alpha": 32, "dropout": 0.1, "targets": ["c_attn", "c_proj"]},
            "epochs": 5,
            "batch_size": 16,
            "learning_rate": 1e-4,
            "scheduler": "cosine",
            "warmup": 0.1,
            "eval_steps": 100,
        },
        ["attn.c_attn", "attn.c_proj", "mlp.c_proj"],
    ),
    "questions with an encoder": (
        "bert",
        {"words": ("平台", "闲聊")},
        {
            "method": "lora",
            "head": "linear",
            "lora": {
                "rank": 8,
                "alpha": 16,
                "dropout": 0.1,
                "targets": ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
            },
        },
        ["query", "key", "value", "attention.output.dense", "intermediate.dense", ".output.dense"],
    ),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_published_settings_train(tiny_base: Bases, tmp_path: Path, system: str) -> None:
    family, options, section, adapted = SYSTEMS[system]
    made = plan(tiny_base(family), **options, **section)
    before = logits(made, made.build())
    network, history = tune(made)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}
    assert {end for end in adapted if any(name.endswith(end) for name in layers)} == set(adapted)
    assert all(name.endswith(tuple(adapted)) for name in layers)
    for module in layers.values():
        lora = made.train.lora
        assert (module.r["default"], module.scaling["default"]) == (lora.rank, lora.alpha / lora.rank)
        assert isinstance(module.base_layer, Linear4bit) == (made.train.method == "qlora")
    assert plain(network).is_activation_checkpointing == made.train.gradient_checkpointing
    assert history.validation[-1]["step"] == made.train.epochs  # seven rows are one batch
    answers = logits(made, network)
    assert torch.from_numpy(answers).isfinite().all()
    assert abs(answers - before).max() > 0
    assert (logits(made, reloaded(made, network, tmp_path / "saved").network) == answers).all()
