"""The baselines' probe reads the rows that the choice of depth has left, and fits to all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeltune.config.model import Train
from labeltune.evaluation import probe_baseline
from labeltune.evaluation.baselines import Split
from labeltune.probing import hidden_states, layer_probes
from labeltune.probing.hidden_states import POOLINGS
from tests.tuning import TEXTS, plan

UNCACHED = Train(seed=0, effort="fast", feature_cache_budget=0)


def split(name: str, first: int, count: int) -> Split:
    texts = [f"{TEXTS[i % len(TEXTS)]} {'word ' * (i % 5)}" for i in range(first, first + count)]
    labels = np.array([i % len(TEXTS) % 2 for i in range(first, first + count)])
    return Split(ids=[f"{name}:{i}" for i in range(count)], texts=texts, labels=labels)


@pytest.mark.parametrize("compared", [6, "all"])
def test_states_are_those_of_every_row_and_none_is_read_twice(
    tiny_base: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, compared: Any
) -> None:
    made = plan(tiny_base("llama"))
    model = hidden_states.load_probed_model(made.base, made.labels, made.encoder, made.machine, scoring=False)
    splits = {"train": split("train", 0, 17), "validation": split("validation", 3, 9), "test": split("test", 5, 4)}
    read: list[int] = []
    states_after_layer = layer_probes.states_after_layer
    monkeypatch.setattr(
        layer_probes,
        "states_after_layer",
        lambda model, rows, layer: read.append(len(rows)) or states_after_layer(model, rows, layer),
    )
    tried_on = probe_baseline.compared(splits, UNCACHED.model_copy(update={"probe_rows": compared}), 2)
    (found, *_), features = probe_baseline.answer(model, splits, tried_on, made.encoder, 2, UNCACHED)

    assert read == ([] if compared == "all" else [17 + 9 - 6 - 6])
    layer, pooling = found.chosen["layer"], POOLINGS.index(found.chosen["pooling"])
    for name, rows in splits.items():
        expected = states_after_layer(model, made.encoder.encode(rows.texts).input_ids, layer)[:, pooling]
        assert features[name].ids == rows.ids
        np.testing.assert_allclose(features[name].states, expected, rtol=1e-4, atol=1e-5)
