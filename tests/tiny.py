"""Tiny base models with random weights, one per architecture: the classes and file formats of the real ones."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = ["Classify the text as ham or spam. Text: free prize call now win cash Label: spam"] * 4 + [
    "Classify the text as ham or spam. Text: see you at home for lunch later Label: ham"
] * 4
VOCABULARY = 400
LAYERS = 3

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
_DECODER = _SIZES | {"num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
_ENCODER = _SIZES | {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 0, "type_vocab_size": 2}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_MODERN = {key: value for key, value in _ENCODER.items() if key != "type_vocab_size"} | {
    "cls_token_id": 2,
    "sep_token_id": 0,
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    "initializer_cutoff_factor": 2.0,
}
# Untied where the family's larger models are: a head that reads the wrong matrix can't pass there.
CONFIGURATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _DECODER | {"tie_word_embeddings": True}),
    "gemma3_text": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        _DECODER
        | {
            "head_dim": 8,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 8,
        },
    ),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _DECODER | {"tie_word_embeddings": False}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _DECODER | {"tie_word_embeddings": False, "head_dim": 8}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _GPT2),
    "bert": ("BertConfig", "BertModel", _ENCODER),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", _ENCODER),
    "mpnet": ("MPNetConfig", "MPNetForMaskedLM", {k: v for k, v in _ENCODER.items() if k != "type_vocab_size"}),
    "mistral": ("MistralConfig", "MistralForCausalLM", _DECODER | {"tie_word_embeddings": False}),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM", _ENCODER),
    "modernbert": ("ModernBertConfig", "ModernBertForMaskedLM", _MODERN),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _SIZES | {"bos_token_id": 0, "eos_token_id": 0}),
}
DECODERS = ("llama", "gemma3_text", "qwen2", "qwen3", "gpt2")
ENCODERS = ("bert", "roberta", "modernbert", "mpnet")
TWINS = {"mistral": "llama", "xlm-roberta": "roberta"}
"""Families whose parts are laid out as another's are."""
UNKNOWN = "gpt_neox"
"""A family that Transformers has and labeltune's table has not."""


@cache
def tokenizer(encoder: bool) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer in which ` ham` and ` spam` are one token each; an encoder's adds <s> and </s>."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|end|>"] if not encoder else ["</s>", "<pad>", "<s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(CORPUS, trainer)
    if not encoder:
        return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", pad_token="<pad>"
    )


def save_base(architecture: str, folder: Path, **changes: Any) -> Path:
    """Write a base model with its tokenizer; `changes` are keys of its configuration."""
    config_name, class_name, given = CONFIGURATIONS[architecture]
    config = getattr(transformers, config_name)(**given | changes)
    torch.manual_seed(0)
    network = getattr(transformers, class_name)(config)
    network.save_pretrained(folder)
    tokenizer(TWINS.get(architecture, architecture) in ENCODERS).save_pretrained(folder)
    return folder
