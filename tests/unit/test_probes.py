"""The baselines' probe reads the rows that the choice of depth has left, and fits to all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeltune import probes, soundings, untuned
from labeltune.baselines import Split
from labeltune.watch import POOLINGS
from tests.tuning import TEXTS, plan


def split(name: str, first: int, count: int) -> Split:
    texts = [f"{TEXTS[i % len(TEXTS)]} {'word ' * (i % 5)}" for i in range(first, first + count)]
    labels = np.array([i % len(TEXTS) % 2 for i in range(first, first + count)])
    return Split(ids=[f"{name}:{i}" for i in range(count)], texts=texts, labels=labels)


@pytest.mark.parametrize("compared", [6, "all"])
def test_states_are_those_of_every_row_and_none_is_read_twice(
    tiny_base: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, compared: Any
) -> None:
    made = plan(tiny_base("llama"))
    model = untuned.load(made.base, made.labels, made.encoder, made.machine, scoring=False)
    splits = {"train": split("train", 0, 17), "validation": split("validation", 3, 9), "test": split("test", 5, 4)}
    read: list[int] = []
    behind = soundings.states_behind
    monkeypatch.setattr(
        soundings, "states_behind", lambda model, rows, layer: read.append(len(rows)) or behind(model, rows, layer)
    )
    tried_on = probes.compared(splits, compared, 2)
    (found, *_), features = probes.answer(model, splits, tried_on, made.encoder, 2, budget=0)

    assert read == ([] if compared == "all" else [17 + 9 - 6 - 6])
    layer, pooling = found.chosen["layer"], POOLINGS.index(found.chosen["pooling"])
    for name, rows in splits.items():
        expected = behind(model, made.encoder.encode(rows.texts).input_ids, layer)[:, pooling]
        assert features[name].ids == rows.ids
        np.testing.assert_allclose(features[name].states, expected, rtol=1e-4, atol=1e-5)
