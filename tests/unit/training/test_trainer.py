"""The training loop: its loss, its records, its checkpoints' weights, and signals."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from labeltune.modeling.adapters import trainable_parameters
from labeltune.runtime.errors import UserError
from labeltune.training.dataset import Collator
from labeltune.training.trainer import collected, load_weights, validations_per_epoch
from tests.tuning import ANSWERS, plan, rows, trainer_of, tune

Bases = Callable[..., Path]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", ["none", "balanced", {"ham": 0.5, "spam": 4.0}], ids=["none", "balanced", "given"])
def test_the_loss_is_the_weighted_and_smoothed_cross_entropy(
    tiny_base: Bases, tmp_path: Path, weights: Any, smoothing: float
) -> None:
    made = plan(tiny_base("llama"), head="linear", class_weights=weights, label_smoothing=smoothing)
    trainer = trainer_of(made, tmp_path)
    given = rows(made)
    batch = Collator(pad_id=0)([given[row] for row in range(len(given))])
    loss, output = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    logits = output.logits.detach()

    share = [ANSWERS.count(0), ANSWERS.count(1)]
    w = {"none": [1, 1], "balanced": [7 / (2 * count) for count in share]}.get(str(weights), [0.5, 4.0])
    by_hand = 0.0
    for row, answer in enumerate(ANSWERS):
        log_p = (logits[row] - logits[row].exp().sum().log()).tolist()
        by_hand -= (1 - smoothing) * w[answer] * log_p[answer]
        by_hand -= smoothing / 2 * sum(w[label] * log_p[label] for label in (0, 1))
    assert loss.item() == pytest.approx(by_hand / 7, rel=1e-5)
    answers = torch.tensor(ANSWERS)
    torchs = functional.cross_entropy(
        logits, answers, weight=torch.tensor(w, dtype=torch.float32), label_smoothing=smoothing, reduction="sum"
    )
    assert loss.item() == pytest.approx(float(torchs) / 7, rel=1e-5)
    # What is recorded stays comparable between runs: the plain cross-entropy.
    assert trainer.progress.pending[0][0] == pytest.approx(
        float(functional.cross_entropy(logits, answers, reduction="sum")), rel=1e-5
    )


def test_a_training_shorter_than_eval_steps_is_validated_at_its_end(tiny_base: Bases) -> None:
    _, history = tune(plan(tiny_base("llama"), head="linear", epochs=3.0, eval_steps=100))
    assert [record["step"] for record in history.validation] == [3]
    assert history.best_step == 3


def test_early_stopping_keeps_the_best_validation(tiny_base: Bases) -> None:
    settings = {"learning_rate": 3.0, "epochs": 40.0, "eval_steps": 1, "early_stopping": 3}
    _, history = tune(plan(tiny_base("llama"), head="linear", **settings))
    losses = [record["loss"] for record in history.validation]
    assert len(losses) < 40
    best = losses.index(min(losses))
    assert history.best_step == best + 1
    assert len(losses) == best + 1 + 3


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 2), (1.0, 4), (2.0, 4), (4.0, 4)])
def test_auto_validates_twice_an_epoch_and_twice_in_all(
    tiny_base: Bases, tmp_path: Path, epochs: float, steps: int
) -> None:
    """An epoch has 7 steps."""
    made = plan(tiny_base("llama"), head="linear", batch_size=1, epochs=epochs)
    assert len(rows(made)) == 7
    assert trainer_of(made, tmp_path).args.eval_steps == steps


def test_small_batches_of_a_step_give_the_gradient_of_a_large_one(tiny_base: Bases, tmp_path: Path) -> None:
    """Also where the batches differ in size, and the labels in weight."""
    made = plan(tiny_base("llama"), head="linear", class_weights={"ham": 0.5, "spam": 4.0})
    given, collate = rows(made), Collator(pad_id=0)
    gradients = []
    for parts in ([range(7)], [range(3), range(3, 4), range(4, 7)]):
        trainer = trainer_of(made, tmp_path)
        batches = [collate([given[row] for row in part]) for part in parts]
        count = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
        assert count == 7
        for batch in batches:
            trainer.compute_loss(trainer.model.eval(), dict(batch), num_items_in_batch=count).backward()
        gradients.append({name: weight.grad for name, weight in trainable_parameters(trainer.model).items()})
    assert any(bool(gradient.any()) for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_names_the_step_and_its_rows(tiny_base: Bases, tmp_path: Path) -> None:
    made = plan(tiny_base("llama"), head="linear")
    trainer, given = trainer_of(made, tmp_path), rows(made)
    batch = Collator(pad_id=0)([given[row] for row in (2, 5)])
    with torch.no_grad():
        for weight in trainable_parameters(trainer.model).values():
            weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"not finite at step 1, for the rows with the ids row 2, row 5 of .*train.csv"):
        trainer.compute_loss(trainer.model, dict(batch))


def test_a_record_is_the_mean_over_the_rows_since_the_one_before(tiny_base: Bases, tmp_path: Path) -> None:
    trainer = trainer_of(plan(tiny_base("llama"), head="linear"), tmp_path)
    trainer.progress.pending += [(6.0, 2, 3), (2.0, 1, 1)]  # summed loss, right answers, rows
    trainer.record_training()
    (record,) = trainer.progress.train
    assert (record["loss"], record["accuracy"]) == (2.0, 0.75)
    assert trainer.progress.pending == []
    trainer.record_training()
    assert len(trainer.progress.train) == 1


def test_weights_are_read_back_bit_for_bit_and_other_ones_are_a_bug(tiny_base: Bases, tmp_path: Path) -> None:
    made = plan(tiny_base("llama"), head="linear")
    trainer = trainer_of(made, tmp_path)
    with torch.no_grad():
        for weight in trainable_parameters(trainer.model).values():
            weight.normal_()
    trainer._save(str(tmp_path / "saved"))
    fresh: Any = made.build()
    load_weights(fresh, tmp_path / "saved")
    expected, found = trainable_parameters(trainer.model), trainable_parameters(fresh)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    with pytest.raises(AssertionError, match="holds other weights"):
        load_weights(plan(tiny_base("llama"), head="mlp").build(), tmp_path / "saved")


def test_a_first_signal_is_collected_a_second_one_interrupts_and_the_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with collected() as received:
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGTERM]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("epochs", "count"), [(0.1, 20), (0.5, 4), (0.9, 3), (1.0, 2), (2.0, 2), (50.0, 2)])
def test_there_are_at_least_two_validations_in_an_epoch_and_in_all(epochs: float, count: int) -> None:
    assert validations_per_epoch(epochs) == count
    assert count * epochs >= 2
