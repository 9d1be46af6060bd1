"""Watching a forward pass: the states behind each layer, pooled as soon as they are computed."""

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from labeltune import heads
from labeltune.architectures import architecture, layer_list
from labeltune.features import States
from labeltune.lines import Line

POOLINGS = ("mean", "last")
"""What stands for all states of a row: their mean, or that of its last token."""


class Watch(threading.local):
    """What one thread has seen of its batch; the states of every token are never kept."""

    def __init__(self, layers: Collection[int]) -> None:
        self.layers = layers
        self.seconds: dict[int, float] = {}
        """Layer -> time from the batch's begin until its states were known."""

    def begin(self, mask: torch.Tensor) -> None:
        """Expect a batch with this mask, `[batch, length]`."""
        self.mask, self.kept, self.seconds = mask, list[torch.Tensor](), {}
        self.started = time.perf_counter()

    def see(self, layer: int, hidden: torch.Tensor, line: Line | None) -> None:
        """Pool states `[batch, length or more, size]`, or those of a line; behind the mask are nodes of label words."""
        if layer in self.layers:
            hidden = hidden if line is None else line.spread(hidden)
            inside = hidden[:, : self.mask.shape[1]]
            pooled = [heads.pool(inside, self.mask, how).float() for how in POOLINGS]
            self.kept.append(torch.stack(pooled, dim=1).cpu())  # [batch, poolings, size]
            self.seconds[layer] = time.perf_counter() - self.started

    def pooled(self) -> States:
        """States of the batch, `[batch, layers, poolings, size]`."""
        assert len(self.kept) == len(self.layers), "a layer did not run, or ran twice"
        return torch.stack(self.kept, dim=1).numpy()


@contextmanager
def watching(network: Any, layers: Collection[int]) -> Iterator[Watch]:
    """Watch the layers of a network; their states are those that Transformers calls `hidden_states`."""
    watch = Watch(layers)
    backbone, parts = network.backbone(), _layer_list(network)
    top = network.config.num_hidden_layers

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch.see(0, args[0] if args else kwargs["hidden_states"], kwargs.get("line"))

    def after(layer: int, _: nn.Module, __: Any, kwargs: dict[str, Any], output: Any) -> None:
        watch.see(layer, output[0] if isinstance(output, tuple) else output, kwargs.get("line"))

    def behind(_: nn.Module, __: Any, kwargs: dict[str, Any], output: Any) -> None:
        watch.see(top, output.last_hidden_state, kwargs.get("line"))

    hooks = [backbone.register_forward_hook(behind, with_kwargs=True)]
    if parts is not None:
        hooks.append(parts[0].register_forward_pre_hook(before, with_kwargs=True))
        for layer, part in enumerate(parts[:-1], start=1):
            hooks.append(part.register_forward_hook(partial(after, layer), with_kwargs=True))
    try:
        yield watch
    finally:
        for hook in hooks:
            hook.remove()


def watched_layers(network: Any) -> tuple[int, ...]:
    """Layers whose states can be watched: 0 are the embeddings, the last one's come with the final norm."""
    count = network.config.num_hidden_layers
    return (count,) if _layer_list(network) is None else tuple(range(count + 1))


def _layer_list(network: Any) -> nn.ModuleList | None:
    """The layers of a network; of a family that labeltune does not know, the list that is as long as its depth."""
    backbone = network.backbone()
    if architecture(network.config):
        return layer_list(backbone)
    lists = [part for part in backbone.modules() if isinstance(part, nn.ModuleList)]
    return next((part for part in lists if len(part) == network.config.num_hidden_layers), None)
