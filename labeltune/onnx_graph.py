"""A classifier as an ONNX graph: from padded tokens to calibrated logits and probabilities."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labeltune.bases import quiet
from labeltune.errors import UserError

NAME = "model.onnx"
OPSET = 20
LARGEST = 1_500_000_000
"""Bytes of weights from which they lie beside the graph: a file of this format holds 2 GB at most."""
BLOCK = 64
"""Weights that share a scale, in one column of a matrix."""
FLOAT = 1
"""Accuracy level of onnxruntime: the weights are of 8 bits, what they meet stays fp32."""


class _Graph(nn.Module):
    """What is exported: our own network's pass, without its Python objects."""

    def __init__(self, network: Any, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(input_ids=input_ids, attention_mask=attention_mask).logits / self.temperature
        return logits, logits.softmax(1)


def require_onnx() -> None:
    """See that the packages of the extra are there.

    Raises:
        UserError: they are not.
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


def write(network: Any, temperature: float, folder: Path) -> None:
    """Write model.onnx in fp32, any number of rows and tokens long.

    Inputs are `input_ids` and `attention_mask`, int64 `[batch, length]`, padded on the right; outputs `logits` and
    `probabilities`, fp32 `[batch, num_labels]`, both calibrated.

    Args:
        network: a loaded classifier whose adapter is merged; it is used up by this.
    """
    network = network.cpu().float()
    network.autocast = None
    ids = torch.zeros((2, 16), dtype=torch.long)  # neither 0 nor 1, which would be taken for constants
    size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    weight = sum(parameter.nbytes for parameter in network.parameters())
    with quiet(), _quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            _Graph(network, temperature).eval(),
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
    """Give the matrices of model.onnx, which is replaced, weights of 8 bits; embeddings keep theirs.

    Weights alone: states in 8 bits as well would lose their outliers, and with them many answers.
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
