"""A training that is killed, stopped, or runs out of disk or memory ends with the bytes of one that nothing befell.

Every training here is a process of its own, forked from one that has imported everything already. What befalls it is
done to it from inside, at a given step, so that nothing hangs on time.
"""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from labeltune.inference import artifact
from labeltune.modeling import device
from labeltune.runtime import environment, errors, files
from labeltune.training import checkpoints, trainer
from labeltune.training.trainer import RowTrainer
from stages import configure, prepare, train
from tests.conftest import make_project

pytestmark = pytest.mark.slow
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["transformers.models.llama.modeling_llama", "bitsandbytes", "sklearn.metrics", __name__])
OUTS = ("models/trained", "metrics/train.json", "plots/curves")
WAIT = 120.0

Fault = Callable[[], object]
"""Done to a training's process before it starts; module-level functions, so that they can be sent there."""


# 42 training rows: 6 steps an epoch, the last of one batch; a validation and a checkpoint every second step.
COMMON = "epochs: 2, batch_size: 4, accumulation: 2, eval_steps: 2, dtype: fp32, threads: 1"
LORA = f"{COMMON}, layers: 2, lora: {{dropout: 0.1}}"
VARIANTS = {
    "lora": LORA,
    "lora, by length": f"{LORA}, batches: by_length",
    "qlora": f"{LORA}, method: qlora",
    "full": f"{COMMON}, method: full, head: mlp, pooling: mean, head_dropout: 0.3, batches: by_length",
    "every second step recorded": LORA.replace(
        "eval_steps: 2", "eval_steps: 8, keep_best: accuracy, scheduler: cosine, warmup: 0.5"
    ),
}


# Faults


def each_batch(action: Callable[[RowTrainer, int], object]) -> None:
    """Call `action(trainer, batch)` before every forward pass; `batch` counts within an optimiser step from 0."""
    original, calls = RowTrainer.training_step, [-1, 0]

    def training_step(self: RowTrainer, *arguments: Any, **options: Any) -> torch.Tensor:
        step = self.state.global_step
        calls[:] = [step, calls[1] + 1 if calls[0] == step else 0]
        action(self, calls[1])
        return original(self, *arguments, **options)

    RowTrainer.training_step = training_step  # type: ignore[method-assign]


def signalled(number: int, step: int, batch: int = 0) -> None:
    """Send itself a signal when so many steps are done, and so many batches of the next."""

    def action(self: RowTrainer, index: int) -> None:
        if (self.state.global_step, index) == (step, batch):
            os.kill(os.getpid(), number)

    each_batch(action)


def before(module: Any, name: str, action: Callable[..., object]) -> None:
    """Call `action` with the arguments of every call of `module.name`, before that one."""
    original = getattr(module, name)

    def replacement(*arguments: Any, **options: Any) -> Any:
        action(*arguments, **options)
        return original(*arguments, **options)

    setattr(module, name, replacement)


def die(*unused: Any, **ignored: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in_save(step: int) -> None:
    """Die when a checkpoint's files are written and its manifest is not."""
    before(checkpoints, "write_manifest", lambda folder, saved, *rest: die() if saved == step else None)


def killed_at(module: str, name: str) -> None:
    """Die where a function of a module is called for the first time."""
    before(sys.modules[module], name, die)


def disk_full_in_save(step: int) -> None:
    def fail(folder: Path, saved: int, *rest: Any) -> None:
        if saved == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "manifest.json"))

    before(checkpoints, "write_manifest", fail)


def weights_lost(step: int, place: str) -> None:
    """Make every trained weight NaN after so many steps, before the next `training_step` or `evaluate`."""

    def lose(self: RowTrainer, *unused: Any, **ignored: Any) -> None:
        if self.state.global_step == step:
            for weight in trainer.trainable_parameters(self.model).values():
                weight.data.fill_(torch.nan)

    before(RowTrainer, place, lose)


def row_lost(step: int, row: int) -> None:
    """Make one row's loss NaN after so many steps, in a batch with others."""
    original = trainer.functional.cross_entropy
    place: list[int] = []

    def compute_loss(self: RowTrainer, model: Any, inputs: Any, *arguments: Any, **options: Any) -> None:
        place[:] = (
            [inputs["rows"].tolist().index(row)] if row in inputs["rows"] and self.state.global_step >= step else []
        )

    def cross_entropy(logits: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if place:
            logits = logits.clone()
            logits[place[0]] = torch.nan
        return original(logits, *arguments, **options)

    before(RowTrainer, "compute_loss", compute_loss)
    trainer.functional.cross_entropy = cross_entropy


def little_memory(rows: int, step: int = 0) -> None:
    """From a step on, have memory for so many rows at once."""

    def compute_loss(self: RowTrainer, model: Any, inputs: Any, *arguments: Any, **options: Any) -> None:
        if self.state.global_step >= step and len(inputs["labels"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    before(RowTrainer, "compute_loss", compute_loss)


def saving_each_step() -> None:
    """As if ten minutes passed between any two steps."""
    trainer.SAVE_SECONDS = -1.0


def seeing_other_code() -> None:
    """As if a file of the library had been changed."""
    hashes = environment.code_hashes
    artifact.code_hashes = lambda: hashes() | {"labeltune/training/finetune.py": "0" * 64}  # type: ignore[attr-defined]


def workers(count: int) -> None:
    """As if so many workers of the queue ran on a machine of two cores."""
    os.environ.pop("OMP_NUM_THREADS")
    device.cores = lambda: 2
    device.queue_workers = lambda: count


def held(connection: Connection, step: int) -> None:
    """Stop at a step until the other end of the connection closes."""

    def action(self: RowTrainer, index: int) -> None:
        if (self.state.global_step, index) == (step, 0):
            connection.send(os.getpid())
            connection.poll(None)

    each_batch(action)


def edited(step: int) -> None:
    """Add a row to the training rows meanwhile."""

    def action(self: RowTrainer, index: int) -> None:
        if (self.state.global_step, index) == (step, 0):
            path = Path("data/prepared/train.csv")
            path.write_text(path.read_text(encoding="utf-8") + "x,ham,more,more\n", encoding="utf-8")

    each_batch(action)


# Processes


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a process ended."""

    status: int
    out: str
    error: str

    @property
    def resumed(self) -> list[int]:
        """Steps that it went on from."""
        return [int(line.rsplit(" ", 1)[1]) for line in self.out.splitlines() if line.startswith("going on from step")]


def body(
    folder: Path, prints: Path, environment: dict[str, str], stages: list[Callable[[], None]], faults: list[Fault]
) -> None:
    """What the process does: as `python -m stages.train` would."""
    for name, number in (("out.txt", 1), ("error.txt", 2)):
        os.dup2(os.open(prints / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("error")
    for fault in faults:
        fault()
    for stage in stages:
        errors.run(stage)


def start(
    folder: Path, *faults: Fault, stages: list[Callable[[], None]] | None = None, prints: Path | None = None
) -> Any:
    """Start the train stage in a workspace; what it prints goes into files there or in `prints`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    environment |= {"LABELTUNE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    arguments = (folder, prints or folder, environment, stages or [configure.main, train.main], list(faults))
    process = FORKS.Process(target=body, args=arguments, daemon=True)
    process.start()
    return process


def finish(process: Any, folder: Path) -> Finished:
    process.join(WAIT)
    assert process.exitcode is not None, "it hangs"
    out, error = ((folder / name).read_text(encoding="utf-8") for name in ("out.txt", "error.txt"))
    return Finished(status=process.exitcode, out=out, error=error)


def run(folder: Path, *faults: Fault, status: int = 0, stages: list[Callable[[], None]] | None = None) -> Finished:
    """Run the train stage to its end, and see that it ended as it should."""
    ended = finish(start(folder, *faults, stages=stages), folder)
    assert ended.status == status, ended
    assert "Traceback" not in ended.error
    assert (ended.error != "") == (status > 0), ended.error
    return ended


def killed(folder: Path, *faults: Fault) -> Finished:
    return run(folder, *faults, status=-signal.SIGKILL)


# Workspaces


@pytest.fixture(scope="module")
def prepared(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with prepared rows."""
    folder = tmp_path_factory.mktemp("prepared")
    make_project(folder, base_folder)
    for name in ("labeltune", "stages"):
        shutil.rmtree(folder / name)
    run(folder, stages=[configure.main, prepare.main])
    return folder


Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make a workspace with these train settings."""

    def workspace(settings: str) -> Path:
        folder = tmp_path_factory.mktemp("workspace")
        shutil.copytree(prepared, folder, dirs_exist_ok=True)
        configured(folder, settings)
        return folder

    return workspace


def configured(folder: Path, settings: str) -> Path:
    """Give a workspace other train settings."""
    recipe = "about: test\ndataset: messages\nmodel: tiny\nprompt: {name: classify}\n"
    (folder / "conf/recipes/test.yaml").write_text(f"{recipe}train: {{{settings}}}\n", encoding="utf-8")
    return folder


References = Callable[[str], dict[str, bytes]]


@pytest.fixture(scope="module")
def reference(make: Make) -> References:
    """The outs of an uninterrupted training with these settings, once each."""
    kept: dict[str, dict[str, bytes]] = {}

    def outs(settings: str) -> dict[str, bytes]:
        if settings not in kept:
            folder = make(settings)
            run(folder)
            kept[settings] = written(folder)
        return kept[settings]

    return outs


def written(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of the stage's outs, costs apart; and what else must hold after a success."""
    assert [path.name for path in (folder / ".checkpoints").iterdir()] == ["locks"]
    files = [path for out in OUTS for path in (folder / out, *(folder / out).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def differing(some: dict[str, bytes], others: dict[str, bytes]) -> list[str]:
    """Files that are not in both with the same bytes."""
    return sorted(name for name in some.keys() | others.keys() if some.get(name) != others.get(name))


def figures(outs: dict[str, bytes]) -> dict[str, Any]:
    return dict(json.loads(outs["metrics/train.json"]))


def steps(folder: Path) -> list[int]:
    """Steps of which there is a checkpoint."""
    return sorted(int(path.name[5:]) for path in (folder / ".checkpoints").glob("*/step-*"))


def checkpoint(folder: Path, step: int) -> Path:
    (found,) = (folder / ".checkpoints").glob(f"*/{checkpoints.checkpoint_name(step)}")
    return found


# Kills


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "second" not in name])
def test_killed_again_and_again_it_ends_with_the_same_bytes(variant: str, make: Make, reference: References) -> None:
    folder = make(VARIANTS[variant])
    assert killed(folder, partial(signalled, signal.SIGKILL, 3, 1)).resumed == []  # between two, inside a step
    assert killed(folder, partial(signalled, signal.SIGKILL, 4)).resumed == [2]  # right after a checkpoint
    assert killed(folder, partial(signalled, signal.SIGKILL, 6)).resumed == [4]  # where the first epoch ends
    assert killed(folder, partial(signalled, signal.SIGKILL, 9, 1)).resumed == [6]
    assert killed(folder, partial(signalled, signal.SIGKILL, 10)).resumed == [8]
    assert run(folder).resumed == [10]
    assert differing(written(folder), reference(VARIANTS[variant])) == []


STOPPING = f"{LORA.replace('epochs: 2', 'epochs: 4')}, learning_rate: 0.5, early_stopping: 2"


def test_early_stopping_counts_on_after_a_kill(make: Make, reference: References) -> None:
    expected = reference(STOPPING)
    last, best = figures(expected)["steps"], figures(expected)["best_step"]
    assert best + 4 == last < 24
    folder = make(STOPPING)
    killed(folder, partial(signalled, signal.SIGKILL, last - 1))
    assert run(folder).resumed == [last - 2]
    assert differing(written(folder), expected) == []


@pytest.mark.parametrize("settings", [LORA, STOPPING], ids=["all steps done", "stopped early"])
@pytest.mark.parametrize("place", ["labeltune.inference.artifact save", "labeltune.training.tracking costs"])
def test_killed_after_its_last_step_it_trains_no_further(
    settings: str, place: str, make: Make, reference: References
) -> None:
    expected = reference(settings)
    folder = make(settings)
    killed(folder, partial(killed_at, *place.split()))
    assert run(folder, partial(each_batch, die)).resumed == [figures(expected)["steps"]]
    assert differing(written(folder), expected) == []


def test_killed_between_two_validations_it_goes_on_from_the_checkpoint_that_time_made(
    make: Make, reference: References
) -> None:
    settings = VARIANTS["every second step recorded"]
    folder = make(settings)
    killed(folder, saving_each_step, partial(signalled, signal.SIGKILL, 3))
    assert run(folder).resumed == [3]
    assert differing(written(folder), reference(settings)) == []


def test_a_checkpoint_that_a_kill_left_unfinished_is_not_used(make: Make, reference: References) -> None:
    folder = make(LORA)
    killed(folder, partial(killed_in_save, 6))
    ended = run(folder)
    assert "step 6's checkpoint was not finished when the training was killed: not used" in ended.out
    assert ended.resumed == [4]
    assert differing(written(folder), reference(LORA)) == []


# Damage


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


FILES = {"trained.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "progress.json"}


def test_damaged_checkpoints_are_named_and_an_older_one_is_used_or_none(
    make: Make, reference: References, tmp_path: Path
) -> None:
    folder = make(LORA)
    killed(folder, partial(signalled, signal.SIGKILL, 5))
    assert {path.name for path in checkpoint(folder, 4).iterdir()} == {*FILES, "manifest.json"}
    for name in ("trained.safetensors", "optimizer.pt", "rng_state.pth"):
        copy = shutil.copytree(folder, tmp_path / name)
        flip(checkpoint(copy, 4) / name)
        ended = killed(copy, partial(signalled, signal.SIGKILL, 3))
        assert f"step-00000004 is damaged ({name} changed): not used" in ended.out
        assert ended.resumed == [2]
    assert run(copy).resumed == [2]  # of the last copy: its step 4 is damaged still
    assert differing(written(copy), reference(LORA)) == []

    for step in steps(folder):
        flip(checkpoint(folder, step) / "trained.safetensors")
    ended = run(folder)
    assert ended.out.count("not used") == 2
    assert ended.resumed == []
    assert differing(written(folder), reference(LORA)) == []


# Other trainings


def test_another_trainings_checkpoints_are_left_alone(make: Make) -> None:
    folder = make(LORA)
    killed(folder, partial(signalled, signal.SIGKILL, 3))
    mine = checkpoint(folder, 2)
    for name in ("seed", "code", "data"):
        faults: list[Fault] = [partial(signalled, signal.SIGKILL, 1)]
        table = folder / "data/prepared/train.csv"
        rows = table.read_bytes()
        if name == "seed":
            configured(folder, f"{LORA}, learning_rate: 2e-3")
        if name == "code":
            faults.append(seeing_other_code)
        if name == "data":
            files.write_table(table, files.read_prepared(table)[:-1])
        assert killed(folder, *faults).resumed == []
        configured(folder, LORA)
        table.write_bytes(rows)
    assert mine.is_dir()
    assert run(folder).resumed == [2]


def test_none_starts_anew(make: Make, reference: References) -> None:
    folder = make(LORA)
    killed(folder, partial(signalled, signal.SIGKILL, 5))
    assert run(configured(folder, f"{LORA}, resume: none")).resumed == []
    assert without_resume(written(folder)) == without_resume(reference(LORA))


def test_a_given_checkpoint_is_gone_on_from(make: Make, reference: References) -> None:
    folder = make(LORA)
    killed(folder, partial(signalled, signal.SIGKILL, 5))
    given = shutil.copytree(checkpoint(folder, 2), folder / "backup" / "step-00000002")
    assert run(configured(folder, f"{LORA}, resume: {checkpoint(folder, 2)}")).resumed == [2]
    assert without_resume(written(folder)) == without_resume(reference(LORA))
    assert run(configured(folder, f"{LORA}, resume: backup/step-00000002")).resumed == [2]
    assert without_resume(written(folder)) == without_resume(reference(LORA))

    before = (folder / "models/trained/manifest.json").read_bytes()
    ended = run(configured(folder, f"{LORA}, label_smoothing: 0.1, resume: {given}"), status=1)
    assert ended.error.startswith(f"error: train.resume: {given} is of another training (configuration.train.label_sm")
    assert "label_smoothing: 0.0 there, 0.1 here)" in ended.error
    assert (folder / "models/trained/manifest.json").read_bytes() == before


def without_resume(outs: dict[str, bytes]) -> dict[str, bytes]:
    """Outs without the files that tell the setting, which is the only difference there may be."""
    return {
        name: content for name, content in outs.items() if Path(name).name not in ("labeltune.json", "manifest.json")
    }


# Signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_after_the_step_with_a_checkpoint(
    number: signal.Signals, status: int, make: Make, reference: References
) -> None:
    settings = VARIANTS["every second step recorded"]
    folder = make(settings)
    ended = run(folder, partial(signalled, number, 2, 1), status=status)
    assert ended.error == (
        f"stopped by {number.name} at step 3; the checkpoint is kept, the same command goes on from it\n"
    )
    assert steps(folder) == [3]
    assert not (folder / "models/trained").exists()
    ended = run(folder, partial(signalled, number, 11), status=status)  # in its last step
    assert ended.resumed == [3]
    assert run(folder).resumed == [12]
    assert differing(written(folder), reference(settings)) == []


# Two at once


def test_a_second_training_in_the_workspace_is_refused_while_the_first_lives(make: Make, reference: References) -> None:
    folder, out = make(LORA), make(LORA)
    ours, theirs = FORKS.Pipe()
    first = start(folder, partial(held, theirs, 3))
    theirs.close()
    try:
        assert ours.poll(WAIT)
        process = ours.recv()
        assert process == first.pid
        configured(folder, f"{LORA}, learning_rate: 2e-3")  # another one, which would not have to wait for the same
        second = finish(start(folder, prints=out), out)
        configured(folder, LORA)
        assert second.status == 1
        assert second.error == (
            f"error: a training runs in {folder} already as process {process}: wait until it ends, or stop it with "
            f"`kill {process}`\n"
        )
    except BaseException:
        first.kill()
        raise
    ours.close()
    assert finish(first, folder).status == 0
    assert differing(written(folder), reference(LORA)) == []
    assert run(folder).resumed == []  # it is free


# Losses that are not finite


def test_a_loss_that_is_not_finite_ends_it_with_the_step_and_the_rows(make: Make) -> None:
    folder = make(LORA)
    ids = pd.read_csv(folder / "data/prepared/train.csv", dtype=str)["id"].tolist()
    ended = run(folder, partial(row_lost, 0, 17), status=1)
    assert "error: the loss is not finite at step " in ended.error
    assert f"for the rows with the ids {ids[17]} of data/prepared/train.csv; " in ended.error
    assert not (folder / "models/trained").exists()
    ended = run(folder, partial(weights_lost, 7, "training_step"), status=1)
    assert "not finite at step 8, for the rows with the ids " in ended.error
    assert ended.error.split("the ids ")[1].split(" of data")[0].count(",") == 3
    assert not (folder / "models/trained").exists()
    ended = run(folder, partial(weights_lost, 12, "evaluate"), status=1)
    assert ended.resumed == [6]
    validation = pd.read_csv(folder / "data/prepared/validation.csv", dtype=str)["id"]
    assert (
        f"error: the loss is not finite at step 12, for the rows with the ids {', '.join(validation)} " in ended.error
    )
    assert "of data/prepared/validation.csv; lower train.learning_rate" in ended.error
    assert not (folder / "models/trained").exists()


# Full disks


def test_a_full_disk_leaves_the_last_checkpoint_and_the_training_goes_on_when_there_is_space(
    make: Make, reference: References
) -> None:
    folder = make(LORA)
    ended = run(folder, partial(disk_full_in_save, 4), status=1)
    assert ended.error.startswith("error: writing the checkpoint of step 4 failed: the disk is full; free some space (")
    assert f"run again: {checkpoint(folder, 2)} is intact, and training goes on from it\n" in ended.error
    assert steps(folder) == [2]
    assert run(folder).resumed == [2]
    assert differing(written(folder), reference(LORA)) == []


# Memory


@pytest.mark.parametrize("step", [0, 3, 6])
def test_out_of_memory_halves_the_batch_and_goes_on(step: int, make: Make, reference: References) -> None:
    by_hand, settings = (LORA.replace("dropout: 0.1", "dropout: 0.0") for _ in range(2))
    settings = settings.replace("batch_size: 4, accumulation: 2", "batch_size: 8, accumulation: 1")
    folder = make(settings)
    ended = run(folder, partial(little_memory, 4, step))
    assert "out of memory: going on with train.batch_size: 4 and train.accumulation: 2\n" in ended.out
    assert ended.resumed == ([] if step == 0 else [step // 2 * 2])
    outs, expected = written(folder), reference(by_hand)
    assert figures(outs)["batch"] == figures(expected)["batch"] == {"size": 4, "accumulation": 2}
    for name in ("train", "validation"):
        curves = [pd.read_csv(place / f"plots/curves/{name}.csv") for place in (folder, unpacked(expected, folder))]
        # The epoch is a share of the batches, and the last step of an epoch has fewer.
        pd.testing.assert_frame_equal(*(curve.drop(columns="epoch") for curve in curves), rtol=1e-5, atol=1e-6)
    mine, theirs = (load_file(place / "models/trained/adapter_model.safetensors") for place in (folder, folder / "x"))
    assert mine.keys() == theirs.keys()
    for weight in mine:
        np.testing.assert_allclose(mine[weight], theirs[weight], rtol=1e-4, atol=1e-6)


def unpacked(outs: dict[str, bytes], folder: Path) -> Path:
    """Write outs into a folder of their own."""
    for name, content in outs.items():
        file = folder / "x" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder / "x"


def test_out_of_memory_with_one_row_says_what_to_set(make: Make) -> None:
    folder = make(LORA)
    ended = run(folder, partial(little_memory, 0), status=1)
    assert "train.batch_size: 2 and train.accumulation: 4\n" in ended.out
    assert "train.batch_size: 1 and train.accumulation: 8\n" in ended.out
    assert ended.error.startswith("error: out of memory even with one row in a batch: set train.gradient_checkpointing")
    assert not (folder / "models/trained").exists()


# Inputs


def test_rows_that_are_edited_meanwhile_fail_the_stage(make: Make) -> None:
    folder = make(LORA)
    ended = run(folder, partial(edited, 3), status=1)
    assert ended.error == (
        "error: data/prepared/train.csv changed while it was in use, so the result is not valid for it; run again\n"
    )


def test_it_goes_on_where_another_worker_ended_meanwhile(make: Make) -> None:
    """`threads: auto` would take another number now, with which the training would be another one."""
    folder = make(LORA.replace("threads: 1", "threads: auto"))
    killed(folder, partial(workers, 2), partial(signalled, signal.SIGKILL, 3))
    ended = run(folder, partial(workers, 1))
    assert ended.resumed == [2]
    assert "train.threads: auto is 1, not 2, as in the checkpoint of step 2" in ended.out
    assert json.loads((folder / "models/trained/labeltune.json").read_text())["machine"]["threads"] == 1
