"""Adapters and trainable parameters: full fine-tuning, LoRA and QLoRA (Dettmers et al. 2023, arXiv:2305.14314)."""

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from labeltune.config.model import Train
from labeltune.modeling.architectures import adapter_targets, architecture_of, layer_list, unwrap
from labeltune.modeling.base_models import quiet
from labeltune.modeling.classifiers import LabelScoring, head_parts
from labeltune.modeling.network import Network
from labeltune.runtime.errors import UserError


def quantization_config(compute: torch.dtype, skipped: list[str]) -> BitsAndBytesConfig:
    """Return the configuration of NF4 with double quantization and arithmetic in `compute`, except for `skipped`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=skipped,
    )


def prepare_quantized(network: Network) -> None:
    """Keep 4-bit weights in the layout in which they can be trained, merged and saved.

    On CPUs with avx512_bf16 bitsandbytes 0.50 repacks them in the first pass without gradients. After that a BERT
    can't be trained, and merging an adapter misreads the repacked bytes: logits differed by 1.8.
    """
    module: Any
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def dequantize_from(network: Network, quantized: Network) -> None:
    """Copy dequantized weights of a 4-bit network to a network of the same architecture.

    An adapter that is merged into these weights predicts as it was trained; merged into the weights of the base model
    it would not (peft#2321).
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit

    module: Any
    for name, module in quantized.named_modules():
        if isinstance(module, Linear4bit):
            target: Any = network.get_submodule(name)
            packed: Any = module.weight
            weight = dequantize_4bit(packed.data, packed.quant_state)  # [outputs, inputs]
            target.weight.data.copy_(weight.T if isinstance(target, Conv1D) else weight)


if TYPE_CHECKING:
    from peft import PeftModel


def adapt(network: Network, settings: Train, base_name: str) -> Network:
    """Make exactly the weights trainable that the method names; the others never change.

    `full`: the top `layers` layers, the norm after them, and the head; with every layer also the embeddings.
    `lora` and `qlora`: adapters in those layers, and the head unless it scores label words at the model's full depth.
    `probe`: the head.

    Returns:
        The network, or a PEFT model around it.

    Raises:
        UserError: adapter targets that the model does not have, or layers that can't be recomputed.
    """
    if settings.method == "full":
        _unfreeze(network)
    elif settings.method == "probe":
        network.requires_grad_(False)
        for part in head_parts(network):
            network.get_submodule(part).requires_grad_(True)
        return network
    else:
        network = _with_adapters(network, settings, base_name)
    if settings.gradient_checkpointing:
        if not unwrap(network).supports_gradient_checkpointing:
            raise UserError(
                f"train.gradient_checkpointing: Transformers can't recompute the layers of {base_name}, a model of the "
                f"architecture {unwrap(network).config.model_type!r}; set it to false"
            )
        unwrap(network).activation_checkpointing_enable({"use_reentrant": False})
        # Only reentrant checkpoints need this; it would keep the frozen layers' activations for a backward pass.
        unwrap(network).disable_input_require_grads()
    _require_intended(network, settings)
    return network


def label_prior(network: Network) -> list[float] | None:
    """Return the prior that a network subtracts from each label's score, or None."""
    return getattr(unwrap(network), "prior", None)


def trainable_parameters(network: Network) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def parameter_counts(network: Network) -> dict[str, int]:
    """Return the numbers of trainable and of all parameters, which do not depend on their bits."""
    trainable = total = 0
    for name, weight in network.named_parameters():
        if ".original_module." not in name:  # PEFT's copy of the original head
            count = prod(weight.quant_state.shape) if hasattr(weight, "quant_state") else weight.numel()
            total += count
            trainable += count * weight.requires_grad
    return {"trainable": trainable, "total": total}


def _unfreeze(network: Network) -> None:
    backbone, scoring = network.backbone(), isinstance(network, LabelScoring)
    if network.frozen_layers:
        network.requires_grad_(False)
        layer_list(backbone)[network.frozen_layers :].requires_grad_(True)
        known = architecture_of(network.config)
        if known and known.norm:
            backbone.get_submodule(known.norm).requires_grad_(True)
        for part in head_parts(network):
            # An output embedding that is tied to the frozen input embedding stays frozen with it.
            if not (scoring and network.config.tie_word_embeddings):
                network.get_submodule(part).requires_grad_(True)


def transposed(network: Network) -> bool:
    """Return whether linear layers store `[inputs, outputs]`, as GPT-2's do unless they are in 4 bits."""
    return any(isinstance(module, Conv1D) for module in network.modules())


def _with_adapters(network: Network, settings: Train, base_name: str) -> "PeftModel":
    from peft import LoraConfig, get_peft_model

    lora, config = settings.lora, network.config
    backbone = network.backbone()
    scoring = isinstance(network, LabelScoring)
    layers = list(range(network.frozen_layers, config.num_hidden_layers)) if architecture_of(config) else None
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
                # Only the last part of the name, because PEFT matches and saves modules by the ends of their names.
                modules_to_save=None if scoring else [part.rsplit(".", 1)[-1] for part in head_parts(network)],
            ),
        )
    # At full depth a label's row is the language model's output embedding and stays fixed; it is saved so that the
    # adapter
    # is complete. The states of a shortened model do not match these rows, which are then trained from there.
    words = settings.head == "label_scoring" and not network.truncated
    for name, parameter in adapted.named_parameters():
        # PEFT's copy of the original head is not used, but `bias: all` would unfreeze it.
        if ".original_module." in name or (words and ".modules_to_save." in name):
            parameter.requires_grad_(False)
    return adapted


def _require_intended(network: Network, settings: Train) -> None:
    """Check that only adapters, the biases that were asked for, and a trainable head would change."""
    if settings.method == "full":
        return
    biases = (".bias",) if settings.lora.bias != "none" else ()
    stray = [
        name
        for name in trainable_parameters(network)
        if ".lora_" not in name and ".modules_to_save." not in name and not name.endswith(biases)
    ]
    assert not stray, f"not meant to be trained: {stray}"
