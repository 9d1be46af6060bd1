"""Speed of the parts on this machine: `make bench`, after `dvc repro` has prepared rows.

Prints rows per second of the trunk pass, training and inference for the resolved recipe, and the share of this
machine's measured matrix-product rate that each reaches. Every part is timed several times; the median counts.
"""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from labeltune import bases, conf, fit, hardware, inference, models, outputs, prompts, terminal, trunk
from labeltune.labels import LabelSet
from labeltune.origins import Model
from labeltune.params import Prompt, Train

PREPARED = Path("data/prepared")
ROWS = 96
REPEATS = 3
SIZE = 2048


def main() -> None:
    """Measure and print."""
    settings, prompt, model = (
        conf.section("train", Train),
        conf.section("prompt", Prompt),
        conf.section("model", Model),
    )
    dtype, threads = hardware.choose_dtype(settings.dtype), hardware.choose_threads(settings.threads)
    torch.set_num_threads(threads)
    labels = LabelSet.load(PREPARED / "labels.json")
    base = bases.open_base(model)
    tokenizer = bases.load_tokenizer(base.folder)
    template = prompts.Template.of(prompt, labels)
    encoder = prompts.Encoder(tokenizer=tokenizer, template=template, max_length=prompt.max_length)
    rows = fit.encode(outputs.read_prepared(PREPARED / "train.csv").head(ROWS), encoder, labels)
    attention = hardware.choose_attention(settings.attention)
    network = models.load_network(
        base, labels, settings, dtype=dtype, attention=attention, tokenizer=tokenizer, cue=template.back
    )
    classifier = models.add_adapters(network, settings).to(hardware.device())
    below = network.config.num_hidden_layers - network.adapted_layers

    weights = sum(p.numel() for p in network.model.layers[0].parameters()) * 2  # operations per token and layer
    tokens = sum(map(len, rows.input_ids))
    pad_id = tokenizer.pad_token_id
    states = trunk.states(network.model, below, rows.input_ids, pad_id=pad_id) if below else None

    def train() -> None:
        batch = inference.pad(rows.input_ids[: settings.batch_size], pad_id)
        if states:
            batch["states"] = inference.pad_states(states[: settings.batch_size])
            del batch["input_ids"]
        classifier(**batch).logits.sum().backward()

    short = sum(map(len, rows.input_ids[: settings.batch_size]))
    parts: list[tuple[str, Callable[[], object], int, int, float]] = [
        (
            "whole pass (inference)",
            lambda: inference.compute_logits(classifier, rows.input_ids, pad_id=pad_id, batch_tokens=4096),
            len(rows),
            tokens,
            network.config.num_hidden_layers,
        ),
        ("a training batch", train, settings.batch_size, short, 2 * network.adapted_layers),
    ]
    if below:
        parts.insert(
            0,
            (
                f"trunk, layers 1 to {below}",
                lambda: trunk.states(network.model, below, rows.input_ids, pad_id=pad_id),
                len(rows),
                tokens,
                below,
            ),
        )
    square = torch.ones(SIZE, SIZE, dtype=hardware.DTYPES[dtype])
    peak = 2 * SIZE**3 / _seconds(lambda: square @ square) / 1e9
    shown = []
    for name, work, count, part_tokens, layers in parts:
        seconds = _seconds(work)
        rate = part_tokens * layers * weights / seconds / 1e9
        shown.append([name, f"{count / seconds:.1f}", f"{part_tokens / seconds:,.0f}", f"{rate / peak:.0%}"])
    terminal.say(f"{model.name}, {hardware.describe(dtype, threads)}, {attention} attention, {peak:.0f} GFLOP/s")
    terminal.say(
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, Transformers {transformers.__version__}"
    )
    terminal.table("median of three", ["part", "rows/s", "tokens/s", "share of peak"], shown)


def _seconds(work: Callable[[], object]) -> float:
    """Median time of a few runs, after one that warms up."""
    work()
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


if __name__ == "__main__":
    terminal.run(main)
