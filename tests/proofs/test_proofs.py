"""The proofs: for every architecture, method and head, on a tiny model that was really trained and saved."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from scipy.special import softmax
from transformers import TrainerCallback

from labeltune.config.model import Model, Prompt, Train
from labeltune.data.labels import LabelSet
from labeltune.inference import artifact
from labeltune.inference.classifier import Classifier
from labeltune.modeling import architectures
from labeltune.modeling.adapters import prepare_quantized
from labeltune.modeling.architectures import ARCHITECTURES
from labeltune.modeling.base_models import Base, load_tokenizer, open_base, quiet
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.device import Machine
from labeltune.modeling.forward import compute_logits, pad
from labeltune.modeling.kernels import fused
from labeltune.modeling.prompts import EncodedRows, Encoder
from labeltune.training import checkpoints, dataset, finetune
from tests.proofs.matrix import CELLS, applies
from tests.tiny import save_base

pytestmark = pytest.mark.proof
Cell = tuple[str, str, str]
PROMPT = Prompt(template="Classify the text as {labels}.\nText: {text}\nLabel:", separator=" or ", max_length=64)
TEXTS = ["win a free prize now", "see you at home for lunch later, call me", "x", "free cash", "lunch", "call", "now"]
LABELS = [1, 0, 0, 1, 0, 0, 1]
WORDS = {"several_tokens": ("ham it up", "ham on rye")}  # both begin with ` ham`


def cells(proof: str) -> list[Cell]:
    return [cell for cell in CELLS if applies(proof, cell)]


def over(proof: str) -> Any:
    """Run a proof over the cells that it applies to; the plugin beside this file collects what came out."""
    return pytest.mark.parametrize("cell", cells(proof), ids=["-".join(cell) for cell in cells(proof)])


@dataclass(frozen=True)
class Trained:
    """A tiny model before and after its training."""

    plan: NetworkSpec
    folder: Path
    before: dict[str, torch.Tensor]
    network: Any

    @property
    def pad_id(self) -> int:
        return int(self.plan.encoder.tokenizer.pad_token_id)

    def logits(self, network: Any = None, texts: list[str] = TEXTS) -> np.ndarray:
        input_ids = self.plan.encoder.encode(texts).input_ids
        return compute_logits(network or self.network, input_ids, pad_id=self.pad_id, batch_tokens=10_000)


def plan_for(folder: Path, cell: Cell, **changes: Any) -> tuple[NetworkSpec, Base]:
    architecture, method, head = cell
    base = open_base(Model(name=architecture, source="files", folder=str(folder)))
    words = WORDS.get(head, ("ham", "spam"))
    labels = LabelSet(names=("ham", "spam"), words=words)
    encoder = Encoder.of(load_tokenizer(base.folder), PROMPT, labels)
    settings = {
        "seed": 1,
        "method": method,
        "head": "label_scoring" if head == "several_tokens" else head,
        "epochs": 2.0,
        "batch_size": 4,
        "learning_rate": 0.02,
        "scheduler": "constant",
        "warmup": 0.0,
        "eval_steps": 4,
        "lora": {"rank": 4, "alpha": 8},
    }
    train = Train.model_validate(settings | changes)
    machine = Machine(dtype="fp32", attention="eager", kernels="fused", threads=1)
    return NetworkSpec(base=base, labels=labels, train=train, encoder=encoder, machine=machine), base


def record_of(plan: NetworkSpec, base: Base, folder: Path, prior: list[float] | None = None) -> artifact.Record:
    model = Model(name=plan.base.name, source="files", folder=str(folder))
    return artifact.Record(
        labels=plan.labels, prompt=PROMPT, train=plan.train, model=model, base_files=base.files, machine=plan.machine,
        data={}, rows={"train": 7, "validation": 7}, dataset="tiny", license=None, prior=prior,
        validation={"accuracy": 1.0, "macro_f1": 1.0, "loss": 0.0},
    )  # fmt: skip


def train_rows(plan: NetworkSpec) -> EncodedRows:
    ids = [str(i) for i in range(len(TEXTS))]
    return EncodedRows(ids=ids, input_ids=plan.encoder.encode(TEXTS).input_ids, labels=LABELS)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trains each cell once; a function from a cell to its `Trained`."""
    folder = tmp_path_factory.mktemp("proofs")
    given, threads = os.environ.get("DVC_ROOT"), torch.get_num_threads()
    os.environ["DVC_ROOT"] = str(folder)
    torch.set_num_threads(1)

    @cache
    def base_folder(architecture: str) -> Path:
        return save_base(architecture, folder / "bases" / architecture)

    @cache
    def trained(cell: Cell, layers: int | str = "all") -> Trained:
        plan, base = plan_for(base_folder(cell[0]), cell, layers=layers)
        before = {name: weight.detach().clone() for name, weight in plan.build().named_parameters()}
        record = record_of(plan, base, base_folder(cell[0]))
        rows = train_rows(plan)
        with checkpoints.open_store(artifact.fingerprint(record), keep=1) as store:
            network, _ = finetune.fine_tune(plan, rows, rows, store=store)
            store.remove()
        out = folder / "-".join(map(str, (*cell, layers)))
        artifact.save(out, network, plan.encoder.tokenizer, base, record)
        return Trained(plan, out, before, network)

    yield trained
    torch.set_num_threads(threads)
    if given is None:
        del os.environ["DVC_ROOT"]
    else:
        os.environ["DVC_ROOT"] = given


ADAPTED = {  # the default targets, as suffixes of module names
    "gpt2": ("attn.c_attn", "attn.c_proj"),
    "bert": ("query", "key", "value", "attention.output.dense", "intermediate.dense", ".output.dense"),
    "roberta": ("query", "key", "value", "attention.output.dense", "intermediate.dense", ".output.dense"),
    "mpnet": ("attn.q", "attn.k", "attn.v", "attn.o", "intermediate.dense", "output.dense"),
    "modernbert": ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"),
}
ADAPTED["xlm-roberta"] = ADAPTED["roberta"]


def intended(name: str, cell: Cell, top: int) -> bool:
    """Whether a parameter is meant to train, from its name alone; layers below `top` are not."""
    architecture, method, head = cell
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    in_layers = any(f".{word}." in name for word in ("layers", "layer", "h"))
    is_head = any(part in ("score", "classifier", "pooler", "head") for part in name.split("."))
    if method == "full":
        if in_layers:
            return numbers[0] >= top
        if "norm" in name or "ln_f" in name:
            return "embeddings" not in name or top == 0
        return is_head or top == 0 or (name == "lm_head.weight" and architecture in ("qwen2", "qwen3"))
    if ".lora_" in name:
        suffixes = ADAPTED.get(architecture, ("q_proj", "k_proj", "v_proj", "o_proj"))
        return numbers[0] >= top and name.split(".lora_", maxsplit=1)[0].endswith(suffixes)
    return ".modules_to_save." in name and head in ("linear", "mlp") and is_head


@pytest.mark.parametrize("layers", ["all", 1])
@over("trains")
def test_trains(workshop: Any, cell: Cell, layers: int | str) -> None:
    done = workshop(cell, layers)
    top = 2 if layers == 1 else 0
    held = dict(done.network.named_parameters())
    assert held.keys() == done.before.keys()
    expected = {name for name in held if intended(name, cell, top)}
    assert {name for name, weight in held.items() if weight.requires_grad} == expected
    moved = {name for name, weight in held.items() if not torch.equal(weight, done.before[name])}
    assert moved <= expected
    # What has no gradient can't move: token types and positions that no row has, and GPT-2's key biases.
    assert len(moved) >= 0.9 * len(expected), sorted(expected - moved)


DROPOUTS = {
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "xlm-roberta": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "mpnet": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
}
SCRIPT = """
import sys, json, torch
from pathlib import Path
from labeltune.modeling.forward import compute_logits
from labeltune.inference.classifier import Classifier
torch.set_num_threads(1)
texts = json.loads(sys.argv[1])
for folder in sys.stdin:
    classifier = Classifier.load(Path(folder.strip()), merge=False)
    ids = classifier.encoder.encode(texts).input_ids
    pad_id = classifier.encoder.tokenizer.pad_token_id
    logits = compute_logits(classifier.network, ids, pad_id=pad_id, batch_tokens=10_000)
    print("answers", logits.tobytes().hex(), flush=True)
"""


@pytest.fixture(scope="module")
def another_process() -> Iterator[Any]:
    """A process that trains nothing: the folder of a classifier goes in, its logits come out."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(TEXTS)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        yield process


@over("reload")
def test_reload(workshop: Any, another_process: Any, cell: Cell) -> None:
    done = workshop(cell)
    print(done.folder, file=another_process.stdin, flush=True)
    answers = next((line for line in another_process.stdout if line.startswith("answers")), "it ended")
    assert answers.removeprefix("answers ").strip() == done.logits().tobytes().hex()


@over("padding")
def test_padding(workshop: Any, cell: Cell) -> None:
    done = workshop(cell)
    rows = done.plan.encoder.encode(TEXTS).input_ids
    together = done.logits()
    network = done.network.eval()
    batch = pad(rows, done.pad_id)
    left = {name: tensor.flip(1) for name, tensor in pad([row[::-1] for row in rows], done.pad_id).items()}
    assert not left["attention_mask"][2, 0]  # really padded
    assert not batch["attention_mask"][2, -1]
    with torch.no_grad():
        for given in (batch, left):
            np.testing.assert_allclose(network(**given).logits.numpy(), together, rtol=0, atol=2e-6)
    for row, ids in enumerate(rows):
        alone = compute_logits(network, [ids], pad_id=done.pad_id, batch_tokens=10_000)
        np.testing.assert_allclose(alone[0], together[row], rtol=0, atol=2e-6)


@over("frozen_layers")
def test_frozen_layers(workshop: Any, cell: Cell) -> None:
    done = workshop(cell, 1)
    rows = done.plan.encoder.encode(TEXTS).input_ids
    states = dataset.states(architectures.unwrap(done.network), rows, pad_id=done.pad_id)
    resumed = compute_logits(done.network, rows, pad_id=done.pad_id, batch_tokens=10_000, states=states)
    np.testing.assert_array_equal(resumed, done.logits())


@pytest.fixture(scope="module")
def still_base(workshop: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Base models without dropout of their own, which differs from batch to batch."""
    folder = tmp_path_factory.mktemp("still")
    return cache(lambda name: save_base(name, folder / name, **dict.fromkeys(DROPOUTS.get(name, ()), 0.0)))


class _Gradients(TrainerCallback):
    """Keeps the gradients of the first step."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **unused: Any) -> None:
        self.kept = self.kept or {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@over("accumulation")
def test_accumulation(still_base: Any, cell: Cell) -> None:
    source = still_base(cell[0])
    found = []
    # 7 rows as 3 + 3 + 1: the mean of the means is not the mean. Weights make the labels unequal too.
    for batch, steps in ((7, 1), (3, 3)):
        plan, base = plan_for(
            source, cell, batch_size=batch, accumulation=steps, epochs=1.0, eval_steps=1, max_grad_norm=1e6,
            class_weights={"ham": 0.5, "spam": 3.0}, label_smoothing=0.1, head_dropout=0.0,
        )  # fmt: skip
        gradients = _Gradients()
        rows = train_rows(plan)
        with checkpoints.open_store(artifact.fingerprint(record_of(plan, base, source)), keep=1) as store:
            finetune.fine_tune(plan, rows, rows, store=store, callbacks=[gradients])
            store.remove()
        found.append(gradients.kept)
    large, small = found
    assert large.keys() == small.keys()
    assert large
    size = torch.cat([gradient.flatten() for gradient in large.values()]).norm()
    assert size > 1e-3
    difference = torch.cat([(large[name] - small[name]).flatten() for name in large]).norm()
    assert difference < 1e-5 * size


@over("cue")
def test_cue(workshop: Any, cell: Cell) -> None:
    done = workshop(cell)
    encoder = done.plan.encoder
    start, end = " ".join(["free"] * 30), " ".join(["home"] * 30)
    encoded = encoder.encode([f"{start} now now {end}", f"{start} cash lunch call {end}"])
    assert encoded.truncated == [True, True]
    cue = encoder.tokenizer("\nLabel:", add_special_tokens=False)["input_ids"]
    behind = 1 if ARCHITECTURES[cell[0]].encoder else 0  # </s>
    for ids in encoded.input_ids:
        assert len(ids) == PROMPT.max_length
        assert ids[len(ids) - behind - len(cue) : len(ids) - behind] == cue
    one, other = (
        compute_logits(done.network, [ids], pad_id=done.pad_id, batch_tokens=10_000) for ids in encoded.input_ids
    )
    np.testing.assert_array_equal(one, other)


@over("by_hand")
def test_by_hand(workshop: Any, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    done = workshop(cell)
    monkeypatch.setattr(fused, "installed", lambda _: False)  # what is asked of kernels is to give the same
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, given, answer, name=name: seen.update({name: (given[0], answer)}))
        for name, module in done.network.named_modules()
        if hasattr(module, "lora_A")
    ]
    done.logits(texts=TEXTS[:1])
    for hook in hooks:
        hook.remove()
    weights = load_file(done.plan.base.folder / "model.safetensors")
    adapter = load_file(done.folder / "adapter_model.safetensors")
    assert len(seen) == len(hooks) > 0
    for name, (x, answer) in seen.items():
        path = name.removeprefix("base_model.model.")
        a, b = (adapter[f"{name}.lora_{side}.weight"] for side in "AB")
        assert b.abs().sum() > 0
        module = done.network.get_submodule(name)
        if cell[1] == "qlora":
            from bitsandbytes.functional import dequantize_4bit

            base = module.base_layer
            w0 = dequantize_4bit(base.weight.data, base.weight.quant_state)
        else:
            w0 = next(weights[key] for key in (f"{path}.weight", f"{path.split('.', 1)[1]}.weight") if key in weights)
            w0 = w0.T if cell[0] == "gpt2" else w0
        bias = getattr(module.base_layer, "bias", None)
        by_hand = x @ w0.T + (0 if bias is None else bias) + 8 / 4 * (x @ a.T) @ b.T
        torch.testing.assert_close(answer, by_hand, rtol=1e-5, atol=1e-5)


@over("merged")
def test_merged(workshop: Any, cell: Cell) -> None:
    done = workshop(cell)
    classifier = Classifier.load(done.folder, merge=True)
    assert not any("lora" in name for name, _ in classifier.network.named_parameters())
    np.testing.assert_allclose(done.logits(classifier.network), done.logits(), rtol=5e-6, atol=5e-6)


def plain_model(done: Trained, cell: Cell, folder: Path | None = None) -> Any:
    """What a user of Transformers and PEFT alone would load: nothing of labeltune."""
    _, method, head = cell
    kind = transformers.AutoModelForSequenceClassification
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    if head == "several_tokens":
        kind = transformers.AutoModelForCausalLM
    if folder or method == "full":
        return kind.from_pretrained(folder or done.folder, **options).eval()
    config = transformers.AutoConfig.from_pretrained(done.folder)
    if method == "qlora":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=["score", "classifier", "lm_head", "bert.pooler", "head"],
        )  # fmt: skip
    with quiet():
        base = kind.from_pretrained(done.plan.base.folder, config=config, **options)
        prepare_quantized(base)  # bitsandbytes' repacking for CPUs fails on matrices as small as these
        return PeftModel.from_pretrained(base, str(done.folder)).eval()


def plain_logits(model: Any, done: Trained, cell: Cell) -> torch.Tensor:
    """A model's logits, or for words of several tokens each word's log-probability, one word at a time."""
    rows = []
    for ids in done.plan.encoder.encode(TEXTS).input_ids:
        with torch.no_grad():
            if cell[2] != "several_tokens":
                rows.append(model(input_ids=torch.tensor([ids])).logits[0])
                continue
            scores = []
            for word in done.plan.labels.words:
                tokens = done.plan.encoder.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
                logits = model(input_ids=torch.tensor([ids + tokens])).logits[0].log_softmax(-1)
                scores.append(sum(logits[len(ids) - 1 + i, token] for i, token in enumerate(tokens)))
            rows.append(torch.stack(scores))
    return torch.stack(rows)


@over("plain")
def test_plain(workshop: Any, cell: Cell) -> None:
    done = workshop(cell)
    answers = plain_logits(plain_model(done, cell), done, cell)
    torch.testing.assert_close(answers, torch.from_numpy(done.logits()), rtol=1e-5, atol=1e-5)


@over("pipeline")
def test_pipeline(workshop: Any, cell: Cell, tmp_path: Path) -> None:
    done = workshop(cell)
    classifier = Classifier.load(done.folder, merge=True)
    classifier.network.save_pretrained(tmp_path)
    done.plan.encoder.tokenizer.save_pretrained(tmp_path)
    with quiet():
        pipe = transformers.pipeline("text-classification", model=str(tmp_path), dtype=torch.float32, device="cpu")
    prompts = [done.plan.encoder.template.render(text) for text in TEXTS]
    expected = softmax(done.logits().astype(np.float64), axis=1)
    for row, answers in enumerate(pipe(prompts, top_k=None)):
        for answer in answers:
            label = done.plan.labels.names.index(answer["label"])
            assert answer["score"] == pytest.approx(expected[row, label], abs=1e-5)


def test_every_known_architecture_is_proved() -> None:
    assert {cell[0] for cell in CELLS} == set(ARCHITECTURES)
