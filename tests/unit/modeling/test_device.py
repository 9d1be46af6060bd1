import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from labeltune.config.model import Train
from labeltune.modeling import device
from labeltune.runtime.cache import cache_dir
from labeltune.runtime.errors import UserError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU does")


@pytest.mark.parametrize(
    ("flags", "rates", "expected"),
    [
        ({}, None, "fp32"),
        ({"avx512_bf16": True}, {"fp32": 200.0, "bf16": 900.0}, "bf16"),
        ({"amx_bf16": True}, {"fp32": 200.0, "bf16": 900.0}, "bf16"),
        ({"avx512_bf16": True}, {"fp32": 325.0, "bf16": 160.0}, "fp32"),
    ],
)
def test_auto_takes_bf16_only_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, flags: dict, rates: dict | None, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    if rates:
        monkeypatch.setattr(device, "matmul_rates", lambda: rates)
    assert device.choose_dtype("auto") == expected
    assert device.choose_dtype("bf16") == "bf16"


def test_the_measurement_is_made_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MATMUL_SIZE", 8)
    first = device.matmul_rates()
    (kept,) = Path(cache_dir() / "matmul").iterdir()
    assert json.loads(kept.read_text()) == first
    kept.write_text('{"fp32": 1.0, "bf16": 2.0}')
    assert device.matmul_rates() == {"fp32": 1.0, "bf16": 2.0}


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match="train.dtype: fp16 needs a GPU"):
        device.choose_dtype("fp16")


def test_attention_is_eager_on_a_cpu_unless_set() -> None:
    assert device.choose_attention("auto") == "eager"
    assert device.choose_attention("sdpa") == "sdpa"


@pytest.mark.parametrize(("workers", "expected"), [(0, 8), (1, 8), (2, 4), (3, 2), (20, 1)])
def test_running_queue_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch, workers: int, expected: int) -> None:
    commands = [["dvc", "exp", "queue-worker", "hash", f"w{i}"] for i in range(workers)] + [["python"], None]
    processes = [SimpleNamespace(info={"cmdline": command}) for command in commands]
    monkeypatch.setattr(device.psutil, "process_iter", lambda _: iter(processes))
    monkeypatch.setattr(device, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert device.choose_threads("auto") == expected
    assert device.choose_threads(3) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fp32": 1.0}', '{"fp32": null, "bf16": 1.0}'])
def test_a_damaged_measurement_is_made_again(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(device, "MATMUL_SIZE", 8)
    first = device.matmul_rates()
    (kept,) = Path(cache_dir() / "matmul").iterdir()
    kept.write_text(text)
    monkeypatch.setattr(device, "measure_matmul", lambda: first)
    assert device.matmul_rates() == first
    assert json.loads(kept.read_text()) == first


def test_a_measurement_that_cannot_be_kept_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, content: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(device, "MATMUL_SIZE", 8)
    monkeypatch.setattr(device, "write_json", refuse)
    assert device.matmul_rates().keys() == {"fp32", "bf16"}
    assert "can't be written (Permission denied)" in capsys.readouterr().out


def test_flash_attention_is_refused_where_it_cannot_be_computed() -> None:
    with pytest.raises(UserError, match="train.attention: flash_attention_2 needs a CUDA GPU and the package"):
        device.choose_attention("flash_attention_2")


def test_a_classifier_trained_with_flash_attention_predicts_with_another_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = device.Machine(dtype="bf16", attention="flash_attention_2", kernels="transformers", threads=2)
    assert device.able(trained) == replace(trained, attention="eager")
    said = capsys.readouterr()
    assert "trained with flash_attention_2, which this machine has not: eager attention" in said.err
    assert said.out == ""  # where a program reads answers
    assert device.able(replace(trained, attention="sdpa")).attention == "sdpa"
    monkeypatch.setattr(device, "has_flash_attention", lambda: True)
    assert device.able(trained) == trained
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_of_apples_is_not_ignored_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there)
    device.choose(Train(seed=0, dtype="fp32"))
    assert ("Apple's GPU is not used" in capsys.readouterr().out) == there
    assert device.device().type == "cpu"


def test_a_cpus_name_is_a_file_name_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MATMUL_SIZE", 8)
    monkeypatch.setattr(device, "cpu_name", lambda: 'A/B CPU: "7" <x> @ 2.3GHz')
    device.matmul_rates()
    (kept,) = Path(cache_dir() / "matmul").iterdir()
    assert kept.name.startswith("A-B-CPU-7-x-@-2.3GHz-torch-")
