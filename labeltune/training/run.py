"""A training run: from prepared rows to a classifier that is ready to be saved, by the method of the settings."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase, TrainerCallback

from labeltune.config.data import Dataset
from labeltune.config.model import Model, Prompt, Train
from labeltune.console.terminal import say
from labeltune.data.labels import LabelSet
from labeltune.data.normalization import Normalization
from labeltune.inference import artifact
from labeltune.inference.artifact import Record
from labeltune.inference.calibration import Logits
from labeltune.modeling import adapters, base_models
from labeltune.modeling.base_models import Base
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.device import Machine
from labeltune.modeling.prompts import EncodedRows, Encoder, encode
from labeltune.runtime.files import read_json, read_prepared
from labeltune.training import blending, checkpoints, finetune, probe, tracking
from labeltune.training.blending import BlendChoice, labelled
from labeltune.training.checkpoints import Store
from labeltune.training.layer_selection import Choice, choose_capacity
from labeltune.training.ngrams import FittedNgrams
from labeltune.training.selection import Selection, judge
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
    selection: Selection = field(default_factory=Selection)
    """How it compares with cheaper classifiers."""

    @property
    def judged(self) -> Logits:
        """Of a regression: logits of the validation rows in whose choice each took no part, `[rows, num_labels]`."""
        assert self.history.judged is not None, "it is a regression"
        return self.history.judged

    def save(self, folder: Path, metrics: Path, costs: Path, curves: Path) -> None:
        """Write the classifier, the figures of its training, its costs, and a table per curve."""
        if self.network is not None:
            network = self.network
            artifact.save(folder, network.network, network.tokenizer, network.base, self.record, self.blended.blend)
        else:
            assert self.ngrams is not None, "a classifier is a network or n-grams"
            artifact.save_ngrams(folder, self.ngrams.model, self.record)
        tracking.save_history(self.history, self.choice, self.blended, self.selection, metrics, costs, curves)

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
        alone = _ngrams(task)
        name = artifact.fingerprint(alone.record)
        with tracking.tracking(task.train.report_to, alone.record.run_name(name), name.configuration) as told:
            tracking.log(told, alone.history)
        yield alone
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
        network, history = _fit(plan, splits, store, curves, callbacks)
        given = labelled(task.rows, task.labels)
        blended = blending.choose_blend(history.logits if plan.train.blend == "auto" else None, plan.train, **given)
        trained = Trained(
            record=replace(
                record, prior=adapters.label_prior(network), validation=tracking.validated(history, blended)
            ),
            network=TrainedNetwork(network=network, tokenizer=tokenizer, base=base),
            ngrams=blended.ngrams,
            history=history,
            choice=choice,
            blended=blended,
        )
        yield _select(task, plan, splits, trained)
        store.remove()


def _fit(
    plan: NetworkSpec, splits: dict[str, EncodedRows], store: Store, curves: Path, told: Sequence[TrainerCallback]
) -> tuple[Any, History]:
    """Fine-tune a network, or fit a probe."""
    train, validation = splits["train"], splits["validation"]
    if plan.train.method == "probe":
        artifact.check_tokenizer(plan.encoder.tokenizer)
        return probe.fit_probe(plan, train, validation, callbacks=told)
    return finetune.fine_tune(plan, train, validation, store=store, curves=curves, callbacks=told)


def _select(task: Task, plan: NetworkSpec, splits: dict[str, EncodedRows], trained: Trained) -> Trained:
    """Compare a network with cheaper classifiers, and take the better one where `train.select: auto` says so."""
    settings, takes = plan.train, plan.train.select == "auto"
    logits = trained.history.logits if trained.blended.logits is None else trained.blended.logits
    if takes and settings.class_weights != "none":
        say("train.select: auto compares nothing: train.class_weights moves answers on purpose, at a cost in accuracy")
    if logits is None or settings.class_weights != "none":
        return trained
    started = time.perf_counter()
    cheaper: dict[str, Trained] = {}
    if takes or trained.ngrams is not None:
        cheaper["ngrams"] = _ngrams(task, trained.ngrams)
    if takes and settings.method != "probe":
        cheaper["probe"] = _probe(plan, splits, trained)
    judged = {name: one.judged for name, one in cheaper.items()}
    found = judge(logits, judged, np.array(splits["validation"].labels), takes=takes)
    if found.better is None or not takes:
        return replace(trained, selection=found)
    taken = cheaper[found.better]
    spent = trained.history.seconds + time.perf_counter() - started
    return replace(
        taken,
        record=replace(taken.record, chosen=trained.record.chosen | {"method": f"{found.better}: {found.reason}"}),
        history=replace(taken.history, seconds=spent),
        choice=trained.choice,
        selection=replace(found, figures=found.figures | {"taken": found.better}),
    )


def _probe(plan: NetworkSpec, splits: dict[str, EncodedRows], trained: Trained) -> Trained:
    """Fit a probe of the depth and pooling of a fine-tuned network."""
    assert trained.network is not None, "it is a network's"
    changes: dict[str, Any] = {"method": "probe", "head": "linear", "head_initialization": "auto", "layers": "all"}
    changes["label_smoothing"] = 0.0
    settings = Train.model_validate(plan.train.model_dump() | changes)
    network, history = probe.fit_probe(replace(plan, train=settings), splits["train"], splits["validation"])
    record = replace(trained.record, train=settings, prior=None, validation=history.best)
    return Trained(
        record=record,
        network=replace(trained.network, network=network),
        ngrams=None,
        history=history,
    )


def _ngrams(task: Task, found: FittedNgrams | None = None) -> Trained:
    """Fit n-grams to the rows, unless they are fitted already; no base model is opened."""
    started = time.perf_counter()
    given = labelled(task.rows, task.labels)
    found = found or FittedNgrams.fit(given["train"], given["validation"], len(task.labels))
    fitted = OneStep(
        logits={"train": found.model.logits(given["train"][0]), "validation": found.logits},
        labels={split: np.array(labels) for split, (_, labels) in given.items()},
        judged=found.judged,
    )
    count = found.model.weights.size + found.model.intercept.size
    history = fitted.history(
        seconds=time.perf_counter() - started,
        parameters={"trainable": count, "total": count},
        chosen=found.choices(),
    )
    settings = Train.model_validate(task.train.model_dump() | {"method": "ngrams", "label_smoothing": 0.0})
    record = Record(
        labels=task.labels, prompt=task.prompt, train=settings, model=None, base_files={}, machine=None,
        data=task.hashes, rows={split: len(rows) for split, rows in task.rows.items()}, dataset=task.dataset.name,
        license=task.dataset.license, source=task.source, normalization=task.normalization, validation=history.best,
    )  # fmt: skip
    return Trained(record=record, network=None, ngrams=found, history=history)
