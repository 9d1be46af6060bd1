"""Methods: which weights train, all of them or low-rank adapters, and exactly those."""

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from labeltune.architectures import adapter_targets, architecture, layer_list
from labeltune.bases import quiet
from labeltune.models import head_parts
from labeltune.networks import LabelScoring
from labeltune.params import Train

if TYPE_CHECKING:
    from peft import PeftModel


def adapt(network: PreTrainedModel, settings: Train, base_name: str) -> nn.Module:
    """Leave exactly the weights to train that the method names; the others never move.

    `full`: the top `layers` layers, the norm behind them, and the head; with every layer also the embeddings.
    `lora` and `qlora`: adapters in those layers, and the head unless it scores label words at the model's full depth.

    Returns:
        The network, or a PEFT model around it.

    Raises:
        UserError: adapter targets that the model does not have.
    """
    if settings.method == "full":
        _unfreeze(network)
    else:
        network = _with_adapters(network, settings, base_name)
    if settings.gradient_checkpointing:
        plain(network).activation_checkpointing_enable({"use_reentrant": False})
        # Only reentrant checkpoints need this; it would keep the frozen trunk's activations for a backward pass.
        plain(network).disable_input_require_grads()
    _require_intended(network, settings)
    return network


def plain(network: Any) -> Any:
    """The Transformers model inside a PEFT model, or the model itself."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def prior(network: nn.Module) -> list[float] | None:
    """What a network takes off each label's score, None for most."""
    return getattr(plain(network), "prior", None)


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def parameter_counts(network: nn.Module) -> dict[str, int]:
    """How many parameters train, and how many there are, however few bits each has."""
    trainable = total = 0
    for name, weight in network.named_parameters():
        if ".original_module." not in name:  # what PEFT keeps of the head from before
            count = prod(weight.quant_state.shape) if hasattr(weight, "quant_state") else weight.numel()
            total += count
            trainable += count * weight.requires_grad
    return {"trainable": trainable, "total": total}


def _unfreeze(network: Any) -> None:
    backbone, scoring = network.backbone(), isinstance(network, LabelScoring)
    if network.trunk_layers:
        network.requires_grad_(False)
        layer_list(backbone)[network.trunk_layers :].requires_grad_(True)
        known = architecture(network.config)
        if known and known.norm:
            backbone.get_submodule(known.norm).requires_grad_(True)
        for part in head_parts(network):
            # An output embedding that is tied to the frozen input embedding stays frozen with it.
            if not (scoring and network.config.tie_word_embeddings):
                network.get_submodule(part).requires_grad_(True)


def transposed(network: nn.Module) -> bool:
    """Whether linear layers keep their weights as `[inputs, outputs]`, as GPT-2's do unless they are in 4 bits."""
    return any(isinstance(module, Conv1D) for module in network.modules())


def _with_adapters(network: Any, settings: Train, base_name: str) -> "PeftModel":
    from peft import LoraConfig, get_peft_model

    lora, config = settings.lora, network.config
    backbone = network.backbone()
    scoring = isinstance(network, LabelScoring)
    layers = list(range(network.trunk_layers, config.num_hidden_layers)) if architecture(config) else None
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        adapted = get_peft_model(
            network,
            LoraConfig(
                task_type="CAUSAL_LM" if scoring else "SEQ_CLS",
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                bias=lora.bias,
                use_rslora=lora.rslora,
                use_dora=lora.dora,
                fan_in_fan_out=transposed(network),
                target_modules=adapter_targets(backbone, lora.targets, base_name),
                layers_to_transform=layers,
                # The last name alone: PEFT matches ends of names, and saves by the same.
                modules_to_save=None if scoring else [part.rsplit(".", 1)[-1] for part in head_parts(network)],
            ),
        )
    # A label's row is the model's own word, saved so that the adapter is complete by itself; a shortened model's states
    # are not those that it was the word for, so that there the rows are where training begins.
    words = settings.head == "label_scoring" and not network.shortened
    for name, parameter in adapted.named_parameters():
        # What PEFT keeps of the head from before is never used, but `bias: all` would unfreeze it.
        if ".original_module." in name or (words and ".modules_to_save." in name):
            parameter.requires_grad_(False)
    return adapted


def _require_intended(network: nn.Module, settings: Train) -> None:
    """Refuse to train when anything but adapters, biases that were asked for, and a trainable head would change."""
    if settings.method == "full":
        return
    biases = (".bias",) if settings.lora.bias != "none" else ()
    stray = [
        name
        for name in trained(network)
        if ".lora_" not in name and ".modules_to_save." not in name and not name.endswith(biases)
    ]
    assert not stray, f"not meant to be trained: {stray}"
