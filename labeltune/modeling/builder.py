"""Building a network: a base model truncated to a depth, with a head, in the dtype and bits of the method."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from labeltune.config.model import Train
from labeltune.console.terminal import say
from labeltune.data.labels import LabelSet
from labeltune.modeling import architectures, classifiers
from labeltune.modeling.adapters import adapt, prepare_quantized, quantization_config
from labeltune.modeling.architectures import is_encoder
from labeltune.modeling.base_models import Base, load_config, quiet
from labeltune.modeling.classifiers import NATIVE_HEADS, LabelScoring, PooledClassification, head_parts
from labeltune.modeling.device import DTYPES, Machine, device
from labeltune.modeling.forward import compute_logits
from labeltune.modeling.kernels import fused
from labeltune.modeling.label_scoring import (
    CONTENT_FREE_TEXTS,
    LabelWords,
    contextual_prior,
    label_words,
    pmi_prior,
    pmi_prompt,
)
from labeltune.modeling.network import Network, PooledNetwork
from labeltune.modeling.packing import require_packable
from labeltune.modeling.prompts import Encoder
from labeltune.runtime.errors import UserError


def load_network(
    base: Base,
    labels: LabelSet,
    settings: Train,
    *,
    dtype: str,
    attention: str,
    kernels: str,
    tokenizer: transformers.PreTrainedTokenizerBase,
    cue: str,
    max_length: int,
    fresh: bool = True,
    prior: list[float] | None = None,
    all_states: bool = False,
) -> Network:
    """Load the base model truncated to `settings.depth`, with a fresh head and without adapters.

    Args:
        dtype: type of the arithmetic, and of the weights unless all of them train: fp32, bf16 or fp16; heads are fp32.
        kernels: with `fused`, the kernels compute the layers of the families that they support.
        cue: the end of the prompt, after which label words are scored.
        max_length: maximum number of tokens of a prompt.
        fresh: whether `base` is a base model; otherwise it is a trained classifier, whose head the caller loads.
        prior: subtracted from the scores of label words, `[num_labels]`.
        all_states: whether to compute the top layer for every token, even if the head reads only one.

    Raises:
        UserError: a setting that this model does not support; the message says what to set instead.
    """
    config = load_config(base.folder)
    whole = config.num_hidden_layers
    trained = architectures.truncate_config(config, base.name, settings.depth, settings.layers)
    words = None
    if settings.head == "label_scoring":
        if fresh:
            _require_language_model(base, config)
        words = label_words(tokenizer, labels, cue, first_token=settings.label_score == "first_token")
    _require_positions(base, config, max_length, words)
    scoring = words is not None and not is_linear(words, settings)
    if scoring:
        require_packable(config)
    attributes: dict[str, Any] = {
        "trained_layers": trained,
        "truncated": config.num_hidden_layers < whole,
        "autocast": DTYPES[dtype] if settings.method == "full" and dtype != "fp32" else None,
        "all_states": all_states,
    }
    if scoring:
        attributes |= {"label_words": words, "score_by": settings.label_score, "pad_id": tokenizer.pad_token_id}
        attributes |= {"prior": prior}
    else:
        attributes |= {"pooling": _pooling(config, settings), "head_name": _head_name(config)}
    kind: Any = LabelScoring if scoring else PooledClassification
    network = _load(base, _describe(config, labels, tokenizer), settings, dtype, attention, kind, attributes)
    if kernels == "fused" and not fused.install(network) and settings.kernels == "fused":
        raise UserError(
            f"train.kernels: fused knows the layers of {', '.join(fused.FAMILIES)} with train.attention: "
            f"{fused.ATTENTION}, not those of {base.name} with {attention}; set it to auto"
        )
    if isinstance(network, PooledClassification):
        _set_head(base, network, labels, settings, words, fresh=fresh)
        if fresh and is_finetuned(base):
            _renew_output(network, labels, settings)
    return network


def _pooling(config: PretrainedConfig, settings: Train) -> str:
    """Return the pooling that the settings ask for; `auto` depends on the family and on the head."""
    if settings.pooling != "auto":
        return settings.pooling
    if not is_encoder(config):
        return "last"
    if settings.method == "probe":
        return "mean"  # as sentence encoders pool; Transformers' own heads are no regressions
    return "first" if settings.head == "mlp" else NATIVE_HEADS


def _head_name(config: PretrainedConfig) -> str:
    """Return the attribute of the head in Transformers' classifiers of this kind."""
    return "classifier" if is_encoder(config) else "score"


def is_linear(words: LabelWords, settings: Train) -> bool:
    """Return whether label scoring is a linear head: each word has one token, and no prior is subtracted."""
    return all(len(tokens) == 1 for tokens in words.tokens) and settings.label_score not in ("pmi", "contextual")


def _load(
    base: Base,
    config: PretrainedConfig,
    settings: Train,
    dtype: str,
    attention: str,
    mixin: type[LabelScoring] | type[PooledClassification],
    attributes: dict[str, Any],
) -> Network:
    """Construct the network, with its attributes, from the base model; only weights of the head may be missing."""
    scoring = mixin is LabelScoring
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if scoring else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if type(config) not in mapping:
        supported = ", ".join(architectures.ARCHITECTURES)
        raise UserError(
            f"model: Transformers has no classifier for the architecture {config.model_type!r} of {base.name}; tested "
            f"are {supported}"
        )
    kind = mapping[type(config)]
    options: dict[str, Any] = {"dtype": torch.float32 if settings.method == "full" else DTYPES[dtype]}
    network_class: Any = type(kind.__name__, (mixin, kind), {"transformers_class": kind})
    if settings.method == "qlora":
        with torch.device("meta"):
            skipped = [*head_parts(kind(config)), "lm_head"]
        options["quantization_config"] = quantization_config(DTYPES[dtype], skipped)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # for parts of a head that are missing in the base model
        network, report = network_class.from_pretrained(
            base.folder,
            config=config,
            attn_implementation=_attention(base, kind, attention, settings),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the head of a base model that was fine-tuned for other labels
            trust_remote_code=False,
            **options,
            **attributes,
        )
    fresh = [] if scoring else head_parts(network)  # a language model's output embeddings are not a head to be replaced
    misfits = sorted(name for name, *_ in report["mismatched_keys"] if not _inside(name, fresh))
    if misfits:
        raise UserError(f"model: weights of {base.name} have other sizes than its config.json says: {misfits[:3]}")
    missing = [name for name in report["missing_keys"] if not _inside(name, fresh)]
    if missing:
        raise UserError(f"model: {base.name} lacks weights of its own layers, such as {sorted(missing)[:3]}")
    prepare_quantized(network)
    return network


def _attention(base: Base, kind: Any, attention: str, settings: Train) -> str:
    """Return the attention kernel; with `auto`, eager if Transformers has no other for this class.

    Raises:
        UserError: Transformers does not have the requested kernel for this class.
    """
    able = {"eager": True, "sdpa": kind._supports_sdpa, "flash_attention_2": kind._supports_flash_attn}
    if able[attention]:
        return attention
    if settings.attention != "auto":
        raise UserError(
            f"train.attention: Transformers has no {attention} for {base.name}; set it to auto or "
            f"{' or '.join(name for name, has in able.items() if has)}"
        )
    return "eager"


def _inside(name: str, parts: Iterable[str]) -> bool:
    return any(name.startswith(f"{part}.") for part in parts)


def _describe(
    config: PretrainedConfig, labels: LabelSet, tokenizer: transformers.PreTrainedTokenizerBase
) -> PretrainedConfig:
    """Write the labels and the pad token to a configuration."""
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: i for i, name in enumerate(labels.names)}
    config.problem_type = "single_label_classification"
    # An encoder keeps its own pad token: RoBERTa counts positions from its id.
    if config.pad_token_id is None or not is_encoder(config):
        config.pad_token_id = tokenizer.pad_token_id
    config.use_cache = False
    return config


def is_finetuned(base: Base) -> bool:
    """Return whether a base model was saved with a classifier, whose labels are not those of this task."""
    return _stored_class(base).endswith("ForSequenceClassification")


def _stored_class(base: Base) -> str:
    """Return the class that wrote the base model, or an empty string."""
    content = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    return str((content.get("architectures") or [""])[0])


def _require_language_model(base: Base, config: PretrainedConfig) -> None:
    stored = _stored_class(base)
    if is_encoder(config) or not stored.endswith(("ForCausalLM", "LMHeadModel")):
        raise UserError(
            f"train.head: label_scoring needs a causal language model, and {base.name} is {stored or 'not one'}; "
            "set train.head: linear or mlp"
        )


def _require_positions(base: Base, config: PretrainedConfig, max_length: int, words: LabelWords | None) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        positions -= architectures.first_position(config)
    extra = max((node.depth for node in words.nodes), default=0) if words else 0
    if positions and max_length + extra > positions:
        raise UserError(
            f"prompt.max_length: {max_length} is more than {base.name} can read; it has {positions} positions"
            f"{f', {extra} of them for the label words' if extra else ''}; set it to at most {positions - extra}"
        )


def _set_head(
    base: Base, network: PooledNetwork, labels: LabelSet, settings: Train, words: LabelWords | None, *, fresh: bool
) -> None:
    """Replace the network's head by that of the settings; its initial weights depend only on the seed."""
    if network.pooling != NATIVE_HEADS:
        for part in head_parts(network):
            parent, _, name = part.rpartition(".")
            setattr(network.get_submodule(parent), name, None)  # as BERT does without a pooler
        rows = None
        if words is not None:
            first = [tokens[0] for tokens in words.tokens]
            rows = _output_rows(base, network, first) if fresh else torch.zeros(len(labels), network.config.hidden_size)
        setattr(network, network.head_name, _build_head(network, labels, settings, rows))
    for part in head_parts(network):
        network.get_submodule(part).float()


def _renew_output(network: PooledNetwork, labels: LabelSet, settings: Train) -> None:
    """Initialize the output layer of a native head, whose weights belong to other labels."""
    if network.pooling != NATIVE_HEADS:
        return  # it has been replaced as a whole
    generator = torch.Generator().manual_seed(settings.seed)
    spread = getattr(network.config, "initializer_range", 0.02)
    for part in head_parts(network):
        for module in network.get_submodule(part).modules():
            if isinstance(module, nn.Linear) and module.out_features == len(labels):
                nn.init.normal_(module.weight.data, std=spread, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias.data)


def _build_head(network: Network, labels: LabelSet, settings: Train, rows: torch.Tensor | None) -> nn.Module:
    generator = torch.Generator().manual_seed(settings.seed)
    size = network.config.hidden_size
    if rows is not None:
        return classifiers.label_scoring_head(rows)
    if settings.method == "probe":
        return classifiers.probe_head(size, len(labels))
    if settings.head == "mlp":
        return classifiers.mlp_head(size, len(labels), settings.head_dropout, generator)
    # Some families, such as OPT, have another name for it; 0.02 is the default of Transformers.
    return classifiers.linear_head(size, len(labels), generator, getattr(network.config, "initializer_range", 0.02))


def _output_rows(base: Base, network: Network, tokens: list[int]) -> torch.Tensor:
    """Return output embeddings of the language model, `[num_labels, size]`, if possible without loading the rest."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(network.config)]
    with torch.device("meta"):
        model = kind(network.config)
    output = model.get_output_embeddings()
    if getattr(output, "bias", None) is not None:
        raise UserError(
            f"train.head: label_scoring reads a word's score off its output row alone, and {base.name} adds a bias to "
            "it; set train.head: linear"
        )
    if network.config.tie_word_embeddings:
        return network.get_input_embeddings().weight.data[tokens].clone()
    names = {f"{name}.weight" for name, module in model.named_modules() if module is output}
    for file in sorted(base.folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in names.intersection(weights.keys()):
                rows = weights.get_slice(name)
                return torch.cat([rows[token : token + 1] for token in tokens])
    # The files of some families, such as GPT-NeoX, have names that only Transformers can translate.
    with quiet():
        whole, report = kind.from_pretrained(
            base.folder, dtype="auto", output_loading_info=True, trust_remote_code=False
        )
    if names & set(report["missing_keys"]):
        raise UserError(f"train.head: label_scoring found no output embedding in {base.folder}; set train.head: linear")
    return whole.get_output_embeddings().weight.data[tokens].clone()


def measure_prior(network: Network, encoder: Encoder, how: str) -> list[float] | None:
    """Return the prior of a network that scores label words by `how`, before fine-tuning; None if it needs none.

    Raises:
        UserError: a prompt without a cue, for `pmi`.
    """
    if how not in ("pmi", "contextual"):
        return None
    if how == "contextual":
        input_ids = encoder.encode(CONTENT_FREE_TEXTS).input_ids
    else:
        input_ids = [encoder.tokenizer(pmi_prompt(encoder.template.suffix))["input_ids"]]
    pad_id, tokens = encoder.tokenizer.pad_token_id, fused.batch_tokens(network)
    scores = torch.from_numpy(compute_logits(network, input_ids, pad_id=pad_id, batch_tokens=tokens))
    return (contextual_prior(scores) if how == "contextual" else pmi_prior(scores)).tolist()


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Specification of a network: a base model and the settings of the network that is built from it."""

    base: Base
    """The base model, or the folder of a fully fine-tuned classifier."""
    labels: LabelSet
    """The classes."""
    train: Train
    """Settings of the training, such as method, head and depth."""
    encoder: Encoder
    """Tokenizer and prompt."""
    machine: Machine
    """Device, types and threads."""

    def load(self, *, fresh: bool = True, prior: list[float] | None = None, all_states: bool = False) -> Network:
        """Load the network with a fresh head and without adapters.

        Args:
            fresh: False if the caller loads every weight.
            prior, all_states: as in `load_network`.
        """
        return load_network(
            self.base,
            self.labels,
            self.train,
            dtype=self.machine.dtype,
            attention=self.machine.attention,
            kernels=self.machine.kernels,
            tokenizer=self.encoder.tokenizer,
            cue=self.encoder.template.suffix,
            max_length=self.encoder.max_length,
            fresh=fresh,
            prior=prior,
            all_states=all_states,
        )

    def build(self) -> Network:
        """Load the network on its device, with exactly the weights trainable that the method names."""
        if is_finetuned(self.base):
            say(f"{self.base.name} was fine-tuned for other labels: its head is replaced by a fresh one")
        network = self.load().to(device())
        if isinstance(network, LabelScoring):
            network.subtract(measure_prior(network, self.encoder, self.train.label_score))
        return adapt(network, self.train, self.base.name).to(device())
