"""Weights in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), by bitsandbytes, on a GPU or a CPU."""

from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D


def four_bits(compute: torch.dtype, skipped: list[str]) -> BitsAndBytesConfig:
    """NF4 with double quantisation; the arithmetic is done in `compute`, and the modules `skipped` stay as they are."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=skipped,
    )


def settle(network: nn.Module) -> None:
    """Keep 4-bit weights in the one layout in which they can be trained, merged and saved.

    On CPUs with avx512_bf16 bitsandbytes 0.50 repacks them in the first pass without gradients. After that a BERT
    can't train, and merging an adapter reads the repacked bytes as if they were not: logits came out 1.8 off.
    """
    module: Any
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def fill_from(network: nn.Module, quantised: nn.Module) -> None:
    """Give a network of the same architecture the weights that another one's 4-bit weights stand for.

    Merged into these, an adapter answers as it was trained; merged into the base model's own it would not (peft#2321).
    """
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit

    module: Any
    for name, module in quantised.named_modules():
        if isinstance(module, Linear4bit):
            target: Any = network.get_submodule(name)
            packed: Any = module.weight
            weight = dequantize_4bit(packed.data, packed.quant_state)  # [outputs, inputs]
            target.weight.data.copy_(weight.T if isinstance(target, Conv1D) else weight)
