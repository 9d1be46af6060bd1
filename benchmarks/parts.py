"""Speed of the parts on this machine: `python -m benchmarks.parts`, after `dvc repro` has prepared rows.

Prints the rows per second of the pass through the frozen layers, of training and of inference for the resolved recipe,
and the share of this machine's rate of matrix products that each part reaches. Each part is timed several times in turn
with matrix products, because the rate changes from second to second if others use the machine; medians are printed.
"""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch.nn import functional

from labeltune.config.base import section
from labeltune.config.model import Model, Prompt, Train
from labeltune.console import terminal
from labeltune.data.labels import LabelSet
from labeltune.modeling import adapters, architectures, base_models, device, prompts
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.forward import compute_logits
from labeltune.modeling.kernels import fused
from labeltune.modeling.prompts import Encoder
from labeltune.runtime import errors, files
from labeltune.runtime.errors import UserError
from labeltune.training import dataset
from labeltune.training.layer_selection import choose_capacity

PREPARED = Path("data/prepared")
ROWS = 96
REPEATS = 5
SIZE = 2048
PRODUCTS = 8
"""Matrix products of `SIZE` that are timed beside each run of a part."""


def main() -> None:
    """Measure and print."""
    settings, prompt = section("train", Train), section("prompt", Prompt)
    model = section("model", Model)
    machine = device.choose(settings)
    torch.set_num_threads(machine.threads)
    labels, base = LabelSet.load(PREPARED / "labels.json"), base_models.open_base(model)
    encoder = Encoder.of(base_models.load_tokenizer(base.folder), prompt, labels)
    splits = [
        prompts.encode(files.read_prepared(PREPARED / f"{s}.csv"), encoder, labels) for s in ("train", "validation")
    ]
    plan, _ = choose_capacity(
        NetworkSpec(base=base, labels=labels, train=settings, encoder=encoder, machine=machine), *splits
    )
    given = splits[0].take(list(range(min(ROWS, len(splits[0])))))
    network = plan.build()
    plain = architectures.unwrap(network)
    if architectures.architecture_of(plain.config) is None:
        raise UserError(f"model: the layers of {plain.config.model_type!r} are not known here, so nothing to count")

    pad_id, below = encoder.tokenizer.pad_token_id, plain.frozen_layers
    lengths = [len(ids) + plain.extra_tokens for ids in given.input_ids]
    first = range(min(settings.batch_size, len(given)))
    states = dataset.states(plain, given.input_ids, pad_id=pad_id) if below else None
    collator = dataset.Collator(pad_id=pad_id, packing=dataset.choose_packing(plan, plain))
    batch = collator([given[row] | ({"states": states[row]} if states else {}) for row in first])
    batch = {name: tensor.to(device.device()) for name, tensor in batch.items() if name != "rows"}

    def whole() -> object:
        budget = fused.batch_tokens(network)
        return compute_logits(network, given.input_ids, pad_id=pad_id, batch_tokens=budget)

    def train() -> object:
        network.zero_grad()
        answers = batch["labels"]
        functional.cross_entropy(network.train()(**batch).logits, answers).backward()
        return [parameter.grad for parameter in adapters.trainable_parameters(network).values()]

    parts: list[tuple[str, Callable[[], object], int, int, float]] = [
        ("whole pass (inference)", whole, len(given), sum(lengths), plain.config.num_hidden_layers),
        # Backward costs a pass for the states' gradients, and with every weight training one for theirs.
        ("a training batch", train, len(first), sum(lengths[row] for row in first),
         (3 if settings.method == "full" else 2) * plain.trained_layers),
    ]  # fmt: skip
    if below:
        alone = (f"frozen layers, 1 to {below}", lambda: dataset.states(plain, given.input_ids, pad_id=pad_id))
        parts.insert(0, (*alone, len(given), sum(lengths), below))

    square = torch.ones(SIZE, SIZE, dtype=device.DTYPES[machine.dtype], device=device.device())
    layer = architectures.layer_list(plain.backbone())[0]
    operations = 2 * adapters.parameter_counts(layer)["total"]  # per token and layer
    shown = []
    peaks = []
    for name, work, count, tokens, layers in parts:
        taken = _in_turns(work, lambda: [square @ square for _ in range(PRODUCTS)])
        rates = [2 * PRODUCTS * SIZE**3 / products for _, products in taken]
        share = statistics.median(
            tokens * layers * operations / seconds / rate for (seconds, _), rate in zip(taken, rates, strict=True)
        )
        seconds = statistics.median(seconds for seconds, _ in taken)
        shown.append([name, f"{count / seconds:.1f}", f"{tokens / seconds:,.0f}", f"{share:.0%}"])
        peaks += rates
    peak = statistics.median(peaks) / 1e9
    terminal.say(f"{model.name} on {machine}, {peak:.0f} GFLOP/s")
    terminal.say(
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, Transformers {transformers.__version__}"
    )
    terminal.table(f"medians of {REPEATS}", ["part", "rows/s", "tokens/s", "share of peak"], shown)


def _synchronised() -> float:
    if device.device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _in_turns(work: Callable[[], object], products: Callable[[], object]) -> list[tuple[float, float]]:
    """Seconds of both, a few times, after runs that warm up."""
    work()
    products()
    return [(_seconds(work), _seconds(products)) for _ in range(REPEATS)]


def _seconds(work: Callable[[], object]) -> float:
    started = _synchronised()
    work()
    return _synchronised() - started


if __name__ == "__main__":
    errors.run(main)
