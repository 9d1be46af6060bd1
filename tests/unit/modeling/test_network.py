"""Every kind of network has what `Network` promises, on its own and inside PEFT's model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labeltune.modeling.architectures import unwrap
from labeltune.modeling.forward import pad
from labeltune.modeling.network import Network
from tests.tiny import LAYERS
from tests.tuning import plan, rows

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "label words": ("llama", {"head": "label_scoring"}),
    "label words of several tokens": ("llama", {"head": "label_scoring", "words": ("ham it up", "ham on rye")}),
    "linear head of a decoder": ("gpt2", {"head": "linear"}),
    "native head of an encoder": ("bert", {"head": "linear"}),
    "MLP": ("modernbert", {"head": "mlp"}),
}
MEMBERS = sorted({*Network.__annotations__, *(name for name in vars(Network) if not name.startswith("_"))})


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_network_has_the_members_of_the_protocol(tiny_base: Callable[..., Path], kind: str, method: str) -> None:
    architecture, settings = KINDS[kind]
    made = plan(tiny_base(architecture), method=method, layers=2, **settings)
    network: Network = made.build()
    missing = [name for name in MEMBERS if not hasattr(network, name)]
    assert missing == []
    assert (unwrap(network) is network) == (method == "full")
    assert (network.trained_layers, network.frozen_layers) == (2, LAYERS - 2)
    assert network.config.num_hidden_layers == LAYERS
    assert (network.extra_tokens > 0) == (kind == "label words of several tokens")
    batch = pad(rows(made).input_ids, made.encoder.tokenizer.pad_token_id)
    with torch.no_grad():
        logits = network.eval()(**batch).logits
    assert logits.shape == (len(batch["input_ids"]), 2)
    assert logits.dtype == torch.float32
