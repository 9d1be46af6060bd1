"""Rows side by side against the same rows padded: logits, gradients, and which of them a batch really holds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from labeltune.config.model import Prompt
from labeltune.modeling import adapters, architectures, packing
from labeltune.modeling.packing import BOTH_WAYS, PADDING, PREFIX
from labeltune.modeling.prompts import EncodedRows, Encoder
from labeltune.runtime.errors import UserError
from labeltune.training import dataset, finetune
from labeltune.training.dataset import Collator, with_states
from tests import tuning
from tests.tiny import DECODERS

Bases = Callable[..., Path]
TEXTS = [*tuning.TEXTS, "free prize call now cash " * 4]
ANSWERS = [*tuning.ANSWERS, 1]


def made(base: Path, **train: Any) -> tuple[Any, Any, EncodedRows]:
    """A plan whose prompts share a prefix, its network with random adapters, and rows with frozen layers' states."""
    plan = tuning.plan(base, **train)
    prompt = Prompt(template="Classify the text as ham or spam. Text: {text}\nLabel:", max_length=96)
    plan = replace(plan, encoder=Encoder.of(plan.encoder.tokenizer, prompt, plan.labels))
    torch.manual_seed(0)
    network = plan.build()
    for parameter in network.parameters():  # adapters begin at zero
        if parameter.requires_grad and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    (rows,) = with_states(plan, architectures.unwrap(network), [tuning.rows(plan, TEXTS, ANSWERS)])
    return plan, network, rows


def learnt(network: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits of a batch, and the gradients of what trains; nothing is dropped."""
    network.zero_grad()
    logits = network.eval()(**{name: part for name, part in batch.items() if name not in ("labels", "rows")}).logits
    functional.cross_entropy(logits, batch["labels"]).backward()
    found = adapters.trainable_parameters(network).values()
    return logits.detach(), [part.grad.clone() for part in found if part.grad is not None]


@pytest.mark.parametrize("architecture", [*DECODERS, "mistral", *BOTH_WAYS])
@pytest.mark.parametrize(
    "train",
    [
        {"pooling": "mean", "layers": 1},
        {"pooling": "last", "layers": 2},
        {"pooling": "first", "method": "full"},
        {"pooling": "mean", "method": "full", "head": "mlp", "head_dropout": 0.0, "gradient_checkpointing": True},
    ],
    ids=["mean", "last", "first", "mlp"],
)
def test_side_by_side_rows_learn_what_padded_ones_learn(
    tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, train: dict[str, Any]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(packing, "PACKED_LENGTH", 70)
    if architecture == "mpnet":
        train = {**train, "gradient_checkpointing": False}
    plan, network, rows = made(tiny_base(architecture), **{"head": "linear", **train})
    packed_by = dataset.choose_packing(plan, architectures.unwrap(network))
    assert packed_by is not None
    assert (len(packed_by.prefix) > 4) == (architecture not in BOTH_WAYS)
    items = [rows[row] for row in range(len(rows))]
    expected, gradients = learnt(network, Collator(pad_id=0)(items))
    for multiple in (1, 16):
        packed = Collator(pad_id=0, packing=replace(packed_by, multiple=multiple))(items)
        assert packed["owners"].shape[1] % multiple == 0
        assert 1 < len(packed["owners"]) < len(items)
        found, others = learnt(network, packed)
        assert float((found - expected).abs().max()) < 1e-5
        assert len(others) == len(gradients) > 2
        for one, other in zip(gradients, others, strict=True):
            assert float((one - other).abs().max()) < 1e-5 * max(1.0, float(one.abs().max()))
    assert max(float(one.abs().max()) for one in gradients) > 1e-3


def test_every_token_is_there_once_and_the_front_once_a_bin(tiny_base: Bases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PACKED_LENGTH", 40)
    rows = [{"input_ids": [9, 9, 9, 9, *range(20, 20 + length)]} for length in (5, 30, 12, 21)]
    rows.append({"input_ids": [1, 2, 3]})  # one that does not begin with the prefix
    batch = packing.SequencePacking(prefix=(9, 9, 9, 9), pooling="mean").collate(rows, pad_id=0)
    for row, given in enumerate(rows):
        own = batch["owners"] == row
        skip = 4 if row < 4 else 0
        assert batch["input_ids"][own].tolist() == given["input_ids"][skip:]
        assert batch["position_ids"][own].tolist() == list(range(skip, len(given["input_ids"])))
        reading = batch["pooling_weights"].reshape(len(rows), *batch["owners"].shape)[row]
        assert float(reading.sum()) == pytest.approx(1)
        assert int((reading > 0).sum()) == len(given["input_ids"])
    prefixes = (batch["owners"] == PREFIX).sum(1).tolist()
    assert sorted(prefixes) == [0, 4, 4]
    assert int((batch["owners"] == PADDING).sum()) == batch["owners"].numel() - 68 - 3 - 8


@pytest.mark.parametrize(
    ("architecture", "train"),
    [
        ("bert", {"head": "linear", "pooling": "auto"}),
        ("gpt_neox", {"head": "linear", "pooling": "mean", "lora": {"targets": "all-linear"}}),
        ("llama", {"words": ("ham", "free prize")}),
        ("llama", {"head": "linear", "packing": False}),
    ],
    ids=["own pooler", "unknown family", "label words", "off"],
)
def test_what_is_not_packed_is_padded(tiny_base: Bases, architecture: str, train: dict[str, Any]) -> None:
    plan = tuning.plan(tiny_base(architecture), **train)
    assert dataset.choose_packing(plan, plan.load()) is None
    if train.get("packing") is None:
        asked = tuning.plan(tiny_base(architecture), **train, packing=True)
        with pytest.raises(UserError, match="train.packing: true needs a decoder"):
            dataset.choose_packing(asked, asked.load())


def test_training_is_packed(tiny_base: Bases, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(finetune, "Collator", lambda **given: seen.append(given) or Collator(**given))
    for setting in ("auto", False):
        tuning.tune(tuning.plan(tiny_base("llama"), head="linear", packing=setting))
    assert [given["packing"] is not None for given in seen] == [True, False]
