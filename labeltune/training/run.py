"""A training run: from prepared rows to a classifier that is ready to be saved, by the method of the settings."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from labeltune.config.data import Dataset
from labeltune.config.model import Model, Prompt, Train
from labeltune.data.labels import LabelSet
from labeltune.data.normalization import Normalization
from labeltune.inference import artifact
from labeltune.inference.artifact import Record
from labeltune.modeling import adapters, base_models
from labeltune.modeling.base_models import Base
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.device import Machine
from labeltune.modeling.prompts import Encoder, encode
from labeltune.runtime.files import read_json, read_prepared
from labeltune.training import blending, checkpoints, finetune, probe, tracking
from labeltune.training.blending import BlendChoice, labelled
from labeltune.training.layer_selection import Choice, choose_capacity
from labeltune.training.ngrams import FittedNgrams
from labeltune.training.tracking import History, OneStep


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, and on which rows."""

    train: Train
    """Method and settings of the training."""
    model: Model
    """Source of the base model."""
    prompt: Prompt
    """The prompt."""
    dataset: Dataset
    """The data set."""
    machine: Machine
    """What the training computes with."""
    labels: LabelSet
    """The classes."""
    rows: dict[str, pd.DataFrame]
    """`train` and `validation` -> prepared rows."""
    hashes: dict[str, str]
    """sha256 of each of them."""
    source: dict[str, Any]
    """Where the rows came from."""
    normalization: Normalization
    """What was done to their texts."""

    @classmethod
    def read(cls, prepared: Path, hashes: dict[str, str], **settings: Any) -> "Task":
        """Read what `prepare` wrote into a folder.

        Args:
            prepared: the folder.
            hashes: sha256 of the files of each split that is read.
            settings: the other fields.
        """
        return cls(
            labels=LabelSet.load(prepared / "labels.json"),
            rows={split: read_prepared(prepared / f"{split}.csv") for split in hashes},
            hashes=hashes,
            source=read_json(prepared / "source.json"),
            normalization=Normalization.load(prepared),
            **settings,
        )


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork:
    """A network that was trained, with what is saved beside its weights."""

    network: Any
    """The network."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    base: Base
    """Its base model."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained classifier, and how it came about."""

    record: Record
    """What its folder will say of it."""
    network: "TrainedNetwork | None"
    """The network; None where n-grams answer alone."""
    ngrams: FittedNgrams | None
    """The n-gram model, where one was fitted; it answers alone where there is no network."""
    history: History
    """Records of the training."""
    choice: Choice = field(default_factory=Choice)
    """What was taken where a setting left it open."""
    blended: BlendChoice = field(default_factory=BlendChoice)
    """Whether n-grams answer beside the network."""

    def save(self, folder: Path, metrics: Path, costs: Path, curves: Path) -> None:
        """Write the classifier, the figures of its training, its costs, and a table per curve."""
        if self.network is not None:
            network = self.network
            artifact.save(folder, network.network, network.tokenizer, network.base, self.record, self.blended.blend)
        else:
            assert self.ngrams is not None, "a classifier is a network or n-grams"
            artifact.save_ngrams(folder, self.ngrams.model, self.record)
        tracking.save_history(self.history, self.choice, self.blended, metrics, costs, curves)

    def show(self, folder: Path) -> None:
        """Print the summary of `train`."""
        tracking.show_history(self.history, self.choice, self.blended, folder)


@contextmanager
def training(task: Task, *, curves: Path) -> Iterator[Trained]:
    """Train a classifier; its checkpoints are deleted at the end of the block, in which it is to be saved.

    Args:
        task: what is trained, and on which rows.
        curves: a folder that the curves so far are written to at each validation.
    """
    if task.train.method == "ngrams":
        yield _ngrams(task)
        return
    base = base_models.open_base(task.model)
    tokenizer = base_models.load_tokenizer(base.folder)
    encoder = Encoder.of(tokenizer, task.prompt, task.labels, task.normalization)
    splits = {split: encode(rows, encoder, task.labels) for split, rows in task.rows.items()}
    plan = NetworkSpec(base=base, labels=task.labels, train=task.train, encoder=encoder, machine=task.machine)
    plan, choice = choose_capacity(plan, **splits)
    record = Record.of(
        plan, task.model, task.prompt, task.dataset, data=task.hashes, source=task.source, chosen=choice.reasons,
        rows={split: len(rows) for split, rows in splits.items()},
    )  # fmt: skip
    plan, record, fingerprint = finetune.as_interrupted(plan, record)
    with (
        checkpoints.open_store(fingerprint, keep=plan.train.checkpoints) as store,
        tracking.tracking(plan.train.report_to, record.run_name(fingerprint), fingerprint.configuration) as callbacks,
    ):
        if plan.train.method == "probe":
            network, history = probe.fit_probe(plan, **splits, callbacks=callbacks)
        else:
            network, history = finetune.fine_tune(plan, **splits, store=store, curves=curves, callbacks=callbacks)
        blended = blending.choose_blend(history.logits, plan.train, **labelled(task.rows, task.labels))
        yield Trained(
            record=replace(
                record, prior=adapters.label_prior(network), validation=tracking.validated(history, blended)
            ),
            network=TrainedNetwork(network=network, tokenizer=tokenizer, base=base),
            ngrams=blended.ngrams,
            history=history,
            choice=choice,
            blended=blended,
        )
        store.remove()


def _ngrams(task: Task) -> Trained:
    """Fit n-grams to the rows; no base model is opened."""
    started = time.perf_counter()
    given = labelled(task.rows, task.labels)
    found = FittedNgrams.fit(given["train"], given["validation"], len(task.labels))
    fitted = OneStep(
        logits={"train": found.model.logits(given["train"][0]), "validation": found.logits},
        labels={split: np.array(labels) for split, (_, labels) in given.items()},
    )
    count = found.model.weights.size + found.model.intercept.size
    history = fitted.history(
        seconds=time.perf_counter() - started,
        parameters={"trainable": count, "total": count},
        chosen=found.choices(),
    )
    record = Record(
        labels=task.labels, prompt=task.prompt, train=task.train, model=None, base_files={}, machine=None,
        data=task.hashes, rows={split: len(rows) for split, rows in task.rows.items()}, dataset=task.dataset.name,
        license=task.dataset.license, source=task.source, normalization=task.normalization, validation=history.best,
    )  # fmt: skip
    fingerprint = artifact.fingerprint(record)
    with tracking.tracking(task.train.report_to, record.run_name(fingerprint), fingerprint.configuration) as told:
        tracking.log(told, history)
    return Trained(record=record, network=None, ngrams=found, history=history)
