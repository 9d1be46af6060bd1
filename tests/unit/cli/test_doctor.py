"""Estimates: shapes against Transformers' own models, and what must hold of any estimate."""

import pytest
from transformers import AutoModel, BertConfig, GPT2Config, LlamaConfig, PretrainedConfig

from labeltune.cli.doctor import START_SECONDS, Shape, estimate
from labeltune.config.model import Train

SMOLLM2 = Shape(layers=30, layer_weights=3_538_944, embedding_weights=28_311_552, width=576, decoder=True)
LOAD = {"rows": 781, "validation": 112, "tokens": 53.0, "padded": 80.0, "prefix": 10, "gflops": 325.0}


def settings(**given: object) -> Train:
    return Train.model_validate({"seed": 0, "method": "lora", "epochs": 1, "batch_size": 8, **given})


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
                    num_key_value_heads=2),
        BertConfig(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6),
        GPT2Config(vocab_size=97, n_embd=48, n_layer=2, n_head=6),
    ],
    ids=["llama", "bert", "gpt2"],
)  # fmt: skip
def test_a_shape_counts_the_weights_of_the_model(config: PretrainedConfig) -> None:
    shape = Shape.of(config)
    model = AutoModel.from_config(config)
    other = ("emb", "wte", "wpe", "pooler")
    matrices = [
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and not any(part in name for part in other)
    ]
    assert shape.layer_weights * shape.layers == sum(matrices)
    assert (shape.layers, shape.width, shape.embedding_weights) == (2, 48, 97 * 48)


def test_work_that_is_left_out_takes_no_time() -> None:
    whole = estimate(SMOLLM2, settings(), **LOAD)
    top = estimate(SMOLLM2, settings(layers=8), **LOAD)
    cut = estimate(SMOLLM2, settings(layers=4, depth=16), **LOAD)
    full = estimate(SMOLLM2, settings(layers=8, method="full"), **LOAD)
    assert whole.seconds > top.seconds > cut.seconds
    assert full.seconds > top.seconds
    assert full.memory_mib > top.memory_mib > cut.memory_mib
    half = estimate(SMOLLM2, settings(), **LOAD | {"gflops": 650.0})
    assert half.seconds < whole.seconds
    plain = estimate(SMOLLM2, settings(head="linear"), **LOAD)
    padded = estimate(SMOLLM2, settings(head="linear", packing=False), **LOAD)
    assert plain.seconds < padded.seconds < whole.seconds * 1.01  # neither padding nor the front once more a row
    more = estimate(SMOLLM2, settings(), **LOAD | {"rows": 1562, "validation": 224})
    assert more.seconds - whole.seconds == pytest.approx(whole.seconds - START_SECONDS)  # all but the loading grows


MINILM = Shape(layers=6, layer_weights=1_769_472, embedding_weights=11_720_448, width=384, decoder=False)
GEMMA = Shape(layers=18, layer_weights=5_570_560, embedding_weights=167_772_160, width=640, decoder=True)
OPEN = {"effort": "fast", "depth": "auto", "probe_rows": 256, "layers": "auto", "head": "linear"}
MEASURED = {"tokens": 52.0, "padded": 80.0, "gflops": 294.0}


@pytest.mark.parametrize(
    ("shape", "given", "load", "seconds", "memory"),
    [
        (SMOLLM2, OPEN, {}, 27.3, 1413),
        (SMOLLM2, OPEN | {"method": "full"}, {}, 85.5, 2071),
        (SMOLLM2, OPEN | {"method": "qlora"}, {}, 29.8, 1498),
        (MINILM, {"method": "full", "head": "linear", "epochs": 2, "batch_size": 16},
         {"tokens": 33.0, "padded": 68.0, "prefix": 0}, 51.4, 1478),
        (GEMMA, {"layers": 6, "head": "linear", "epochs": 2},
         {"rows": 250, "validation": 35, "tokens": 11.0, "padded": 18.0, "prefix": 0}, 15.5, 2440),
        (SMOLLM2, {"layers": 8}, {"gflops": 325.0}, 88.8, 2013),
        (SMOLLM2, OPEN | {"epochs": 2}, {"tokens": 37.0, "padded": 58.0, "prefix": 0, "gflops": 1330.0}, 15.9, 1201),
    ],
    ids=["default", "full", "4 bits", "MiniLM", "Gemma", "label scoring", "bf16 with AMX"],
)  # fmt: skip
def test_the_measured_runs(shape: Shape, given: dict, load: dict, seconds: float, memory: int) -> None:
    """On 2 cores, but for the last in fp32, with nothing beside them (docs/log.md)."""
    found = estimate(shape, settings(**given), **LOAD | MEASURED | load)
    assert found.seconds == pytest.approx(seconds, rel=0.3)
    assert found.memory_mib == pytest.approx(memory, rel=0.3)
