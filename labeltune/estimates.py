"""Estimates: how long a training takes and how much memory it needs, before it is started.

Seconds are arithmetic divided by the rate that a part reaches: matrix products go as fast as this machine multiplies
matrices, and what lies between them takes as long as it took where it was measured (docs/log.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labeltune.depth import trained_layers
from labeltune.pacing import validations_per_epoch
from labeltune.params import Train
from labeltune.soundings import compared_rows, fewest_layers, patience

FORWARD, BACKWARD, WEIGHTS = 2, 2, 2
"""Operations per weight and token: the pass forward, the pass back to the inputs, the gradients of the weights."""
TRUNK_REST, TOP_REST = 800.0, 300.0
"""1e9 operations a second if matrix products took no time: layers without gradients in batches of one length; layers
that train. Measured on 2 cores with SmolLM2-135M on SMS Spam, in fp32 at 294 and in bf16 at 1,530."""
ENCODERS = ("bert", "roberta", "xlm-roberta", "modernbert")
LIBRARIES = 1200
"""MiB of a process that has imported everything and loaded a small model, fitted on the runs of docs/results.md."""
START_SECONDS = 4.5
"""Loading the base model and its tokenizer."""
MIB = 1 << 20
STEP_STATES = 34
"""Numbers per token and unit of width that a training layer keeps for its pass back, attention included."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a base model an estimate needs."""

    layers: int
    """Transformer layers."""
    layer_weights: int
    """Weights of one layer."""
    embedding_weights: int
    """Weights of the vocabulary, which are looked up and not multiplied."""
    width: int
    """Size of a state."""
    decoder: bool
    """Whether no token sees those behind it, so that what all prompts begin with is computed once."""

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """The shape that a Transformers configuration describes."""
        text = config.get_text_config()
        width, heads = text.hidden_size, text.num_attention_heads
        head = getattr(text, "head_dim", None) or width // heads
        shared = getattr(text, "num_key_value_heads", None) or heads
        attention = width * head * (2 * heads + 2 * shared)
        inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * width
        gated = 2 if text.model_type in ("bert", "roberta", "xlm-roberta", "gpt2") else 3
        return cls(
            layers=text.num_hidden_layers,
            layer_weights=attention + gated * width * inner,
            embedding_weights=text.vocab_size * width,
            width=width,
            decoder=text.model_type not in ENCODERS,
        )


def longest(lengths: Sequence[int], batch: int) -> float:
    """The length of the longest of `batch` rows drawn at random, on average: what the others are padded to.

    >>> longest([1, 2, 3], batch=1), round(longest([0, 1], batch=3), 3)
    (2.0, 0.875)
    """
    shares = np.arange(len(lengths) + 1) / len(lengths)
    return float(np.diff(shares**batch) @ np.sort(lengths))


def attained(gflops: float, rest: float) -> float:
    """Operations a second of a part, from 1e9 of them in matrix products alone and in all that lies between.

    >>> attained(300.0, 300.0)
    150000000000.0
    """
    return 1e9 / (1 / gflops + 1 / rest)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a training takes."""

    seconds: float
    """From the start of `train` to its end, without the trunk where another run has computed it."""
    memory_mib: int
    """Largest resident memory."""


def estimate(
    shape: Shape, train: Train, *, rows: int, validation: int, tokens: float, padded: float, front: int, gflops: float
) -> Estimate:
    """Estimate a training; of `depth: auto` the least depth that it may take.

    Args:
        rows: of the training split.
        validation: rows of the validation split.
        tokens: of a row with its prompt, on average.
        padded: of the longest row of a batch, on average.
        front: of them those that every prompt begins with.
        gflops: rate of matrix products on this machine, in 1e9 operations a second.
    """
    depth = train.depth if isinstance(train.depth, int) else shape.layers
    if train.depth == "auto":
        depth = fewest_layers(shape.layers)
    layers = trained_layers(train.method, depth, on_gpu=False)[0] if train.layers == "auto" else train.layers
    top = min(depth, layers) if isinstance(layers, int) else depth
    below = depth - top
    back = BACKWARD + (WEIGHTS if train.method == "full" else 0)
    held = validation * validations_per_epoch(train.epochs) * train.epochs * FORWARD
    pooled = shape.decoder and train.head != "label_scoring"
    own = tokens - front if pooled else tokens
    learnt = own if pooled and train.packing is not False else padded
    trunk = FORWARD * below * shape.layer_weights * (rows + validation) * own
    trained = top * shape.layer_weights * (rows * train.epochs * learnt * (FORWARD + back) + tokens * held)
    sounded = 0.0
    if train.depth == "auto":
        few = compared_rows(train.depth_rows, num_labels=2)
        most = rows + validation if few == "all" else few
        read = min(shape.layers, depth + patience(shape.layers))
        sounded = FORWARD * read * shape.layer_weights * own * (min(rows, most) + min(validation, most))
    seconds = START_SECONDS + (trunk + sounded) / attained(gflops, TRUNK_REST) + trained / attained(gflops, TOP_REST)

    weights = depth * shape.layer_weights
    loaded = 4 * (weights + shape.embedding_weights) * (0.5 if train.method == "qlora" else 1)
    optimiser = 12 * top * shape.layer_weights if train.method == "full" else 0
    states = 4 * (rows + validation) * tokens * shape.width if below else 0
    activations = 4 * STEP_STATES * train.batch_size * learnt * shape.width * top
    memory = LIBRARIES + (loaded + optimiser + states + activations) / MIB
    return Estimate(seconds=seconds, memory_mib=round(memory))
