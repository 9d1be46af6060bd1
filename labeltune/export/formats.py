"""Export formats: a Transformers folder and an ONNX graph."""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labeltune.export.bundle import pooled_classifier
from labeltune.inference.calibration import Calibration
from labeltune.modeling.base_models import quiet
from labeltune.modeling.classifiers import NATIVE_HEADS, LabelScoring
from labeltune.runtime.errors import UserError

CODE = "pooled.py"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A network that Transformers can save and load."""

    network: Any
    """The network, with its adapter merged into the weights."""
    own: bool
    """Whether it is `pooled.PooledClassifier`, whose code goes into the folder, not a class of Transformers."""

    def save(self, folder: Path) -> None:
        """Write weights and configuration, and the class where Transformers has none."""
        with quiet():
            self.network.save_pretrained(folder)
        if self.own:
            shutil.copyfile(str(pooled_classifier.__file__), folder / CODE)


def merge(network: Any, calibration: Calibration) -> Merged:
    """Make a loaded classifier, which is used up by this, a model of an ordinary class; else one of our own.

    Ordinary are a decoder's linear head on the last token, among them label words of one token each, and an encoder's
    own head. Softmax takes no notice of what label scoring subtracts from every label alike. The logits come out
    calibrated: the last layer's weights and bias are divided by the temperature, and the offset is added to the bias. A
    decoder's linear head has no bias in Transformers, so that with an offset the class is our own.

    Raises:
        UserError: label words of several tokens.
    """
    offset = calibration.offset
    if isinstance(network, LabelScoring):
        merged = Merged(network=_pooled(network, "last", [_rows(network)]), own=True)
    elif network.pooling == NATIVE_HEADS:
        merged = Merged(network=network, own=False)
    else:
        head = getattr(network, network.head_name)
        ordinary = network.pooling == "last" and network.head_name == "score" and isinstance(head, nn.Linear)
        ordinary = ordinary and offset is None and head.bias is None
        layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        if offset is not None and not ordinary:
            layers = [_with_bias(layer) for layer in layers]
        merged = Merged(network=network if ordinary else _pooled(network, network.pooling, layers), own=not ordinary)
    last = _last_layer(merged.network)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.div_(calibration.temperature)
        if offset is not None:
            last.bias.add_(torch.tensor(offset, dtype=last.bias.dtype))
    return merged


def _with_bias(layer: nn.Linear) -> nn.Linear:
    """The layer with a bias of zeros where it has none."""
    if getattr(layer, "bias", None) is None:
        layer.bias = nn.Parameter(torch.zeros(layer.out_features, dtype=layer.weight.dtype))
    return layer


def _last_layer(network: Any) -> nn.Linear:
    """The layer that gives the logits: the last linear one beside the backbone."""
    backbone = getattr(network, network.base_model_prefix)
    parts = [module for module in network.children() if module is not backbone]
    return [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)][-1]


def _rows(network: Any) -> nn.Linear:
    """Output rows of label words of one token, and less their prior as bias."""
    if network.label_words.nodes:
        raise UserError(
            "train.head: label_scoring with label words of several tokens has no form as a Transformers classifier; "
            "export --to onnx, or set a verbalizer with words of one token, or train.label_score: first_token, and "
            "train again"
        )
    rows = network.get_output_embeddings().weight.detach()[[tokens[0] for tokens in network.label_words.tokens]]
    layer = nn.Linear(rows.shape[1], rows.shape[0], dtype=rows.dtype)
    with torch.no_grad():
        layer.weight.copy_(rows)
        layer.bias.copy_(-torch.tensor(network.prior or [0.0] * len(rows)))
    return layer


def _pooled(network: Any, pooling: str, layers: list[nn.Linear]) -> pooled_classifier.PooledClassifier:
    """Return a `PooledClassifier` with the same weights."""
    config = pooled_classifier.PooledConfig(
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
        own = pooled_classifier.PooledClassifier(config)
    weights = {f"backbone.{name}": value for name, value in network.backbone().state_dict().items()}
    for place, layer in enumerate(layers):
        weights |= {f"head.{place}.{name}": value.clone() for name, value in layer.state_dict().items()}
    own.load_state_dict(weights, strict=True, assign=True)
    return own


NAME = "model.onnx"
OPSET = 20
LARGEST = 1_500_000_000
"""Bytes of weights from which they lie beside the graph: a file of this format holds 2 GB at most."""
BLOCK = 64
"""Weights that share a scale, in one column of a matrix."""
FLOAT = 1
"""Accuracy level of onnxruntime: the weights are of 8 bits, what they meet stays fp32."""


class _Graph(nn.Module):
    """The forward pass of the network with tensors as inputs and outputs, for the exporter."""

    def __init__(self, network: Any, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        self.temperature = calibration.temperature
        self.register_buffer("offset", torch.tensor(calibration.offset or [0.0], dtype=torch.float32))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(input_ids=input_ids, attention_mask=attention_mask).logits / self.temperature
        logits = logits + self.offset
        return logits, logits.softmax(1)


def require_onnx() -> None:
    """Check that the packages of the extra `scale` are installed.

    Raises:
        UserError: one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing: pip install -e '.[scale]'") from None


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence torchvision's absence, which the exporter logs, and torch 2.13's use of a name that it deprecated."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def write(network: Any, calibration: Calibration, folder: Path) -> None:
    """Write model.onnx in fp32 for any number of rows and tokens.

    Inputs are `input_ids` and `attention_mask`, int64 `[batch, length]`, padded on the right; outputs `logits` and
    `probabilities`, fp32 `[batch, num_labels]`, both calibrated.

    Args:
        network: a loaded classifier with a merged adapter; its weights are modified.
    """
    network = network.cpu().compute_in_fp32()
    ids = torch.zeros((2, 16), dtype=torch.long)  # neither 0 nor 1, which the exporter would treat as constants
    size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    weight = sum(parameter.nbytes for parameter in network.parameters())
    with quiet(), _quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            _Graph(network, calibration).eval(),
            (ids, torch.ones_like(ids)),
            folder / NAME,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits", "probabilities"],
            dynamic_shapes=(size, size),
            opset_version=OPSET,
            dynamo=True,
            external_data=weight > LARGEST,
            verbose=False,
        )


def quantise(folder: Path) -> None:
    """Quantize the matrices of model.onnx, which is replaced, to 8 bits; embeddings are not changed.

    Only weights are quantized: hidden states in 8 bits would lose their outliers, which changes many predictions.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, accuracy_level=FLOAT, bits=8)
    quantizer = MatMulNBitsQuantizer(load_model_with_shape_infer(folder / NAME), algo_config=config)
    quantizer.process()
    for file in folder.glob(f"{NAME}*"):
        file.unlink()
    weight = sum(len(tensor.raw_data) for tensor in quantizer.model.model.graph.initializer)
    quantizer.model.save_model_to_file(str(folder / NAME), weight > LARGEST)
