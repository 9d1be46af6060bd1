"""The interface of a network for forward passes, kernels, probes and training."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

import torch
from torch import nn
from transformers import PretrainedConfig

from labeltune.modeling.label_scoring import LabelWords


class Network(Protocol):
    """A Transformers model whose output has one logit per label; `classifiers` has both kinds.

    A PEFT model of a network has the same attributes; `architectures.unwrap` returns the network inside.
    """

    config: PretrainedConfig
    """Transformers' configuration, truncated to the network's depth."""
    training: bool
    """Whether dropout is on."""
    trained_layers: int
    """Number of top layers that train; the others are frozen."""
    truncated: bool
    """Whether the base model has layers above this network's depth."""
    autocast: torch.dtype | None
    """Type of the arithmetic if it differs from the type of the weights, otherwise None."""
    all_states: bool
    """Whether the top layer is computed for every token, even if the head reads only one."""
    base_model_prefix: str
    """Attribute of the backbone."""
    transformers_class: Any
    """Transformers' class that the network's own class extends."""
    supports_gradient_checkpointing: bool
    """Whether Transformers can recompute the layers in the backward pass."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""

    @property
    def extra_tokens(self) -> int:
        """Tokens that each row has in the layers in addition to its prompt: nodes of the label words' tree."""

    @property
    def frozen_layers(self) -> int:
        """Number of layers below the first one that trains."""

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Return an output with `logits`, `[batch, num_labels]` in fp32."""

    def backbone(self) -> Any:
        """Return the model without its head."""

    def layers(self, from_tokens: bool, first: int, last: int) -> Any:
        """Return the backbone with the layers from `first` to before `last`, and with embeddings if `from_tokens`."""

    def run(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: Any,
        states: torch.Tensor | None,
        *,
        start: int | None = None,
        stop: int | None = None,
        positions: torch.Tensor | None = None,
        **inputs: Any,
    ) -> torch.Tensor:
        """Return hidden states of the layers from `start` to before `stop`."""

    def run_frozen_layers(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, prefix: Any = None
    ) -> torch.Tensor:
        """Return the states after the frozen layers, `[batch, length + extra_tokens, size]`."""

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Return a context with the type of the arithmetic."""

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on or off."""

    def eval(self) -> Self:
        """Switch dropout off."""

    def to(self, *given: Any) -> Self:
        """Move the weights to a device."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the weights with their names."""

    def modules(self) -> Iterator[nn.Module]:
        """Return every module inside."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Return every module inside with its path."""

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Return the modules that are attributes, with their names."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let all weights train, or none."""

    def save_pretrained(self, folder: Any, **options: Any) -> Any:
        """Write the weights and the configuration."""

    def get_input_embeddings(self) -> Any:
        """Return the embedding layer, whose `weight` is `[tokens, size]`."""

    def activation_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, bool]) -> None:
        """Recompute the layers in the backward pass instead of keeping their activations."""

    def disable_input_require_grads(self) -> None:
        """Let the embeddings' output have no gradient."""

    def get_submodule(self, target: str) -> nn.Module:
        """Return the module at a path."""


class PooledNetwork(Network, Protocol):
    """A network whose head reads one pooled state of a row."""

    pooling: str
    """`first`, `last`, `mean`, or `own` for what Transformers' classifier of this architecture does."""
    head_name: str
    """Attribute of the head; not used with the pooling `own`."""


class ScoringNetwork(Network, Protocol):
    """A network whose logits are the scores of label words."""

    label_words: LabelWords
    """The label words as tokens."""

    def subtract(self, prior: list[float] | None) -> None:
        """Subtract a prior, `[num_labels]`, from all scores from now on."""
