"""Passes: what the states of a network's frozen layers depend on, down to their last bits, and rows that passed."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labeltune import fused
from labeltune.fingerprint import versions
from labeltune.front import Front
from labeltune.hardware import device_name
from labeltune.inference import length_multiple
from labeltune.outputs import digest

CODE = (
    "architectures", "front", "frozen", "fused", "heads", "inference", "kernels", "lines", "models", "networks",
    "packing", "products", "quantisation", "tips", "trunk", "untuned", "watch",
)  # fmt: skip
"""Modules that decide how a pass is computed."""


def pass_key(
    network: Any, base_files: Mapping[str, str], input_ids: Sequence[Sequence[int]], front: Front | None
) -> dict[str, Any]:
    """All that the states of rows depend on, as JSON can hold it; not the number of threads.

    Neither seed, learning rate nor head is in it, nor any adapter: they are above the frozen layers.
    """
    tokens = hashlib.sha256()
    nodes = network.candidates.nodes if network.extra_tokens else ()
    for ids in input_ids:
        tokens.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
    return {
        "attention": network.config._attn_implementation,
        "autocast": str(network.autocast),
        "base": dict(base_files),
        "batch_tokens": fused.batch_tokens(network),
        "code": {name: digest(Path(__file__).with_name(f"{name}.py")) for name in CODE},
        "device": [device_name(), torch.backends.cpu.get_cpu_capability()],
        "dtype": str(network.dtype),
        "four_bits": getattr(network.config, "quantization_config", None) is not None,
        "front": len(front.tokens) if front else 0,
        "fused": fused.installed(network),
        "multiple": length_multiple(network),
        "nodes": [[node.token, node.parent, node.depth] for node in nodes],
        "tokens": tokens.hexdigest(),
        "versions": versions(),
    }


ROOM = 1 << 28
"""Most bytes of the states that wait for a trunk to end where they are."""


@dataclass(kw_only=True)
class Passed:
    """Rows that went up the untuned model, and their states behind the layers where a trunk may end.

    A trunk takes them as a group of their own, whether their states are still here or not: so its last bits do not
    depend on that.
    """

    rows: list[int]
    """Their places among the training rows and the validation rows behind them."""
    ends: Collection[int]
    """Layers behind which a trunk may end."""
    key: dict[str, Any] = field(default_factory=dict)
    """What their states depend on."""
    states: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    """Layer -> states of each row, `[length, size]` without the front's."""

    def put(self, layer: int, states: list[torch.Tensor]) -> None:
        """Keep states on the CPU, if a trunk may end there and there is room."""
        size = sum(one.nbytes for one in states)
        if layer in self.ends and size * (len(self.states) + 1) <= ROOM:
            self.states[layer] = [one.cpu() for one in states]

    def only(self, layer: int) -> None:
        """Forget what is not behind that layer."""
        self.states = {kept: states for kept, states in self.states.items() if kept == layer}
