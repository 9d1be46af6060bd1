"""Regressions on the layers of a base model: which rows and layers they see."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labeltune.config.model import Train
from labeltune.probing import layer_probes
from labeltune.probing.hidden_states import load_probed_model, read_hidden_states
from labeltune.probing.layer_probes import Part, compared_rows, least_read, probe_layers, probe_sample
from tests.tuning import ANSWERS, TEXTS, plan

Bases = Callable[..., Path]


@pytest.mark.parametrize(("effort", "setting", "rows"), [("fast", "auto", 128), ("balanced", "auto", 1024),
                                                         ("best", 40, 40), ("fast", "all", 3000)])  # fmt: skip
def test_the_sample_has_the_shares_of_the_labels_and_no_seed(effort: str, setting: int | str, rows: int) -> None:
    labels = [0] * 2000 + [1] * 1000
    settings = Train.model_validate({"seed": 1, "effort": effort, "probe_rows": setting})
    (taken,) = probe_sample(settings, 2, [labels])
    assert len(taken) == rows
    assert taken == sorted(set(taken))
    assert sum(labels[row] for row in taken) == pytest.approx(rows / 3, abs=1)
    assert probe_sample(settings.model_copy(update={"seed": 2}), 2, [labels]) == [taken]


def test_many_labels_are_compared_on_more_rows() -> None:
    assert compared_rows("auto", "balanced", 100) == 6400 > compared_rows("auto", "fast", 100)


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_every_layer_is_read_unless_effort_is_fast(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, effort: str
) -> None:
    made = plan(tiny_base("llama", num_hidden_layers=12), head="linear")
    model = load_probed_model(made.base, made.labels, made.encoder, made.machine, scoring=False)
    constant = [np.ones((len(TEXTS), 2, 8), dtype=np.float32)] * 13  # no layer is better than another
    monkeypatch.setattr(layer_probes, "layer_by_layer", lambda *_, **__: iter(constant))
    input_ids = made.encoder.encode(TEXTS).input_ids
    parts = [Part(input_ids=input_ids[s], labels=np.array(ANSWERS[s])) for s in (slice(4), slice(4, None))]
    settings = Train.model_validate({"seed": 0, "effort": effort})
    least = least_read(settings.effort, 12)
    found = probe_layers(model, *parts, 2, key="x", budget=0, least=least)
    assert found.layers[-1] == (4 if effort == "fast" else 12)
    assert found.best() == (0, 0)


def test_states_after_a_layer_are_those_of_the_whole_reading(tiny_base: Bases) -> None:
    made = plan(tiny_base("bert"), head="linear")
    model = load_probed_model(made.base, made.labels, made.encoder, made.machine, scoring=False)
    rows = made.encoder.encode(TEXTS).input_ids
    whole = read_hidden_states(model, rows, layers=(2,)).states[:, 0]
    np.testing.assert_allclose(layer_probes.states_after_layer(model, rows, 2), whole, rtol=1e-5, atol=1e-6)
