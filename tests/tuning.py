"""Plans for the tiny models of `tests.tiny`, and one call each to train, save and ask them."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from labeltune.config.model import Model, Prompt, Train
from labeltune.data.labels import LabelSet
from labeltune.inference import artifact
from labeltune.inference.calibration import Calibration
from labeltune.inference.classifier import Classifier
from labeltune.modeling import adapters
from labeltune.modeling.base_models import load_tokenizer, open_base
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.device import Machine
from labeltune.modeling.forward import compute_logits
from labeltune.modeling.prompts import EncodedRows, Encoder
from labeltune.training import checkpoints, finetune, probe
from labeltune.training.dataset import Collator
from labeltune.training.tracking import History
from labeltune.training.trainer import RowTrainer

CUE = "\nLabel:"
TEXTS = ["win a free prize now", "see you at home for lunch later, call me", "x", "free cash", "lunch", "call", "now"]
ANSWERS = [1, 0, 0, 1, 0, 0, 1]


def plan(
    folder: Path,
    *,
    words: Sequence[str] = ("ham", "spam"),
    dtype: str = "fp32",
    cue: str = CUE,
    max_length: int = 64,
    kernels: str = "fused",
    **train: Any,
) -> NetworkSpec:
    """A plan for a base model; `train` are keys of the section, over one step of all rows at a steady, large rate."""
    labels = LabelSet(names=tuple(words), words=tuple(words))
    base = open_base(Model(name="tiny", source="files", folder=str(folder)))
    prompt = Prompt(template=f"Text: {{text}}{cue}", max_length=max_length)
    step = {
        "seed": 1,
        "effort": "fast",
        "epochs": 1.0,
        "batch_size": 8,
        "learning_rate": 0.02,
        "scheduler": "constant",
        "warmup": 0.0,
    }
    return NetworkSpec(
        base=base,
        labels=labels,
        train=Train.model_validate(step | train),
        encoder=Encoder.of(load_tokenizer(base.folder), prompt, labels),
        machine=Machine(dtype=dtype, attention="eager", kernels=kernels, threads=1),
    )


def rows(made: NetworkSpec, texts: Sequence[str] = TEXTS, answers: Sequence[int] = ANSWERS) -> EncodedRows:
    ids = [f"row {i}" for i in range(len(texts))]
    return EncodedRows(ids=ids, input_ids=made.encoder.encode(texts).input_ids, labels=list(answers))


def record(made: NetworkSpec, prior: list[float] | None = None) -> artifact.Record:
    prompt = Prompt(template=f"Text: {{text}}{made.encoder.template.suffix}", max_length=made.encoder.max_length)
    return artifact.Record(
        labels=made.labels, prompt=prompt, train=made.train, base_files=made.base.files, machine=made.machine,
        model=Model(name="tiny", source="files", folder=str(made.base.folder)), data={},
        rows={"train": 7, "validation": 7}, dataset="tiny", license=None, prior=prior,
        validation={"accuracy": 1.0, "macro_f1": 1.0, "loss": 0.0},
    )  # fmt: skip


def tune(
    made: NetworkSpec, given: EncodedRows | None = None, callbacks: Sequence[TrainerCallback] = ()
) -> tuple[Any, History]:
    """Train as the stage does, in a folder of its own."""
    given = given or rows(made)
    if made.train.method == "probe":
        return probe.fit_probe(made, given, given, callbacks=callbacks)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "DVC_ROOT", folder)
        with checkpoints.open_store(artifact.fingerprint(record(made)), keep=made.train.checkpoints) as store:
            return finetune.fine_tune(made, given, given, store=store, callbacks=callbacks)


def trainer_of(made: NetworkSpec, folder: Path, given: EncodedRows | None = None) -> RowTrainer:
    """The trainer of a plan before its first step; it keeps no checkpoint."""
    given = given or rows(made)
    weights = finetune.class_weights(made.train, made.labels, given.labels)
    store: Any = SimpleNamespace(folder=folder)
    return finetune._trainer(
        made.build(), given, given, made.train, "fp32", Collator(pad_id=0), weights, store, None, []
    )


def reloaded(made: NetworkSpec, network: Any, folder: Path, *, merge: bool = False) -> Classifier:
    """Save as the stage does, and load as a user does."""
    if not folder.exists():
        artifact.save(folder, network, made.encoder.tokenizer, made.base, record(made, adapters.label_prior(network)))
    return Classifier.load(folder, merge=merge)


def saved(base: Path, folder: Path, **changes: Any) -> Path:
    """A classifier of random adapters, calibrated so that it abstains now and then, as `calibrate` leaves it."""
    made = plan(base, layers=2, **changes)
    network: Any = made.build()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(7)
        for parameter in adapters.trainable_parameters(network).values():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    unsure = Calibration(temperature=0.05, fitted=True, rows=7, threshold=0.7)
    kept = replace(record(made), calibration=unsure, examples=TEXTS[:2])
    artifact.save(folder, network, made.encoder.tokenizer, made.base, kept)
    return folder


def logits(made: NetworkSpec, network: Any, texts: Sequence[str] = TEXTS) -> np.ndarray:
    """Logits of the texts, `[rows, num_labels]`."""
    encoded = made.encoder.encode(texts).input_ids
    return compute_logits(network, encoded, pad_id=made.encoder.tokenizer.pad_token_id, batch_tokens=10_000)
