"""How rows are put into padded batches, and that nobody sees the padding."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeltune.config.model import Prompt
from labeltune.modeling import forward
from labeltune.modeling.architectures import ARCHITECTURES, layer_list
from labeltune.modeling.classifiers import shared_prefix
from labeltune.modeling.forward import compute_logits, pad, token_batches
from labeltune.modeling.prompts import Encoder
from labeltune.training import dataset
from labeltune.training.dataset import Collator, with_states
from tests import tuning
from tests.tiny import DECODERS

TEXTS = ["win a free prize now", "x", "see you at home for lunch later, call me", " spaced", "中文", ""]


def built(folder: Path, **train: object) -> tuple:
    plan = tuning.plan(folder, **train)
    prompt = Prompt(template="Classify the text as ham or spam. Text: {text}\nLabel:", max_length=64)
    plan = replace(plan, encoder=Encoder.of(plan.encoder.tokenizer, prompt, plan.labels))
    torch.manual_seed(0)
    network = plan.build()
    for parameter in network.parameters():  # adapters begin at zero
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return plan, network.eval()


@pytest.mark.parametrize("architecture", [*DECODERS, "mistral"])
@pytest.mark.parametrize(("method", "pooling"), [("full", "last"), ("lora", "last"), ("lora", "mean")])
def test_going_on_from_the_front_is_the_whole_pass(
    tiny_base: Callable, architecture: str, method: str, pooling: str
) -> None:
    plan, network = built(tiny_base(architecture), method=method, head="linear", pooling=pooling)
    prefix = shared_prefix(network, plan.encoder)
    rows = plan.encoder.encode(TEXTS).input_ids
    assert prefix is not None
    assert sum(prefix.begins(row) for row in rows) >= 3
    options = {"pad_id": plan.encoder.tokenizer.pad_token_id, "batch_tokens": 60}
    whole = compute_logits(network, rows, **options)
    np.testing.assert_allclose(compute_logits(network, rows, prefix=prefix, **options), whole, atol=2e-6)
    assert np.abs(whole).max() > 0.01


@pytest.mark.parametrize(
    ("architecture", "train"),
    [
        ("bert", {"head": "linear"}),
        ("llama", {"words": ("free prize", "call me")}),
    ],
    ids=["encoder", "several tokens"],
)
def test_where_the_front_is_not_enough_there_is_none(tiny_base: Callable, architecture: str, train: dict) -> None:
    plan, network = built(tiny_base(architecture), **train)
    assert shared_prefix(network, plan.encoder) is None


def test_a_text_that_merges_with_the_front_is_not_taken_for_one(tiny_base: Callable) -> None:
    plan, network = built(tiny_base("llama"), head="linear")
    prefix = shared_prefix(network, plan.encoder)
    assert prefix.begins([*prefix.tokens, 5])
    assert not prefix.begins(prefix.tokens)
    assert not prefix.begins([*prefix.tokens[:-1], prefix.tokens[-1] + 1, 5])


def test_threads_answer_as_one_does(tiny_base: Callable) -> None:
    plan, network = built(tiny_base("llama"), head="linear")
    rows = plan.encoder.encode(TEXTS * 5).input_ids
    options = {"pad_id": plan.encoder.tokenizer.pad_token_id, "batch_tokens": 40}
    before = torch.get_num_threads()
    done: list[int] = []
    try:
        torch.set_num_threads(1)
        one = compute_logits(network, rows, **options)
        torch.set_num_threads(3)
        several = compute_logits(network, rows, progress=done.append, **options)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(several, one)
    assert sum(done) == len(rows)


Bases = Callable[..., Path]


@pytest.mark.parametrize("seed", range(3))
def test_token_batches_hold_every_row_once_within_the_budget(seed: int) -> None:
    lengths = torch.randint(1, 50, (80,), generator=torch.Generator().manual_seed(seed)).tolist()
    batches = token_batches(lengths, 64)
    assert sorted(row for batch in batches for row in batch) == list(range(80))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 64


def test_padding_is_on_the_right_and_masked() -> None:
    batch = pad([[7, 8, 9], [5]], pad_id=3)
    assert batch["input_ids"].tolist() == [[7, 8, 9], [5, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def lengths_read(network: Any, read: Callable[[], Any]) -> set[int]:
    """Lengths of the batches that the first layer sees meanwhile."""
    seen: set[int] = set()
    first = layer_list(network.backbone())[0]
    hook = first.register_forward_pre_hook(
        lambda _, given, named: seen.add((given[0] if given else named["hidden_states"]).shape[1]), with_kwargs=True
    )
    read()
    hook.remove()
    return seen


@pytest.mark.parametrize("method", ["lora", "full"])
def test_lengths_are_rounded_up_where_a_kernel_is_compiled_for_each(tiny_base: Bases, method: str) -> None:
    seen = {}
    for dtype in ("fp32", "bf16"):
        made = tuning.plan(tiny_base("gemma3_text"), dtype=dtype, kernels="transformers", head="linear", method=method)
        network = made.load()
        rows = made.encoder.encode(tuning.TEXTS).input_ids
        seen[dtype] = lengths_read(network, lambda: compute_logits(network, rows, pad_id=0, batch_tokens=20))  # noqa: B023
    assert seen["fp32"] == {len(ids) for ids in rows}
    assert seen["bf16"] == {-(-length // 8) * 8 for length in seen["fp32"]}
    assert len(seen["bf16"]) < len(seen["fp32"])


@pytest.mark.parametrize(
    "train",
    [{"head": "linear"}, {"head": "linear", "pooling": "last"}, {"words": ("ham", "free prize"), "layers": 1}],
    ids=["mean", "last", "label words of several tokens"],
)
def test_a_rounded_length_changes_no_answer(
    tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: dict[str, Any]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    made = tuning.plan(tiny_base("gemma3_text"), kernels="transformers", **({"layers": 2} | train))
    network, given = made.load(), tuning.rows(made)

    def answers() -> list[np.ndarray]:
        states = dataset.states(network, given.input_ids, pad_id=0)
        options = {"pad_id": 0, "batch_tokens": 60}
        (rows,) = with_states(made, network, [given])
        batch = Collator(pad_id=0, multiple=forward.length_multiple(network))([rows[row] for row in range(len(rows))])
        return [
            compute_logits(network, given.input_ids, **options),
            compute_logits(network, given.input_ids, states=states, **options),
            network.eval()(**batch).logits.detach().numpy(),
        ]

    expected = answers()
    monkeypatch.setattr(forward, "length_multiple", lambda _: 8)
    monkeypatch.setattr(dataset, "length_multiple", lambda _: 8)
    lengths = lengths_read(network, lambda: compute_logits(network, given.input_ids, pad_id=0, batch_tokens=60))
    assert {(length - network.extra_tokens) % 8 for length in lengths} == {0}
    for one, other in zip(answers(), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_rounding_the_weights_once_changes_no_bit(tiny_base: Bases, tmp_path: Path, architecture: str) -> None:
    made = tuning.plan(tiny_base(architecture), dtype="bf16", head="linear", method="full", layers=1)
    network = made.build()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)) * 0.05)
    before = dict(network.named_parameters())
    batch = pad(made.encoder.encode(tuning.TEXTS).input_ids, pad_id=0, multiple=8)
    with torch.inference_mode(), forward.evaluating(network):
        rounded = {name for name, weight in network.named_parameters() if weight.dtype == torch.bfloat16}
        found = network(**batch).logits
        with forward.evaluating(network):
            assert torch.equal(network(**batch).logits, found)
        assert rounded == {name for name, weight in network.named_parameters() if weight.dtype == torch.bfloat16}
    with torch.inference_mode():
        assert torch.equal(network.eval()(**batch).logits, found)
    layers = len(layer_list(network.backbone()))
    assert len(rounded) >= 4 * layers  # attention's and the MLP's
    assert all(weight is before[name] for name, weight in network.named_parameters())

    loaded = tuning.reloaded(made, network, tmp_path / "saved")
    held = {name: weight.dtype for name, weight in loaded.network.named_parameters()}
    assert {name for name, dtype in held.items() if dtype == torch.bfloat16} == rounded
    assert (tuning.logits(made, loaded.network) == tuning.logits(made, network)).all()
    whole = tuning.reloaded(made, network, tmp_path / "saved", merge=True).network
    assert all(torch.equal(weight, before[name]) for name, weight in whole.named_parameters())


@pytest.mark.parametrize("settings", [{"method": "full", "dtype": "fp32"}, {"method": "lora", "dtype": "bf16"}])
def test_weights_that_nothing_rounds_stay(tiny_base: Bases, settings: dict[str, Any]) -> None:
    network = tuning.plan(tiny_base("llama"), head="linear", **settings).build()
    before = dict(network.named_parameters())
    with forward.evaluating(network):
        assert all(weight is before[name] for name, weight in network.named_parameters())
