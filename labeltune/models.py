"""Networks: a base model cut to a depth, with a head and adapters."""

import json
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from labeltune import heads, trunk
from labeltune.bases import Base, quiet
from labeltune.errors import UserError
from labeltune.hardware import DTYPES
from labeltune.labels import LabelSet
from labeltune.params import Train

ATTENTION = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "gemma3_text": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qwen2": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qwen3": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
HEAD = "score"


class _PooledClassification:
    """Mixin over Transformers' classifiers that applies the head to one pooled state, never to every position."""

    def forward(
        self: Any,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        states: torch.Tensor | None = None,
        **unused: Any,
    ) -> SequenceClassifierOutput:
        """Return logits `[batch, num_labels]` in fp32 for tokens `[batch, length]`, or for their trunk states.

        Args:
            states: what the layers below the first adapted one gave, `[batch, length, size]`, instead of tokens.
        """
        backbone = getattr(self, self.base_model_prefix)
        start = 0 if states is None else self.config.num_hidden_layers - self.adapted_layers
        upper = trunk.view(backbone, start, len(backbone.layers))
        hidden = upper(
            input_ids, attention_mask=attention_mask, inputs_embeds=states, use_cache=False
        ).last_hidden_state
        assert attention_mask is not None, "padding can't be told from tokens without the mask"
        pooled = heads.pool(hidden, attention_mask, self.config.pooling)
        return SequenceClassifierOutput(logits=self.score(pooled.float()))


def load_network(
    base: Base,
    labels: LabelSet,
    settings: Train,
    *,
    dtype: str,
    attention: str,
    tokenizer: transformers.PreTrainedTokenizerBase,
    cue: str,
) -> PreTrainedModel:
    """Load the base model cut to `settings.depth`, with a fresh head and no adapters.

    Args:
        dtype: fp32, bf16 or fp16; the head is always fp32.
        cue: the end of the prompt, after which label words are scored.

    Raises:
        UserError: a setting that this model can't do, with what to set instead.
    """
    config = classifier_config(base, labels, settings, tokenizer)
    kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    pooled_kind: Any = type(kind.__name__, (_PooledClassification, kind), {})
    with quiet():
        network = pooled_kind.from_pretrained(
            base.folder, config=config, dtype=DTYPES[dtype], attn_implementation=attention
        )
    network.adapted_layers = config.num_hidden_layers if settings.layers == "all" else settings.layers
    network.score = build_head(base, network, labels, settings, tokenizer, cue)
    return network


def classifier_config(
    base: Base, labels: LabelSet, settings: Train, tokenizer: transformers.PreTrainedTokenizerBase
) -> PretrainedConfig:
    """The base model's configuration, with the labels and the depth of this classifier.

    Raises:
        UserError: an architecture without a classifier here, or a depth that it does not have.
    """
    config = AutoConfig.from_pretrained(base.folder)
    if config.model_type not in ATTENTION:
        raise UserError(
            f"model: the architecture {config.model_type!r} of {base.name} is not supported; supported are "
            f"{', '.join(ATTENTION)}"
        )
    layers = config.num_hidden_layers
    depth = layers if settings.depth == "all" else settings.depth
    adapted = depth if settings.layers == "all" else settings.layers
    if depth > layers or adapted > depth:
        raise UserError(
            f"train.depth: {settings.depth} and train.layers: {settings.layers} do not fit {base.name}, which has "
            f"{layers} layers; depth is at most {layers}, layers at most the depth"
        )
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:depth]
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: i for i, name in enumerate(labels.names)}
    config.problem_type = "single_label_classification"
    config.pad_token_id = tokenizer.pad_token_id
    config.pooling = settings.pooling
    config.use_cache = False
    return config


def build_head(
    base: Base,
    network: PreTrainedModel,
    labels: LabelSet,
    settings: Train,
    tokenizer: transformers.PreTrainedTokenizerBase,
    cue: str,
) -> PreTrainedModel:
    """Build the head that `settings.head` names; its initial weights depend on the seed alone."""
    generator = torch.Generator().manual_seed(settings.seed)
    size = network.config.hidden_size
    if settings.head == "mlp":
        return heads.mlp_head(size, len(labels), settings.head_dropout, generator)
    if settings.head == "linear":
        return heads.linear_head(size, len(labels), generator, network.config.initializer_range)
    tokens = heads.label_tokens(tokenizer, labels, cue, first_token_labels=settings.first_token_labels)
    return heads.label_scoring_head(_output_rows(base, network, tokens))


def _output_rows(base: Base, network: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Rows of the language model's output embedding, `[num_labels, size]`, without loading the rest of it."""
    architecture = (json.loads((base.folder / "config.json").read_text(encoding="utf-8"))["architectures"] or [""])[0]
    if not architecture.endswith(("ForCausalLM", "LMHeadModel")):
        raise UserError(
            f"train.head: label_scoring needs a causal language model, and {base.name} is {architecture or 'not one'}; "
            "set train.head: linear or mlp"
        )
    if network.config.tie_word_embeddings:
        return network.get_input_embeddings().weight.data[tokens].clone()
    for file in sorted(base.folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            if "lm_head.weight" in weights.keys():  # noqa: SIM118 - not a mapping
                rows = weights.get_slice("lm_head.weight")
                return torch.cat([rows[token : token + 1] for token in tokens])
    raise UserError(f"train.head: label_scoring found no output embedding in {base.folder}; set train.head: linear")


def add_adapters(network: PreTrainedModel, settings: Train) -> PeftModel:
    """Add LoRA to the top `settings.layers` layers and leave exactly those adapters, and a trained head, to train."""
    depth, adapted = network.config.num_hidden_layers, network.adapted_layers
    targets = _targets(network, settings.lora.targets)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        adapter = get_peft_model(
            network,
            LoraConfig(
                task_type="SEQ_CLS",
                r=settings.lora.rank,
                lora_alpha=settings.lora.alpha,
                lora_dropout=settings.lora.dropout,
                target_modules=targets,
                layers_to_transform=None if adapted == depth else list(range(depth - adapted, depth)),
                modules_to_save=[HEAD],
            ),
        )
    if settings.head == "label_scoring":
        # The rows are saved with the adapter, so that it is complete by itself, but they are the model's own words.
        for name, parameter in adapter.named_parameters():
            if f".{HEAD}." in name:
                parameter.requires_grad_(False)
    _require_intended(adapter)
    return adapter


def _targets(network: PreTrainedModel, wanted: str | list[str]) -> list[str]:
    """Names of the layers that get an adapter."""
    if isinstance(wanted, list):
        present = {name.rsplit(".", 1)[-1] for name, _ in network.named_modules()}
        missed = [target for target in wanted if target not in present]
        if missed:
            raise UserError(f"train.lora.targets: no layer of this model is called {missed}")
        return wanted
    if wanted == "attention":
        return list(ATTENTION[network.config.model_type])
    linear = {
        name.rsplit(".", 1)[-1]
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and name.split(".")[0] != HEAD
    }
    return sorted(linear)


def _require_intended(adapter: PeftModel) -> None:
    """Refuse to train when anything but adapters and a trainable head would change."""
    trained = [name for name, parameter in adapter.named_parameters() if parameter.requires_grad]
    stray = [name for name in trained if ".lora_" not in name and f".{HEAD}.modules_to_save." not in name]
    assert not stray, f"not meant to be trained: {stray}"
