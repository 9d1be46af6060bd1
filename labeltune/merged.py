"""A classifier as a Transformers folder that loads without labeltune, its temperature folded into the head."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labeltune import pooled
from labeltune.bases import quiet
from labeltune.errors import UserError
from labeltune.networks import LabelScoring
from labeltune.own_heads import OWN

CODE = "pooled.py"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A network that Transformers can save and load."""

    network: Any
    """Its adapter is a part of the weights."""
    own: bool
    """Whether it is `pooled.PooledClassifier`, whose code goes into the folder, not a class of Transformers."""

    def save(self, folder: Path) -> None:
        """Write weights and configuration, and the class where Transformers has none."""
        with quiet():
            self.network.save_pretrained(folder)
        if self.own:
            shutil.copyfile(str(pooled.__file__), folder / CODE)


def merge(network: Any, temperature: float) -> Merged:
    """Make a loaded classifier, which is used up by this, a model of an ordinary class; else one of our own.

    Ordinary are a decoder's linear head on the last token, among them label words of one token each, and an encoder's
    own head. Softmax takes no notice of what label scoring subtracts from every label alike. The logits come out
    divided by the temperature: dividing the last layer's weights and bias does that.

    Raises:
        UserError: label words of several tokens.
    """
    if isinstance(network, LabelScoring):
        merged = Merged(network=_pooled(network, "last", [_rows(network)]), own=True)
    elif network.pooling == OWN:
        merged = Merged(network=network, own=False)
    else:
        head = getattr(network, network.head_name)
        ordinary = network.pooling == "last" and network.head_name == "score" and isinstance(head, nn.Linear)
        layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        merged = Merged(network=network if ordinary else _pooled(network, network.pooling, layers), own=not ordinary)
    with torch.no_grad():
        for parameter in _last_layer(merged.network).parameters():
            parameter.div_(temperature)
    return merged


def _last_layer(network: Any) -> nn.Linear:
    """The layer that gives the logits: the last linear one beside the backbone."""
    backbone = getattr(network, network.base_model_prefix)
    parts = [module for module in network.children() if module is not backbone]
    return [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)][-1]


def _rows(network: Any) -> nn.Linear:
    """Output rows of label words of one token, and less their prior as bias."""
    if network.candidates.nodes:
        raise UserError(
            "train.head: label_scoring with label words of several tokens has no form as a Transformers classifier; "
            "export --to onnx, or set a verbalizer with words of one token, or train.label_score: first_token, and "
            "train again"
        )
    rows = network.get_output_embeddings().weight.detach()[[tokens[0] for tokens in network.candidates.tokens]]
    layer = nn.Linear(rows.shape[1], rows.shape[0], dtype=rows.dtype)
    with torch.no_grad():
        layer.weight.copy_(rows)
        layer.bias.copy_(-torch.tensor(network.prior or [0.0] * len(rows)))
    return layer


def _pooled(network: Any, pooling: str, layers: list[nn.Linear]) -> pooled.PooledClassifier:
    """The same weights in our own class."""
    config = pooled.PooledConfig(
        backbone={key: value for key, value in network.config.to_dict().items() if key != "_name_or_path"},
        pooling=pooling,
        widths=[layer.out_features for layer in layers[:-1]],
        bias=layers[0].bias is not None,
        id2label=network.config.id2label,
        label2id=network.config.label2id,
        pad_token_id=network.config.pad_token_id,
        problem_type=network.config.problem_type,
        dtype=network.dtype,
        auto_map={
            "AutoConfig": "pooled.PooledConfig",
            "AutoModelForSequenceClassification": "pooled.PooledClassifier",
        },
    )
    with torch.device("meta"):
        own = pooled.PooledClassifier(config)
    weights = {f"backbone.{name}": value for name, value in network.backbone().state_dict().items()}
    for place, layer in enumerate(layers):
        weights |= {f"head.{place}.{name}": value.clone() for name, value in layer.state_dict().items()}
    own.load_state_dict(weights, strict=True, assign=True)
    return own
