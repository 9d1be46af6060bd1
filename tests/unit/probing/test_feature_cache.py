"""Arrays on disk: computed once, whole or not at all, never another one's, and within their budget."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch

from labeltune.probing import feature_cache
from labeltune.probing.feature_cache import CachedFeatures, Entry, Pieces, WritePart, cached
from tests.tuning import plan

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def entry(name: str = "a", rows: int = 6, dtype: torch.dtype = torch.float32) -> Entry:
    return Entry(kind="hidden-states", key={"name": name, "layers": (1, 2)}, shape=(rows, 4), dtype=dtype)


def numbers(given: Entry) -> torch.Tensor:
    return torch.randn(given.shape, generator=torch.Generator().manual_seed(1)).to(given.dtype)


class Filled:
    """Fills an array out of order and counts how often it is asked to."""

    def __init__(self, given: Entry) -> None:
        self.given, self.times = given, 0

    def __call__(self, put: WritePart) -> None:
        self.times += 1
        values = numbers(self.given)
        put(3, values[3:])
        put(0, values[:1])
        put(1, values[1:3])


def kept(given: Entry, fill: Callable[[WritePart], None] | None = None, budget: int = 1) -> CachedFeatures:
    found = cached(given, fill or Filled(given), budget=budget)
    assert found is not None
    return found


def files() -> list[str]:
    return sorted(
        path.stem for path in feature_cache.cache_root().iterdir() if path.suffix != ".json" and path.is_file()
    )


def sidecars() -> list[str]:
    return sorted(path.stem for path in feature_cache.cache_root().glob("*.json"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_array_is_computed_once_and_is_an_ordinary_numpy_file_with_a_description(dtype: torch.dtype) -> None:
    given = entry(dtype=dtype)
    fill = Filled(given)
    first, again = kept(given, fill), kept(given, fill)
    assert fill.times == 1
    assert first.seconds == again.seconds
    for found in (first, again):
        assert found.array.dtype == dtype
        assert torch.equal(found.array, numbers(given))
    stored = np.load(given.path, allow_pickle=False)
    assert torch.equal(torch.from_numpy(stored).view(dtype), numbers(given))
    described = json.loads(given.sidecar.read_text(encoding="utf-8"))
    assert described["key"] == {"name": "a", "layers": [1, 2]}
    assert described["dtype"] == str(dtype).removeprefix("torch.")
    assert (described["filled"], described["seconds"]) == (6, first.seconds)


def test_rows_that_were_not_computed_are_not_taken_for_computed_ones() -> None:
    kept(entry(), lambda put: put(1, numbers(entry())[1:2]))
    again = kept(entry(), lambda _: pytest.fail("it is there"))
    assert again.filled == 2
    assert not again.array[again.filled :].any()


def test_what_is_written_to_an_array_does_not_reach_the_file() -> None:
    kept(entry()).array.zero_()
    assert torch.equal(kept(entry()).array, numbers(entry()))


def flip(place: float) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        at = int(place * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return changed


@pytest.mark.parametrize("name", ["path", "sidecar"])
@pytest.mark.parametrize(
    "damage",
    [*(flip(place / 12) for place in range(13)), lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"", lambda b: b[:9]],
)
def test_a_damaged_file_is_computed_again(
    damage: Callable[[bytes], bytes], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(entry())
    file: Path = getattr(entry(), name)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    fill = Filled(entry())
    assert torch.equal(kept(entry(), fill).array, numbers(entry()))
    assert fill.times == 1
    assert "is damaged: computed again" in capsys.readouterr().out
    assert np.load(entry().path).shape == (6, 4)


@pytest.mark.parametrize("change", [{"seconds": 0.0}, {"filled": 5}, {"shape": [5, 4]}, {"kind": "other"}], ids=str)
def test_a_description_that_was_changed_is_not_believed(change: dict[str, Any]) -> None:
    kept(entry())
    described = json.loads(entry().sidecar.read_bytes())
    described |= {"seconds": described["seconds"] + 1.0} if "seconds" in change else change
    entry().sidecar.write_text(json.dumps(described, sort_keys=True, indent=2), encoding="utf-8")
    fill = Filled(entry())
    kept(entry(), fill)
    assert fill.times == 1


@pytest.mark.parametrize("name", ["path", "sidecar"])
def test_half_of_an_entry_is_none(name: str) -> None:
    kept(entry())
    getattr(entry(), name).unlink()
    fill = Filled(entry())
    kept(entry(), fill)
    assert fill.times == 1


def test_another_arrays_file_under_this_ones_name_is_not_taken() -> None:
    kept(entry("b"))
    os.replace(entry("b").path, entry("a").path)
    os.replace(entry("b").sidecar, entry("a").sidecar)
    fill = Filled(entry())
    kept(entry(), fill)
    assert fill.times == 1


def test_what_was_not_used_for_longest_makes_room() -> None:
    rows = MIB // 4 // 4 // 3  # a third of the budget each, with the header a little more
    given = {name: entry(name, rows) for name in "abcd"}
    for age, name in enumerate("abc"):
        kept(given[name])
        os.utime(given[name].path, (age, age))
        if age == 1:
            mapped = kept(given["a"]).array  # used again: now `b` is the oldest
    assert {given["a"].path.stem, given["c"].path.stem} == set(files()) == set(sidecars())
    assert torch.equal(mapped, numbers(given["a"]))
    os.utime(given["a"].path, (1, 1))
    kept(given["d"])
    assert {given["c"].path.stem, given["d"].path.stem} == set(files()) == set(sidecars())
    assert torch.equal(mapped, numbers(given["a"]))  # mapped still, though deleted


@pytest.mark.parametrize("budget", [0, 1])
def test_what_is_larger_than_the_budget_is_not_kept_and_nothing_makes_room_for_it(budget: int) -> None:
    kept(entry("small"))
    large = entry("large", rows=budget * MIB // 16 + 1)
    fill = Filled(large)
    assert cached(large, fill, budget=budget) is None
    assert fill.times == 0
    assert files() == sidecars() == [entry("small").path.stem]


def test_a_disk_that_is_nearly_full_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(feature_cache, "RESERVE", 1 << 60)
    assert cached(entry(), Filled(entry()), budget=1) is None
    assert "MiB are free on the disk, too few for" in capsys.readouterr().out
    assert files() == []


@pytest.mark.parametrize(
    ("error", "said"),
    [(OSError(errno.ENOSPC, "no"), "the disk is full"), (OSError(errno.EIO, "no"), ""), (KeyboardInterrupt(), "")],
)
def test_an_error_leaves_nothing_behind(error: BaseException, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fill(put: WritePart) -> None:
        put(0, numbers(entry())[:2])
        raise error

    if said:
        assert cached(entry(), fill, budget=1) is None
        assert said in capsys.readouterr().out
    else:
        with pytest.raises(type(error)):
            cached(entry(), fill, budget=1)
    assert files() == sidecars() == []
    kept(entry())


def test_what_a_killed_process_left_is_swept() -> None:
    feature_cache.cache_root().mkdir()
    process = subprocess.run(
        [sys.executable, "-c", "from labeltune.runtime.files import _owner; print(_owner())"],
        capture_output=True,
        check=True,
        text=True,
    )
    left = feature_cache.cache_root() / f".hidden-states-0.npy.{process.stdout.strip()}.part"
    left.write_bytes(b"half")
    kept(entry())
    assert not left.exists()


def test_a_second_one_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    began, waits = Event(), Event()
    found: list[Any] = []

    def slowly(put: WritePart) -> None:
        began.set()
        assert waits.wait(30)
        Filled(entry())(put)

    monkeypatch.setattr(feature_cache, "say", lambda line: waits.set() if "waiting for it" in line else None)
    first = Thread(target=lambda: found.append(cached(entry(), slowly, budget=1)))
    first.start()
    assert began.wait(30)
    second = Filled(entry())
    found.append(cached(entry(), second, budget=1))
    first.join(30)
    assert second.times == 0
    assert all(torch.equal(one.array, numbers(entry())) for one in found)
    assert len(found) == 2


def resident(path: Path) -> int:
    """KiB of a mapped file that count to this process, /proc/[pid]/smaps in proc(5)."""
    lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines())
    return sum(
        next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))
        for line in lines
        if line.endswith(str(path))
    )


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells")
def test_pieces_let_go_of_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = entry(rows=1 << 20)  # 16 MiB
    found, whole = kept(given, budget=17), numbers(given)
    monkeypatch.setattr(feature_cache, "RESIDENT", 2 * MIB)
    pieces = Pieces(found, torch.split(found.array, 1 << 15))  # of half a MiB
    some, most = pieces[2:], 0
    assert (len(pieces), len(some)) == (32, 30)
    for place, piece in enumerate(some, start=2):
        assert torch.equal(piece, whole[place << 15 :][: 1 << 15])
        piece.zero_()  # a copy
        most = max(most, resident(given.path))
    assert 1024 < most < 8192  # of 15 MiB that were read
    assert torch.equal(torch.cat(list(pieces)), whole)


def test_an_array_that_another_process_deletes_while_it_is_read_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    kept(entry())
    touch = os.utime
    monkeypatch.setattr(os, "utime", lambda path: (Path(path).unlink(), touch(path)))
    assert torch.equal(kept(entry()).array, numbers(entry()))


def test_a_key_tells_apart_dtype_attention_and_code(
    tiny_base: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tiny_base("gpt2"), head="linear")
    network: Any = made.load()

    def key() -> str:
        return json.dumps(feature_cache.cache_key(network, made.base.files, [[5, 6]], None), sort_keys=True)

    keys = [key()]
    monkeypatch.setattr(network.config, "_attn_implementation", "sdpa")
    keys.append(key())
    network = network.half()
    keys.append(key())
    monkeypatch.setattr(feature_cache, "digest", lambda path: f"changed {path.name}")
    keys.append(key())
    assert len(set(keys)) == 4
