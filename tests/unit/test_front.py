from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from labeltune.front import shared_front
from labeltune.inference import compute_logits
from labeltune.params import Prompt
from labeltune.prompts import Encoder
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
    front = shared_front(network, plan.encoder)
    rows = plan.encoder.encode(TEXTS).input_ids
    assert front is not None
    assert sum(front.begins(row) for row in rows) >= 3
    options = {"pad_id": plan.encoder.tokenizer.pad_token_id, "batch_tokens": 60}
    whole = compute_logits(network, rows, **options)
    np.testing.assert_allclose(compute_logits(network, rows, front=front, **options), whole, atol=2e-6)
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
    assert shared_front(network, plan.encoder) is None


def test_a_text_that_merges_with_the_front_is_not_taken_for_one(tiny_base: Callable) -> None:
    plan, network = built(tiny_base("llama"), head="linear")
    front = shared_front(network, plan.encoder)
    assert front.begins([*front.tokens, 5])
    assert not front.begins(front.tokens)
    assert not front.begins([*front.tokens[:-1], front.tokens[-1] + 1, 5])


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
