"""Fine-tuning: head initialization, Trainer's arguments, out-of-memory back-off, and the best model kept."""

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import TrainerCallback, TrainingArguments, set_seed

from labeltune.config.model import Train
from labeltune.console.terminal import bar, say
from labeltune.data.labels import Indices, LabelSet
from labeltune.data.sampling import sample
from labeltune.inference import artifact
from labeltune.inference.artifact import Record
from labeltune.modeling.adapters import parameter_counts
from labeltune.modeling.architectures import unwrap
from labeltune.modeling.base_models import quiet
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.classifiers import NATIVE_HEADS, PooledClassification
from labeltune.modeling.device import computing_as, device, left_open, out_of_memory
from labeltune.modeling.forward import compute_logits, length_multiple
from labeltune.modeling.kernels import fused
from labeltune.modeling.network import Network, PooledNetwork
from labeltune.modeling.prompts import EncodedRows
from labeltune.probing.regression import ROUNDS, single_threaded
from labeltune.runtime.environment import Fingerprint
from labeltune.runtime.errors import UserError
from labeltune.training import dataset
from labeltune.training.checkpoints import Store, hardware_to_resume
from labeltune.training.dataset import ByLength, Collator, with_states
from labeltune.training.tracking import History
from labeltune.training.trainer import RowTrainer, load_weights, validations_per_epoch

ROWS, ROWS_PER_LABEL = 256, 32
"""Minimum number of training rows for the regression, in total and for each label."""
SEED = 0
"""Seed for the sample; not `train.seed`, so that trainings with different seeds start from the same head."""
STRENGTH = 0.003
"""C of the regression. The penalty is strong because confident errors of the initial head are slow to unlearn."""
LEAST_SPREAD = 1e-3
"""Lower bound of a feature's standard deviation in scaling, as a share of the mean standard deviation."""


def initialize_head(plan: NetworkSpec, network: Network, train: EncodedRows) -> None:
    """Initialize a linear head by a logistic regression, depending on `train.head_initialization`.

    Args:
        network: the network before training; new adapters do not change its output.
        train: the training rows, with the states of the frozen layers if they are known.

    Raises:
        UserError: a regression is asked for, and the head reads what Transformers' own classifier makes of the states.
    """
    settings, inner = plan.train, unwrap(network)
    if settings.head != "linear" or settings.head_initialization == "random":
        return
    assert isinstance(inner, PooledClassification), "a linear head reads a pooled state"
    if inner.pooling == NATIVE_HEADS:
        if settings.head_initialization == "regression":
            raise UserError(
                "train.head_initialization: regression needs train.pooling first, last or mean with this model"
            )
        return
    rows = sample(train.labels, max(ROWS, ROWS_PER_LABEL * len(plan.labels)), SEED)
    labels = np.array([train.labels[row] for row in rows])
    with without_head(inner):
        states = compute_logits(
            network,
            [train.input_ids[row] for row in rows],
            pad_id=plan.encoder.tokenizer.pad_token_id,
            batch_tokens=fused.batch_tokens(network),
            states=None if train.states is None else [train.states[row] for row in rows],
        )
    (weight,) = (held for held in getattr(inner, inner.head_name).parameters() if held.requires_grad)
    with single_threaded():
        fitted = fit_head(states, labels, len(plan.labels))
    if fitted is not None:
        with torch.no_grad():
            weight.copy_(torch.from_numpy(fitted))


@contextmanager
def without_head(network: PooledNetwork) -> Iterator[None]:
    """Context in which a network's logits are the pooled states that its head reads, `[batch, size]`."""
    head = getattr(network, network.head_name)
    setattr(network, network.head_name, nn.Identity())
    try:
        yield
    finally:
        setattr(network, network.head_name, head)


def fit_head(states: NDArray[np.float32], labels: Indices, num_labels: int) -> NDArray[np.float64] | None:
    """Weights of a logistic regression without an intercept, which the head has not either, `[num_labels, size]`.

    Features are scaled to vary alike, not centred; a label without a row has zeros.

    Args:
        states: `[rows, size]`.
        labels: of the rows, `[rows]`.

    Returns:
        None where all rows have one label.

    >>> fit_head(np.array([[1, 0], [0, 1]], dtype=np.float32), np.array([0, 2]), 3).round(3).tolist()
    [[0.003, -0.003], [0.0, 0.0], [-0.003, 0.003]]
    """
    if len(np.unique(labels)) == 1:
        return None
    spread = states.std(axis=0, dtype=np.float64)
    spread = np.maximum(spread, LEAST_SPREAD * spread.mean())
    model = LogisticRegression(C=STRENGTH, max_iter=ROUNDS, fit_intercept=False).fit(states / spread, labels)
    weights = np.zeros((num_labels, states.shape[1]))
    # Of two labels scikit-learn gives the difference alone.
    weights[model.classes_] = model.coef_ if len(model.coef_) > 1 else np.stack([-model.coef_[0], model.coef_[0]]) / 2
    return weights / spread


RECORDS_PER_EVALUATION = 4
OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}


def as_interrupted(plan: NetworkSpec, record: Record) -> tuple[NetworkSpec, Record, Fingerprint]:
    """Return a training with the threads and the dtype of its checkpoint, if there is one, and its fingerprint."""
    found = hardware_to_resume(artifact.fingerprint(record), plan.train.resume, left_open(plan.train))
    machine = computing_as(plan.machine, found)
    torch.set_num_threads(machine.threads)
    record = replace(record, machine=machine)
    return replace(plan, machine=machine), record, artifact.fingerprint(record)


def fine_tune(
    plan: NetworkSpec,
    train: EncodedRows,
    validation: EncodedRows,
    *,
    store: Store,
    curves: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[Network, History]:
    """Build a network and train it; return it with the weights of the best validation.

    If memory runs out, the batch size is halved, accumulation doubled, and training resumes from the newest
    checkpoint. The rows of each step stay the same, so that only rounding differs.

    Args:
        store: where checkpoints are kept.
        curves: a folder that the curves so far are written to at each validation; None writes none.
        callbacks: callbacks of Transformers' Trainer, which receive every figure that is recorded.

    Raises:
        UserError: memory does not suffice for a batch of one row, or the tokenizer can't be saved in an artefact.
        StoppedError: the training was stopped by a signal.
    """
    settings = plan.train
    started = time.perf_counter()
    artifact.check_tokenizer(plan.encoder.tokenizer)
    weights = class_weights(settings, plan.labels, train.labels)
    resume = store.resume(settings.resume)
    network = plan.build()
    trainer: RowTrainer | None = None
    train, validation = with_states(plan, unwrap(network), [train, validation])
    if resume is None:
        initialize_head(plan, network, train)
    packing = dataset.choose_packing(plan, unwrap(network))
    pad_id, multiple = plan.encoder.tokenizer.pad_token_id, length_multiple(unwrap(network))
    collator = Collator(pad_id=pad_id, multiple=multiple, packing=packing)
    batch, accumulation = settings.batch_size, settings.accumulation
    while True:
        try:
            sizes = settings.model_copy(update={"batch_size": batch, "accumulation": accumulation})
            trainer = _trainer(
                network, train, validation, sizes, plan.machine.dtype, collator, weights, store, curves, callbacks
            )
            return network, _run(trainer, resume, started, answer="auto" in (settings.blend, settings.select))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if batch == 1:
            raise UserError(
                "out of memory even with one row in a batch: set train.gradient_checkpointing: true, train.method: "
                "qlora, fewer train.layers, a smaller prompt.max_length, or a smaller model"
            )
        parts = next(factor for factor in range(2, batch + 1) if batch % factor == 0)
        batch, accumulation = batch // parts, accumulation * parts
        say(f"out of memory: going on with train.batch_size: {batch} and train.accumulation: {accumulation}")
        trainer = None  # frees its memory, and the network's, before the next ones are built
        del network
        gc.collect()
        torch.cuda.empty_cache()
        network, resume = plan.build(), store.resume("auto")
        if resume:
            started = time.perf_counter()  # the checkpoint holds the seconds before it
        else:
            initialize_head(plan, network, train)


def _run(trainer: RowTrainer, resume: Path | None, started: float, *, answer: bool) -> History:
    """Train, and put the weights of the best validation back.

    Args:
        answer: whether that model's logits of the validation rows are asked for.
    """
    with trainer.bar, quiet():
        trainer.fit(resume, started)
    best = trainer.state.best_global_step
    load_weights(trainer.model, trainer.store.path(best))
    return History(
        train=trainer.progress.train,
        validation=trainer.progress.validation,
        best_step=best,
        seconds=trainer.seconds(),
        rows_seen=trainer.progress.rows_seen,
        batch_size=trainer.args.per_device_train_batch_size,
        accumulation=trainer.args.gradient_accumulation_steps,
        parameters=parameter_counts(trainer.model),
        logits=trainer.validation_logits() if answer else None,
    )


def _trainer(
    network: Network,
    train: EncodedRows,
    validation: EncodedRows,
    settings: Train,
    dtype: str,
    collator: Collator,
    weights: torch.Tensor | None,
    store: Store,
    curves: Path | None,
    callbacks: Sequence[TrainerCallback],
) -> RowTrainer:
    epochs = float(settings.epochs)
    steps_per_epoch = math.ceil(math.ceil(len(train) / settings.batch_size) / settings.accumulation)
    # Rounded down, the last two would be neighbours.
    auto = math.ceil(steps_per_epoch / validations_per_epoch(epochs))
    every = auto if settings.eval_steps == "auto" else settings.eval_steps
    step_rows = settings.batch_size * settings.accumulation
    sampler = ByLength(train, step_rows, settings.seed) if settings.batches == "by_length" else None
    set_seed(settings.seed)
    with quiet():
        return RowTrainer(
            network,
            _arguments(settings, dtype, every, store.folder),
            train,
            validation,
            collator=collator,
            weights=weights,
            smoothing=settings.label_smoothing,
            record_every=math.ceil(every / RECORDS_PER_EVALUATION),  # rounded down, the last would be tiny
            patience=settings.early_stopping,
            sampler=sampler,
            store=store,
            bar=bar("training", round(len(train) * epochs)),
            curves=curves,
            callbacks=list(callbacks),
        )


def _arguments(settings: Train, dtype: str, every: int, folder: Path) -> TrainingArguments:
    optimizer = settings.optimizer
    if optimizer == "auto":
        optimizer = "paged_adamw_8bit" if settings.method == "qlora" else "adamw"
    if optimizer == "paged_adamw_8bit" and device().type == "cpu":
        optimizer = "adamw_8bit"  # the same arithmetic: a CPU has no other memory to page to
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=settings.seed,
        num_train_epochs=float(settings.epochs),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        optim=OPTIMIZERS[optimizer],
        learning_rate=settings.rate,
        lr_scheduler_type="constant_with_warmup" if settings.scheduler == "constant" else settings.scheduler,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        fp16=dtype == "fp16",
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        metric_for_best_model=f"eval_{selected_by(settings)}",
        greater_is_better=settings.keep_best != "loss",
        logging_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # DataParallel is slow and splits batches
    return arguments


def selected_by(settings: Train) -> str:
    """Validation figure that selects the model: of the loss, the one that is trained."""
    other = settings.class_weights != "none" or settings.label_smoothing
    return "objective" if settings.keep_best == "loss" and other else settings.keep_best


def class_weights(settings: Train, labels: LabelSet, rows: Sequence[int]) -> torch.Tensor | None:
    """Weight of each label in the loss, `[num_labels]`, or None for equal ones.

    `balanced` gives rows / (labels · rows of the label), as scikit-learn does: the mean over the rows is 1.

    Raises:
        UserError: weights that do not name exactly the labels, or a label without training rows.
    """
    given: Any = settings.class_weights
    if given == "none":
        return None
    if given == "balanced":
        counts = np.bincount(rows, minlength=len(labels))
        if not counts.all():
            absent = [name for name, count in zip(labels.names, counts, strict=True) if not count]
            raise UserError(f"train.class_weights: balanced needs training rows of every label; {absent} have none")
        return torch.tensor(len(rows) / (len(labels) * counts), dtype=torch.float32)
    if set(given) != set(labels.names):
        raise UserError(f"train.class_weights: names {sorted(given)}, but the labels are {list(labels.names)}")
    return torch.tensor([given[name] for name in labels.names], dtype=torch.float32)
