"""Settings of a training: that each reaches the loss, the optimiser or the schedule, by an independent formula."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special
from sklearn.utils.class_weight import compute_class_weight
from transformers import TrainerCallback

from labeltune.config.model import Train
from labeltune.data.labels import LabelSet
from labeltune.inference import artifact
from labeltune.runtime.errors import UserError
from labeltune.training import checkpoints, finetune, tracking
from labeltune.training.tracking import validation_figures
from tests.tuning import plan, record, rows, trainer_of, tune

Bases = Callable[..., Path]
LABELS = LabelSet(names=("a", "b", "c"), words=("a", "b", "c"))


def train(**changes: Any) -> Train:
    return Train.model_validate({"seed": 1, **changes})


def arguments(tmp_path: Path, **changes: Any) -> Any:
    return finetune._arguments(train(**changes), "fp32", 7, tmp_path)


class Watcher(TrainerCallback):
    """Somebody who opens the curves at each validation, and stops the training at one of them."""

    def __init__(self, folder: Path, stop: int | None = None) -> None:
        self.folder, self.stop = folder, stop
        self.seen: list[tuple[list[int], list[int]]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        curves = [pd.read_csv(self.folder / f"{name}.csv")["step"].tolist() for name in ("validation", "train")]
        self.seen.append((curves[0], curves[1]))

    def on_step_begin(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        if state.global_step == self.stop:
            curves = pd.read_csv(self.folder / "validation.csv")["step"].tolist()
            raise InterruptedError(curves)


def test_the_curves_are_written_at_each_validation_and_where_a_training_goes_on(
    tiny_base: Bases, tmp_path: Path
) -> None:
    made = plan(tiny_base("llama"), layers=2, epochs=2.0, batch_size=3, eval_steps=2)
    given, curves = rows(made), tmp_path / "curves"

    def fine_tune(store: Any, stop: int | None = None) -> tuple[Watcher, Any]:
        watcher = Watcher(curves, stop)
        return watcher, finetune.fine_tune(made, given, given, store=store, curves=curves, callbacks=[watcher])[1]

    fingerprint = artifact.fingerprint(record(made))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(tmp_path))
        with checkpoints.open_store(fingerprint, keep=2) as store:
            watcher, history = fine_tune(store)
            store.remove()
            assert [validation for validation, _ in watcher.seen] == [[2], [2, 4], [2, 4, 6]]
            assert watcher.seen[0][1] == [1, 2]
            tracking.save_curves(history, tmp_path / "last")
            whole = {path.name: path.read_bytes() for path in (tmp_path / "last").iterdir()}
            assert {path.name: path.read_bytes() for path in curves.iterdir()} == whole

            with pytest.raises(InterruptedError, match=r"\[2\]"):
                fine_tune(store, stop=3)
            shutil.rmtree(curves)  # as DVC does with a stage's outs
            with pytest.raises(InterruptedError, match=r"\[2\]"):
                fine_tune(store, stop=2)
            watcher, _ = fine_tune(store)
            assert [validation for validation, _ in watcher.seen] == [[2, 4], [2, 4, 6]]
            assert {path.name: path.read_bytes() for path in curves.iterdir()} == whole


def test_balanced_weights_are_scikit_learns() -> None:
    given = [0, 0, 0, 0, 1, 2, 2]
    weights = finetune.class_weights(train(class_weights="balanced"), LABELS, given)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=given)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights[given].mean() == pytest.approx(1)


def test_given_weights_follow_the_order_of_the_labels() -> None:
    weights = finetune.class_weights(train(class_weights={"c": 3, "a": 1, "b": 0.5}), LABELS, [0])
    assert weights.tolist() == [1, 0.5, 3]
    assert finetune.class_weights(train(), LABELS, [0]) is None


def test_the_model_is_selected_by_the_loss_that_is_trained(tmp_path: Path) -> None:
    """Nine rows of one label and one of another: never answering the rare one has the smaller plain loss."""
    labels = np.array([0] * 9 + [1])
    deaf = np.tile(np.array([[2.2, 0.0]], dtype=np.float32), (10, 1))
    hearing = np.where(labels[:, None] == 1, [[0.0, 3.0]], [[0.8, 0.0]]).astype(np.float32)
    two = LabelSet(names=("a", "b"), words=("a", "b"))
    weights = finetune.class_weights(train(class_weights="balanced"), two, labels.tolist())
    first, second = (validation_figures(logits, labels, weights) for logits in (deaf, hearing))
    assert first["loss"] < second["loss"]
    assert first["objective"] > second["objective"]
    expected = np.average(log_softmax_losses(hearing, labels), weights=np.asarray(weights)[labels])
    assert second["objective"] == pytest.approx(expected, rel=1e-6)
    assert arguments(tmp_path, class_weights="balanced").metric_for_best_model == "eval_objective"
    assert arguments(tmp_path, label_smoothing=0.1).metric_for_best_model == "eval_objective"
    assert arguments(tmp_path, class_weights="balanced", keep_best="macro_f1").metric_for_best_model == "eval_macro_f1"
    assert arguments(tmp_path).metric_for_best_model == "eval_loss"
    assert "objective" not in validation_figures(hearing, labels)


def log_softmax_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": 1, "b": 1}, r"train.class_weights: names \['a', 'b'\], but the labels are \['a', 'b', 'c'\]"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, r"names \['a', 'b', 'c', 'd'\], but the labels are"),
        ("balanced", r"train.class_weights: balanced needs training rows of every label; \['c'\] have none"),
    ],
)
def test_weights_that_do_not_fit_the_labels_are_refused(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        finetune.class_weights(train(class_weights=given), LABELS, [0, 1, 1])


class _Steps(TrainerCallback):
    """The optimiser's settings at each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.norms: list[float] = []
        self.decays: dict[str, float] = {}
        self.optimizer = ""

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any, model: Any, **unused: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        names = {id(weight): name for name, weight in model.named_parameters()}
        groups = optimizer.param_groups
        self.decays = {names[id(weight)]: group["weight_decay"] for group in groups for weight in group["params"]}
        self.optimizer = type(getattr(optimizer, "optimizer", optimizer)).__name__

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **unused: Any) -> None:
        found = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
        self.norms.append(float(torch.cat(found).norm()))


def stepped(folder: Path, **changes: Any) -> _Steps:
    steps = _Steps()
    made = plan(folder, head="linear", **{"eval_steps": 8, **changes})
    tune(made, callbacks=[steps])
    return steps


COURSES: dict[str, Callable[[int], float]] = {  # share of the peak after 2 steps of warm-up, of 8
    "linear": lambda step: (8 - step) / 6,
    "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * (step - 2) / 6)),
    "polynomial": lambda step: (8 - step) / 6 + 1e-7 / 0.02 * (step - 2) / 6,
    "inverse_sqrt": lambda step: 1 / math.sqrt(step / 2),
    "constant": lambda step: 1.0,
}


@pytest.mark.parametrize("scheduler", COURSES)
def test_the_learning_rate_warms_up_and_takes_its_course(tiny_base: Bases, scheduler: str) -> None:
    steps = stepped(tiny_base("llama"), scheduler=scheduler, warmup=0.25, epochs=8.0)
    expected = [0.02 * (step / 2 if step < 2 else COURSES[scheduler](step)) for step in range(8)]
    assert steps.rates == pytest.approx(expected)


def test_without_a_warm_up_the_first_step_has_the_peak(tiny_base: Bases) -> None:
    assert stepped(tiny_base("llama"), scheduler="linear", epochs=2.0, eval_steps=2).rates == pytest.approx(
        [0.02, 0.01]
    )


def test_gradients_are_clipped_to_the_norm(tiny_base: Bases) -> None:
    free = stepped(tiny_base("llama"), max_grad_norm=1e6, eval_steps=1)
    assert free.norms[0] > 0.1
    cut = stepped(tiny_base("llama"), max_grad_norm=0.01, eval_steps=1)
    assert cut.norms[0] == pytest.approx(0.01, rel=1e-3)


def test_weights_decay_and_norms_and_biases_do_not(tiny_base: Bases) -> None:
    decays = stepped(tiny_base("gpt2"), method="full", weight_decay=0.3, eval_steps=1).decays
    assert decays["transformer.h.0.attn.c_attn.weight"] == 0.3
    assert decays["score.weight"] == 0.3
    assert decays["transformer.h.0.attn.c_attn.bias"] == 0
    assert decays["transformer.h.0.ln_1.weight"] == 0
    assert set(stepped(tiny_base("gpt2"), eval_steps=1).decays.values()) == {0}


def test_decay_is_decoupled(tiny_base: Bases) -> None:
    # A step of AdamW takes rate · decay · weight off besides the gradient's part (Loshchilov and Hutter 2019).
    before, ends = None, []
    for decay in (0.0, 0.5):
        made = plan(tiny_base("llama"), method="full", head="linear", weight_decay=decay)
        before = made.build().model.layers[0].mlp.up_proj.weight.detach()
        ends.append(tune(made)[0].model.layers[0].mlp.up_proj.weight.detach())
    torch.testing.assert_close(ends[0] - ends[1], 0.02 * 0.5 * before, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "name", "kind"),
    [
        ({}, "adamw_torch_fused", "AdamW"),
        ({"method": "qlora"}, "adamw_8bit", "AdamW"),
        ({"method": "qlora", "optimizer": "adamw"}, "adamw_torch_fused", "AdamW"),
        ({"method": "full", "optimizer": "adamw_8bit"}, "adamw_8bit", "AdamW"),
        ({"optimizer": "paged_adamw_8bit"}, "adamw_8bit", "AdamW"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CPU has nothing to page to")
def test_the_optimiser_is_8_bit_adamw_with_qlora_unless_set(
    tiny_base: Bases, tmp_path: Path, changes: dict[str, Any], name: str, kind: str
) -> None:
    assert arguments(tmp_path, **changes).optim == name
    made = plan(tiny_base("llama"), head="linear", **changes)
    optimizer = trainer_of(made, tmp_path).create_optimizer()
    assert type(optimizer).__name__ == kind
    assert type(optimizer).__module__.split(".")[0] == ("bitsandbytes" if "8bit" in name else "torch")
    if "8bit" in name:
        assert optimizer.args.optim_bits == 8


def test_settings_reach_the_trainer(tmp_path: Path) -> None:
    changes = {
        "epochs": 2.5, "batch_size": 3, "accumulation": 5, "weight_decay": 0.3, "max_grad_norm": 0.7, "warmup": 0.2,
        "keep_best": "macro_f1", "learning_rate": 3e-4,
    }  # fmt: skip
    made = arguments(tmp_path, **changes)
    assert (made.num_train_epochs, made.per_device_train_batch_size, made.gradient_accumulation_steps) == (2.5, 3, 5)
    assert (made.weight_decay, made.max_grad_norm, made.learning_rate) == (0.3, 0.7, 3e-4)
    assert made.get_warmup_steps(100) == 20
    assert (made.eval_steps, made.save_steps) == (7, 7)
    assert (made.metric_for_best_model, made.greater_is_better) == ("eval_macro_f1", True)
    assert arguments(tmp_path, keep_best="loss").greater_is_better is False
    assert not made.fp16
    assert finetune._arguments(train(), "bf16", 7, tmp_path).fp16 is False  # autocast is the network's own
    assert not made.bf16


def test_a_run_takes_the_rate_of_its_method(tiny_base: Bases) -> None:
    rates = {"full": 1e-5, "lora": 2e-4}
    assert stepped(tiny_base("llama"), learning_rate=rates, eval_steps=1).rates == [2e-4]
    assert stepped(tiny_base("llama"), learning_rate=rates, method="full", eval_steps=1).rates == [1e-5]
