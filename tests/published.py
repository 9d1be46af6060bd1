"""The published base models in small: their own configuration, class, tokenizer format and names of stored weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
        "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "bos_token_id": 50256, "eos_token_id": 50256,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "n_ctx": 1024, "n_embd": 768, "n_head": 12,
        "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
    },
    "bert-base-chinese": {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
        "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "type_vocab_size": 2,
        "vocab_size": 21128,
    },
    "qwen2.5-1.5b": {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
        "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 1536,
        "initializer_range": 0.02, "intermediate_size": 8960, "max_position_embeddings": 131072,
        "max_window_layers": 28, "num_attention_heads": 12, "num_hidden_layers": 28, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "sliding_window": 131072, "tie_word_embeddings": True,
        "use_sliding_window": False, "vocab_size": 151936,
    },
    "llama-3.2-1b-instruct": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "tie_word_embeddings": True,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
        "vocab_size": 128256,
    },
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 128, "n_ctx": 128},
    "bert-base-chinese": {
        "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2,
    },
    "qwen2.5-1.5b": {
        "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2,
        "max_window_layers": 2,
    },
    "llama-3.2-1b-instruct": {
        "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "num_hidden_layers": 2,
    },
}  # fmt: skip
SPREAD = {"initializer_range": 0.2}  # so that a small random model tells its inputs apart
CORPUS = [
    "win a free prize now", "see you at home for lunch later, call me", "free cash call now",
    "房间太小，服务也不好，不会再来", "书很好看，推荐大家买", "怎么申请表的权限", "你好呀，今天天气不错",
    "评论：情感倾向：正面 负面", "negative, positive", "Text: a prize",
]  # fmt: skip
CONTROL = {
    "gpt2": ["<|endoftext|>"],
    "qwen2.5-1.5b": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama-3.2-1b-instruct": ["<|begin_of_text|>", "<|eot_id|>"],
}
"""Control tokens, the one that begins or ends a text first."""


def config(name: str, **changes: Any) -> transformers.PretrainedConfig:
    """The published configuration, of its own class."""
    values = CONFIGURATIONS[name] | changes
    return transformers.AutoConfig.for_model(**values)


def network(name: str, **changes: Any) -> Any:
    """A model of the published class with random weights."""
    made = config(name, **changes)
    return getattr(transformers, made.architectures[0])(made)


def save_published(name: str, folder: Path) -> Path:
    """Write a small base model with the files that the published one has, and its names of weights."""
    folder.mkdir(parents=True)
    size = _save_bert_tokenizer(folder) if name == "bert-base-chinese" else _save_bpe_tokenizer(name, folder)
    # Qwen's embedding has more rows than its tokenizer has tokens.
    changes = SMALL[name] | SPREAD | {"vocab_size": size + 10 * (name == "qwen2.5-1.5b")}
    for key in ("bos_token_id", "eos_token_id"):
        if key in CONFIGURATIONS[name]:
            changes[key] = 0
    torch.manual_seed(0)
    made = network(name, **changes)
    (folder / "config.json").write_text(json.dumps(CONFIGURATIONS[name] | changes), encoding="utf-8")
    stored = {key: value.clone() for key, value in made.state_dict().items() if not _tied(key, made)}
    save_file(STORED.get(name, dict)(stored), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _tied(key: str, made: Any) -> bool:
    return key in ("lm_head.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias") and bool(
        made.config.tie_word_embeddings
    )


def _as_gpt2(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the model's prefix, and with the mask that old versions stored."""
    named = {key.removeprefix("transformer."): value for key, value in weights.items()}
    mask = torch.ones(1, 1, 128, 128).tril()
    return named | {f"h.{layer}.attn.bias": mask.clone() for layer in range(2)}


def _as_bert(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the names that TensorFlow gave to norms, and the pooler and pair task that a masked model leaves out."""
    renamed = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in weights.items()
    }
    return renamed | {
        "bert.pooler.dense.weight": torch.full((64, 64), 0.01),
        "bert.pooler.dense.bias": torch.zeros(64),
        "cls.seq_relationship.weight": torch.zeros(2, 64),
        "cls.seq_relationship.bias": torch.zeros(2),
    }


STORED: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "gpt2": _as_gpt2,
    "bert-base-chinese": _as_bert,
}


def _save_bpe_tokenizer(name: str, folder: Path) -> int:
    """A byte-level tokenizer in the published files; returns its number of tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=CONTROL[name], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    first = CONTROL[name][0]
    settings = {
        "gpt2": {"model_max_length": 1024, "tokenizer_class": "GPT2Tokenizer"},
        "qwen2.5-1.5b": {
            "tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "bos_token": None, "eos_token": first,
            "pad_token": first, "unk_token": None, "model_max_length": 131072,
        },
        "llama-3.2-1b-instruct": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": first, "eos_token": "<|eot_id|>",
            "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
        },
    }[name]  # fmt: skip
    if name == "llama-3.2-1b-instruct":
        template = processors.TemplateProcessing(single=f"{first} $A", special_tokens=[(first, 0)])
        inner.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
        inner.save(str(folder / "tokenizer.json"))
    else:
        inner.model.save(str(folder))  # vocab.json and merges.txt
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return inner.get_vocab_size()


def _save_bert_tokenizer(folder: Path) -> int:
    """WordPiece over single characters; returns its number of tokens."""
    characters = sorted({character for text in CORPUS for character in text if not character.isspace()})
    tails = [f"##{character}" for character in characters if character.isascii()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *tails]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    settings = {"do_lower_case": False, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return len(vocabulary)
