"""Cached states of the frozen layers: the same from disk, from memory and without a cache, and computed once."""

import shutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeltune.config.model import Prompt
from labeltune.inference import artifact
from labeltune.modeling import adapters, architectures
from labeltune.modeling.base_models import quiet
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.classifiers import shared_prefix
from labeltune.modeling.prompts import Encoder
from labeltune.probing import feature_cache, layer_probes
from labeltune.probing.hidden_states import load_probed_model
from labeltune.probing.layer_probes import Part
from labeltune.training import checkpoints, dataset, finetune, layer_selection
from labeltune.training.dataset import with_states
from tests.tuning import ANSWERS, TEXTS, plan, record, rows

Bases = Callable[..., Path]
Computed = list[list[list[int]]]
PROMPT = Prompt(template="Classify the text as ham or spam. Text: {text}\nLabel:", max_length=64)


@pytest.fixture(autouse=True)
def _repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    """The token ids of the rows of each pass through the frozen layers."""
    seen: Computed = []
    compute = dataset.compute_states

    def counted(network: Any, ids: Any, put: Any, **named: Any) -> None:
        seen.append(list(ids))
        compute(network, ids, put, **named)

    monkeypatch.setattr(dataset, "compute_states", counted)
    return seen


def fronted(made: NetworkSpec) -> NetworkSpec:
    """The plan with a prompt whose beginning is the same in every row."""
    return replace(made, encoder=Encoder.of(made.encoder.tokenizer, PROMPT, made.labels))


def trained(made: NetworkSpec) -> dict[str, torch.Tensor]:
    """What training changed."""
    given = rows(made)
    with checkpoints.open_store(artifact.fingerprint(record(made)), keep=1) as store:
        network, _ = finetune.fine_tune(made, given, given, store=store)
        store.remove()
    return {name: weight.detach().clone() for name, weight in adapters.trainable_parameters(network).items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("architecture", "method", "dtype"),
    [("llama", "lora", "fp32"), ("llama", "full", "bf16"), ("gemma3_text", "lora", "bf16"), ("bert", "full", "fp32")],
)
def test_training_from_the_disk_is_training_from_memory_bit_for_bit(
    tiny_base: Bases, computed: Computed, architecture: str, method: str, dtype: str
) -> None:
    options = {"head": "linear", "layers": 1, "method": method, "epochs": 2.0, "batch_size": 3}
    folder = tiny_base(architecture)
    made = fronted(plan(folder, dtype=dtype, **options))
    first, again = trained(made), trained(made)
    assert [len(group) for group in computed] == [14]
    assert list(feature_cache.cache_root().glob("hidden-states-*.npy"))
    memory = trained(fronted(plan(folder, dtype=dtype, feature_cache_budget=0, **options)))
    assert [len(group) for group in computed] == [14, 14]
    assert same(first, again)
    assert same(first, memory)


@pytest.mark.parametrize(("prefix", "dtype", "bound"), [(False, "fp32", 0), (True, "fp32", 2e-5), (True, "bf16", 0.05)])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_training_with_states_is_training_without_them(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, architecture: str, prefix: bool, dtype: str, bound: float
) -> None:
    made = plan(tiny_base(architecture), dtype=dtype, head="linear", layers=1, epochs=2.0, learning_rate=1e-3)
    made = fronted(made) if prefix else made
    states = trained(made)
    monkeypatch.setattr(dataset, "frozen_states", lambda *_: None)
    whole = trained(made)
    assert states.keys() == whole.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(states[name], weight, rtol=0, atol=bound)


def test_other_seeds_rates_heads_and_methods_share_the_states(tiny_base: Bases, computed: Computed) -> None:
    folder = tiny_base("llama")
    changes: list[dict[str, Any]] = [
        {}, {"seed": 5}, {"learning_rate": 1e-3}, {"head": "mlp"}, {"head": "label_scoring"}, {"pooling": "mean"},
        {"method": "full"}, {"epochs": 2.0}, {"lora": {"rank": 2}}, {"class_weights": "balanced"},
    ]  # fmt: skip
    for change in changes:
        trained(fronted(plan(folder, **({"head": "linear", "layers": 1} | change))))
    assert [len(group) for group in computed] == [14]


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 2},
        {"depth": 2},
        {"dtype": "bf16"},
        {"words": ("ham it up", "ham on rye"), "head": "label_scoring"},
        {"cue": " is"},
        {"method": "qlora"},
    ],
    ids=str,
)
def test_another_model_or_other_tokens_do_not(tiny_base: Bases, computed: Computed, change: dict[str, Any]) -> None:
    folder = tiny_base("llama")
    for given in ({}, change):
        made = plan(folder, **({"head": "linear", "layers": 1} | given))
        with_states(made, architectures.unwrap(made.build()), [rows(made)])
    assert [len(group) for group in computed] == [7, 7]
    other = plan(tiny_base("llama", num_hidden_layers=4), head="linear", layers=2)  # as many layers below
    with_states(other, architectures.unwrap(other.build()), [rows(other)])
    assert [len(group) for group in computed] == [7, 7, 7]


def test_a_budget_does_not_change_what_a_training_is(tiny_base: Bases) -> None:
    folder = tiny_base("llama")
    one, other = (artifact.fingerprint(record(plan(folder, feature_cache_budget=budget))).digest for budget in (0, 7))
    assert one == other


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "qwen2", "qwen3", "gpt2", "mistral"])
def test_states_behind_the_front_are_those_of_the_whole_prompt(tiny_base: Bases, architecture: str) -> None:
    made = fronted(plan(tiny_base(architecture), head="linear", layers=1))
    network = made.load().eval()
    texts = [*TEXTS, "", " x", "a longer one, of several words, to be padded to"]
    input_ids = made.encoder.encode(texts).input_ids
    pad_id = made.encoder.tokenizer.pad_token_id
    prefix = shared_prefix(network, made.encoder, stop=network.frozen_layers)
    assert prefix is not None
    assert len(prefix.keys_and_values) == network.frozen_layers
    assert sum(prefix.begins(ids) for ids in input_ids) >= 4
    found = torch.full((sum(map(len, input_ids)), 32), torch.nan)
    done: list[int] = []
    dataset.compute_states(
        network, input_ids, lambda at, part: found[at : at + len(part)].copy_(part), pad_id=pad_id,
        prefix=prefix, progress=done.append,
    )  # fmt: skip
    assert sum(done) == len(texts)
    whole = torch.cat(dataset.states(network, input_ids, pad_id=pad_id))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    with quiet(), torch.no_grad():
        alone = network.model if hasattr(network, "model") else network.transformer
        layer = alone(torch.tensor(input_ids[:1]), output_hidden_states=True).hidden_states[network.frozen_layers]
    torch.testing.assert_close(found[: len(input_ids[0])], layer[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("texts", [1, 7])
def test_states_do_not_depend_on_the_number_of_threads(tiny_base: Bases, texts: int) -> None:
    made = fronted(plan(tiny_base("llama", hidden_size=256, intermediate_size=512), head="linear", layers=1))
    network = architectures.unwrap(made.build())
    given = rows(made).take(list(range(texts)))
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            fresh = replace(made, train=made.train.model_copy(update={"feature_cache_budget": 0}))
            (states,) = dataset.frozen_states(fresh, network, [given]) or ()
            found.append(torch.cat(list(states)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_states_that_fit_nowhere_are_said_and_not_used(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = plan(tiny_base("llama"), head="linear", layers=1, feature_cache_budget=0)
    given = [rows(made)]
    network = architectures.unwrap(made.build())
    assert with_states(made, network, given)[0].states is not None
    assert "stay in memory, for this run alone; give them room by train.feature_cache_budget" in capsys.readouterr().out
    monkeypatch.setattr(dataset, "MEMORY_SHARE", 0.0)
    assert with_states(made, network, given) == given
    assert "too much for the disk and for memory: these layers run in every step" in capsys.readouterr().out
    assert not list(feature_cache.cache_root().glob("hidden-states-*")) if feature_cache.cache_root().exists() else True


def test_a_reading_is_made_once_for_the_depth_and_for_the_baselines(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fronted(plan(tiny_base("llama")))
    reads: list[int] = []
    layers_read = layer_probes.layer_by_layer
    monkeypatch.setattr(
        layer_probes,
        "layer_by_layer",
        lambda model, ids, **how: reads.append(len(ids)) or layers_read(model, ids, **how),
    )
    input_ids = made.encoder.encode(TEXTS).input_ids
    parts = [Part(input_ids=input_ids[s], labels=np.array(ANSWERS[s])) for s in (slice(4), slice(4, None))]
    found = []
    for scoring, budget in ((False, 1), (True, 1), (True, 0)):
        model = load_probed_model(made.base, made.labels, made.encoder, made.machine, scoring=scoring)
        found.append(layer_probes.probe_layers(model, *parts, 2, key="x", budget=budget))
    assert reads == [7, 7]  # for the budget of nothing again
    for other in found[1:]:
        assert other.layers == found[0].layers
        for split in ("train", "validation"):
            assert (other.states[split] == found[0].states[split]).all()
        assert (other.losses == found[0].losses).all()
    assert found[1].seconds == found[0].seconds > 0


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("prompt", ["short", "fronted"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "bert"])
def test_states_of_rows_that_the_depth_was_chosen_on_are_not_computed_again_and_are_the_same_bits(
    tiny_base: Bases, computed: Computed, architecture: str, prompt: str, dtype: str
) -> None:
    folder = tiny_base(architecture, num_hidden_layers=4)
    made = plan(folder, dtype=dtype, head="linear", depth="auto", probe_rows=4, layers=1)
    made = fronted(made) if prompt == "fronted" else made
    parts = [rows(made), rows(made, TEXTS[:5], ANSWERS[:5])]
    selected, choice = layer_selection.choose_capacity(made, *parts)
    given = replace(made, train=made.train.model_copy(update=choice.taken))  # as who writes the depth into a file
    found = []
    for chosen in (selected, selected, given):  # after reading the layers, with everything cached, with nothing cached
        network = architectures.unwrap(chosen.build())
        known = with_states(chosen, network, parts)
        found.append(torch.cat([torch.cat(list(part.states or [])) for part in known]))
        if len(found) == 2:
            shutil.rmtree(feature_cache.cache_root())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    rest, few, again = computed
    assert (len(rest), len(few)) == (4, 8)
    assert rest == again
    assert sorted(few + rest) == sorted(ids for part in parts for ids in part.input_ids)
    if dtype == "fp32":
        whole = torch.cat(dataset.states(network, [ids for part in parts for ids in part.input_ids], pad_id=0))
        torch.testing.assert_close(found[0], whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"head": "label_scoring", "words": ("ham it up", "ham on rye")}, {"method": "qlora"}]
)
def test_states_of_another_network_are_not_taken(tiny_base: Bases, computed: Computed, change: dict[str, Any]) -> None:
    folder = tiny_base("llama", num_hidden_layers=4)
    made = plan(folder, **({"head": "linear", "depth": "auto", "probe_rows": 4, "layers": 1} | change))
    given = rows(made)
    selected, _ = layer_selection.choose_capacity(made, given, given)
    assert len(list(feature_cache.cache_root().glob("hidden-states-*.npy"))) == 1
    with_states(selected, architectures.unwrap(selected.build()), [given, given])
    assert [len(group) for group in computed] == [8, 6]


def test_what_layer_selection_gives_cannot_be_changed(tiny_base: Bases) -> None:
    made = plan(tiny_base("llama"), depth="auto", head="linear", layers=1)
    _, choice = layer_selection.choose_capacity(made, rows(made), rows(made))
    for name in (field.name for field in fields(choice)):
        with pytest.raises(FrozenInstanceError):
            setattr(choice, name, None)
    assert not any(isinstance(value, torch.Tensor) for value in vars(choice).values())


def test_states_are_kept_for_a_layer_only_while_there_is_room(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, computed: Computed
) -> None:
    monkeypatch.setattr(layer_selection, "KEPT_BYTES", 0)
    made = plan(tiny_base("llama", num_hidden_layers=4), head="linear", depth="auto", probe_rows=4, layers=1)
    selected, _ = layer_selection.choose_capacity(made, rows(made), rows(made))
    assert not list(feature_cache.cache_root().glob("hidden-states-*"))
    with_states(selected, architectures.unwrap(selected.build()), [rows(made), rows(made)])
    assert [len(group) for group in computed] == [8, 6]


def test_one_group_does_not_make_room_for_the_other(tiny_base: Bases) -> None:
    made = plan(tiny_base("llama"), head="linear", layers=1, probe_rows=4, feature_cache_budget=1)
    long = [f"{text} {i} " * 3 for i in range(60) for text in TEXTS]
    many = rows(made, long, ANSWERS * 60)
    assert 4 * 32 * sum(map(len, many.input_ids)) > 1 << 20  # bytes: more than the budget
    assert with_states(made, architectures.unwrap(made.build()), [many])[0].states is not None
    assert not list(feature_cache.cache_root().glob("*.npy"))
