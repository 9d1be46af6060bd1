"""Layer-wise probing, and the choice of depth and of the number of trained layers."""

import hashlib
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from transformers import PretrainedConfig

from labeltune.config.model import Train
from labeltune.console.terminal import bar, say
from labeltune.data.labels import Indices
from labeltune.data.sampling import sample
from labeltune.modeling.architectures import architecture_of, is_encoder
from labeltune.modeling.base_models import load_config
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.classifiers import shared_prefix
from labeltune.modeling.device import device
from labeltune.modeling.prompts import EncodedRows
from labeltune.probing import hidden_states
from labeltune.probing.feature_cache import (
    Entry,
    WritePart,
    cache_key,
    cached,
    put_row,
    row_positions,
    states_entry,
)
from labeltune.probing.hidden_states import (
    POOLINGS,
    KeepStates,
    ProbedModel,
    layer_by_layer,
    read_hidden_states,
    recorded_layers,
)
from labeltune.probing.regression import Regression, States, row_losses, single_threaded, standard_errors_above
from labeltune.runtime.errors import UserError

FEWEST_ROWS, ROWS_PER_LABEL = 128, 16
"""Rows on which layers are compared, unless the settings say it: twice as many chose alike (docs/log.md)."""
FIRST = 0.01
"""C with which layers and poolings are compared."""
LEAST = 3
"""At least one layer in so many is read, whatever the first ones tell."""
PATIENCE = 5
"""Reading ends when one layer in so many, and at least `FEWEST`, brought no regression that is better."""
FEWEST = 4
WORSE = 2
"""It also ends when so many layers in a row are each worse than the best by as many standard errors of the mean."""
MEMORY_SHARE = 0.5
BETWEEN = 1 << 30
"""Most bytes of the states between two layers; where they take more, no layer waits for all rows to pass the last."""
GIB = 1 << 30
KEPT_BYTES = 1 << 28
"""Most bytes of the states that are kept in memory until the depth, and so the layer they are needed of, is chosen."""

Tokens = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a split."""

    input_ids: Tokens
    """Token ids per row, not padded."""
    labels: Indices
    """`[rows]`."""


@dataclass(frozen=True, kw_only=True)
class LayerProbes:
    """Pooled states of rows behind the layers of the untuned model that were read, and what each layer is worth."""

    layers: tuple[int, ...]
    """Numbers of the layers, from 1; 0 are the embeddings."""
    states: dict[str, States]
    """`train` and `validation` -> `[layers, rows, poolings, size]`, in the order of `POOLINGS`."""
    losses: NDArray[np.float64]
    """Of the validation rows, by regressions on the training rows, `[layers, poolings, rows]`."""
    right: NDArray[np.bool_]
    """Whether those regressions were right, likewise."""
    seconds: float
    """What the pass took, also where another run made it."""

    def best(self) -> tuple[int, int]:
        """Places of the layer and the pooling with the lowest mean loss."""
        means = self.losses.mean(axis=2)  # [layers, poolings]
        place, pooling = np.unravel_index(means.argmin(), means.shape)
        return int(place), int(pooling)


def probe_layers(
    model: ProbedModel,
    train: Part,
    validation: Part,
    num_labels: int,
    *,
    key: str,
    budget: int,
    least: int = 1,
    wanted: Collection[int] = (),
    keep: KeepStates | None = None,
) -> LayerProbes:
    """Read rows layer by layer until no regression gets better, or take from the feature cache what that gave.

    Args:
        key: the setting that says how many rows these are.
        budget: MiB that the feature cache may take.
        least: a layer that is read at any rate.
        wanted, keep: as in `layer_by_layer`; `keep` is not called where the layers are not read.

    Raises:
        UserError: states of so many rows do not fit in memory.
    """
    network, rows = model.network, train.input_ids + validation.input_ids
    layers = recorded_layers(network)
    _require_memory(model, len(rows), len(layers), key)
    least = max(least, fewest_layers(layers[-1]))
    wait = patience(layers[-1])
    labels = np.concatenate([[len(train.labels)], train.labels, validation.labels]).astype("<i8")
    entry = Entry(
        kind="layer-probes",
        key=cache_key(network, model.files, rows, model.prefix)
        | {"labels": hashlib.sha256(labels.tobytes()).hexdigest(), "layers": layers, "poolings": POOLINGS}
        # How many layers are filled depends on the rule and on the library whose regressions it compares.
        | {"least": least, "patience": wait, "worse": WORSE, "strength": FIRST}
        | {"regression": {name: metadata.version(name) for name in ("scikit-learn", "scipy")}},
        shape=(len(layers), len(rows), len(POOLINGS), network.config.hidden_size),
        dtype=torch.float32,
    )

    found: list[_Layer] = []
    seconds = 0.0
    with bar("reading the untuned model, layer by layer", len(layers), unit="layers") as shown, single_threaded():

        def judge(states: Iterable[States]) -> Iterator[_Layer]:
            """Layers from the cache are judged like those that are read now."""
            for layer, one in zip(layers, states, strict=False):
                found.append(_judged(one, train.labels, validation.labels, num_labels))
                shown.advance(1)
                yield found[-1]
                if layer >= least and _stalled(found, wait):
                    return

        def fill(put: WritePart) -> None:
            nonlocal seconds
            started = time.perf_counter()
            for place, one in enumerate(judge(_states(model, rows, least, wanted, keep))):
                put(place, torch.from_numpy(one.states).unsqueeze(0))
            seconds = time.perf_counter() - started

        kept = cached(entry, fill, budget=budget)
        if kept is not None:
            seconds = kept.seconds
        if not found:
            if kept is None:
                fill(lambda *_: None)
            else:
                list(judge(kept.array[: kept.filled].numpy()))
    states = np.stack([one.states for one in found])
    return LayerProbes(
        layers=layers[: len(found)],
        states={"train": states[:, : len(train.labels)], "validation": states[:, len(train.labels) :]},
        losses=np.stack([one.losses for one in found]),
        right=np.stack([one.right for one in found]),
        seconds=seconds,
    )


def compared_rows(setting: int | Literal["all", "auto"], num_labels: int) -> int | Literal["all"]:
    """How many training rows `train.probe_rows` takes.

    >>> compared_rows("auto", 2), compared_rows("auto", 77), compared_rows(64, 77)
    (128, 1232, 64)
    """
    return max(FEWEST_ROWS, ROWS_PER_LABEL * num_labels) if setting == "auto" else setting


def probe_sample(settings: Train, num_labels: int, labels: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions of the rows on which layers are compared, for each part of the data; ascending.

    They depend on the data and on `train.probe_rows` alone. Training runs the frozen layers on these rows apart from
    the others, whether the depth was chosen or given, so that the last bits of the states do not depend on that.

    Args:
        labels: index of each row's label, for each part.
    """
    rows = compared_rows(settings.probe_rows, num_labels)
    return [sample(part, rows, SEED) for part in labels]


def fewest_layers(count: int) -> int:
    """How many of a model's layers are read at any rate.

    >>> fewest_layers(30)
    10
    """
    return -(-count // LEAST)


def patience(count: int) -> int:
    """After how many layers without a better regression reading ends.

    >>> patience(30)
    6
    """
    return max(FEWEST, -(-count // PATIENCE))


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """What one layer gave."""

    states: States
    """`[rows, poolings, size]`."""
    losses: NDArray[np.float64]
    """`[poolings, rows]`."""
    right: NDArray[np.bool_]
    """`[poolings, rows]`."""


def _judged(states: States, train: Indices, validation: Indices, num_labels: int) -> _Layer:
    """Fit a regression to each pooling of a layer's states, the training rows' first, and judge the others by it."""
    losses, right = [], []
    for pooling in range(len(POOLINGS)):
        model = fit(states[: len(train), pooling], train, num_labels)
        given = model.probabilities(states[len(train) :, pooling].astype(np.float64))
        losses.append(row_losses(validation, given))
        right.append(given.argmax(axis=1) == validation)
    return _Layer(states=states, losses=np.stack(losses), right=np.stack(right))


def fit(states: States, labels: Indices, num_labels: int, *, c: float = FIRST) -> Regression:
    """Fit a regression to the states of one layer and pooling, `[rows, size]`, and labels `[rows]`."""
    return Regression.fit(states.astype(np.float64), labels, num_labels, c=c, standardise=True)


def _stalled(found: list[_Layer], wait: int) -> bool:
    """Whether the last layers brought nothing better, or the last few much worse, of each layer its better pooling."""
    losses = [min(layer.losses, key=np.mean) for layer in found]  # of [rows] each
    best = min(range(len(losses)), key=lambda place: losses[place].mean())
    later = losses[best + 1 :]
    worse = [standard_errors_above(one, losses[best]) > WORSE for one in later[-WORSE:]]
    return len(later) >= wait or (len(worse) == WORSE and all(worse))


def states_after_layer(model: ProbedModel, rows: Tokens, layer: int) -> States:
    """Pooled states behind one layer, `[rows, poolings, size]`; the layers above it do not run where that is known."""
    order = recorded_layers(model.network)
    with bar(f"reading the untuned model up to layer {layer}", order.index(layer) + 1, unit="layers") as shown:
        for one, states in zip(order, _states(model, rows, layer), strict=False):
            shown.advance(1)
            if one == layer:
                return states
    raise AssertionError("the layer is one of them")


def _states(
    model: ProbedModel,
    rows: Tokens,
    least: int,
    wanted: Collection[int] = (),
    keep: KeepStates | None = None,
) -> Iterator[States]:
    """The states of one layer after the other, `[rows, poolings, size]`; above `least` none is read before its turn."""
    config = model.network.config
    between = sum(map(len, rows)) * config.hidden_size * model.network.dtype.itemsize
    if architecture_of(config) is not None and between <= BETWEEN:
        yield from layer_by_layer(model, rows, least=least, wanted=wanted, keep=keep)
    else:
        yield from np.moveaxis(read_hidden_states(model, rows, layers=recorded_layers(model.network)).states, 1, 0)


def _require_memory(model: ProbedModel, rows: int, layers: int, key: str) -> None:
    """Refuse rows whose states, of every layer and pooling, would fill more than half of the memory that is free."""
    needed = rows * layers * len(POOLINGS) * model.network.config.hidden_size * np.float32().itemsize
    free = psutil.virtual_memory().available
    if needed > MEMORY_SHARE * free:
        raise UserError(
            f"{key}: the states of {rows:,} rows take {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB "
            f"are free; set it to at most {int(rows * MEMORY_SHARE * free / needed / 2):,}"
        )


SEED = 0
"""Of the sample: not the training's, so that all its seeds have the same depth."""
TOP = 4
"""On a CPU one layer in so many trains."""
MOST = 8
"""Most layers that train on a CPU: twice as many gained nothing (docs/log.md)."""


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """What was taken where a setting left it open."""

    taken: dict[str, int | str] = field(default_factory=dict)
    """The depth and the layers, nothing where neither was left open."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Setting -> what was chosen, and why."""
    probes: dict[str, Any] | None = None
    """What each layer's regression gave on the validation rows, where the depth was left open."""
    seconds: float = 0.0
    """What choosing took."""

    def figures(self) -> dict[str, Any]:
        """What metrics/train.json holds of it, nothing where nothing was left open."""
        if not self.taken:
            return {}
        return {"depth": {**self.taken, "reasons": self.reasons} | ({"probes": self.probes} if self.probes else {})}


def select_layers(plan: NetworkSpec, train: EncodedRows, validation: EncodedRows) -> tuple[NetworkSpec, LayerChoice]:
    """Choose what `train.depth: auto` and `train.layers: auto` leave open, on training and validation rows alone.

    Returns:
        The plan with numbers, or `all`, as depth and layers, and what was chosen.

    Raises:
        UserError: states of `train.probe_rows` rows do not fit in memory.
    """
    settings = plan.train
    if "auto" not in (settings.depth, settings.layers):
        return plan, LayerChoice()
    started = time.perf_counter()
    config = load_config(plan.base.folder)
    chosen: dict[str, int | str] = {"depth": settings.depth, "layers": settings.layers}
    reasons, probes = {}, None
    if architecture_of(config) is None:
        for name in [name for name, value in chosen.items() if value == "auto"]:
            chosen[name] = "all"
            reasons[name] = f"all: where {config.model_type} keeps its layers is not known here"
    if chosen["depth"] == "auto":
        chosen["depth"], reasons["depth"], probes = _depth(plan, config, train, validation)
    if chosen["layers"] == "auto":
        depth = config.num_hidden_layers if chosen["depth"] == "all" else int(chosen["depth"])
        chosen["layers"], reasons["layers"] = trained_layers(settings.method, depth, on_gpu=device().type == "cuda")
    for name, reason in reasons.items():
        say(f"train.{name}: auto takes {reason}")
    settled = replace(plan, train=Train.model_validate(settings.model_dump() | chosen))
    seconds = time.perf_counter() - started
    return settled, LayerChoice(taken=chosen, reasons=reasons, probes=probes, seconds=seconds)


def trained_layers(method: str, depth: int, *, on_gpu: bool) -> tuple[int | str, str]:
    """How many top layers train of a model of `depth` layers, and why."""
    if method == "full":
        return "all", "all: every weight trains with method: full"
    if on_gpu:
        return "all", "all: a GPU trains them as fast as it can be fed"
    top = min(MOST, max(1, depth // TOP))
    return top, f"{top}: a quarter of {depth}, at most {MOST}, as a CPU trains adapters"


def _below(settings: Train, depth: int) -> int:
    """How many layers of a model of some depth the trunk has."""
    layers: int | str = settings.layers
    if layers == "auto":
        layers, _ = trained_layers(settings.method, depth, on_gpu=device().type == "cuda")
    return depth - (depth if layers == "all" else int(layers))


def _depth(
    plan: NetworkSpec, config: PretrainedConfig, train: EncodedRows, validation: EncodedRows
) -> tuple[int, str, dict[str, Any]]:
    """The depth, why, and the figures of every layer that was read.

    A regression sees what a layer knows, not what the layers can learn: hence a least depth.
    """
    settings, count = plan.train, config.num_hidden_layers
    parts = (train, validation)
    places = probe_sample(settings, len(plan.labels), [part.labels for part in parts])
    fitted, seen = (part.take(rows) for part, rows in zip(parts, places, strict=True))
    model = hidden_states.load_probed_model(plan.base, plan.labels, plan.encoder, plan.machine, scoring=False)
    least = max(fewest_layers(count), settings.layers if isinstance(settings.layers, int) else 1)
    states: dict[int, list[torch.Tensor]] = {}

    def keep(layer: int, rows: list[torch.Tensor]) -> None:
        if sum(one.nbytes for one in rows) * (len(states) + 1) <= KEPT_BYTES:
            states[layer] = [one.cpu() for one in rows]

    probes = probe_layers(
        model,
        Part(input_ids=fitted.input_ids, labels=np.array(fitted.labels)),
        Part(input_ids=seen.input_ids, labels=np.array(seen.labels)),
        len(plan.labels),
        key="train.probe_rows",
        budget=settings.feature_cache_budget,
        least=least,
        wanted={_below(settings, depth) for depth in range(least, count + 1)} - {0},
        keep=keep,
    )
    pooling = "own" if is_encoder(config) else "last"
    pooling = pooling if settings.pooling == "auto" else settings.pooling
    losses, right, poolings = _pooled(probes, pooling)
    place, best = select_depth(losses, [layer >= least for layer in probes.layers])
    mean, share = losses.mean(axis=1), right.mean(axis=1)
    depth = probes.layers[place]
    reason = (
        f"{depth} of {count}: from layer {least} on the first whose regression is within a standard error of the best, "
        f"that of layer {probes.layers[best]} among the first {probes.layers[-1]}; validation log-loss "
        f"{mean[place]:.3f} against {mean[best]:.3f}, accuracy {share[place]:.3f} against {share[best]:.3f}"
    )
    table = {
        "layers": list(probes.layers),
        "poolings": poolings,
        "log_loss": mean.round(6).tolist(),
        "accuracy": share.round(6).tolist(),
        "rows": len(fitted),
        "validation_rows": len(seen),
    }
    frozen = _below(settings, depth)
    if frozen in states:
        rows = [*fitted.input_ids, *seen.input_ids]
        _cache_states(plan, model, rows, frozen, states[frozen])
    return depth, reason, table


def _cache_states(
    plan: NetworkSpec, model: ProbedModel, input_ids: Tokens, layers: int, states: Sequence[torch.Tensor]
) -> None:
    """Put states of the frozen layers, which training needs of these rows too, into the feature cache."""
    prefix = shared_prefix(model.network, plan.encoder, stop=layers)
    entry = states_entry(model.network, model.files, input_ids, prefix, layers=layers, pad_id=model.pad_id)
    positions = row_positions(input_ids, model.network.extra_tokens)

    def write(put: WritePart) -> None:
        for position, ids, row in zip(positions, input_ids, states, strict=True):
            put_row(position, row, put, prefix if len(row) < len(ids) else None)

    cached(entry, write, budget=plan.train.feature_cache_budget)


def _pooled(probes: LayerProbes, pooling: str) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[str]]:
    """What regressions gave on each layer's states: losses and hits of the validation rows, and the pooling.

    Args:
        pooling: of the state that the head will see; what is none of `POOLINGS` is stood for by the better one.

    Returns:
        Each row's loss and whether it was right, both `[layers, rows]`, and the layers' poolings.
    """
    layers = np.arange(len(probes.layers))
    better = probes.losses.mean(axis=2).argmin(axis=1)  # [layers]
    taken = np.full_like(better, POOLINGS.index(pooling)) if pooling in POOLINGS else better
    return probes.losses[layers, taken], probes.right[layers, taken], [POOLINGS[place] for place in taken]


def select_depth(losses: NDArray[np.float64], allowed: list[bool]) -> tuple[int, int]:
    """The first allowed layer that is not worse than the best by more than a standard error, and the best.

    The error is that of the mean difference between the two layers' losses, row by row. The rule of one standard error
    is that of Breiman et al. (1984), section 3.4.3.

    Args:
        losses: of the validation rows, `[layers, rows]`.

    >>> select_depth(np.array([[9.0, 9.0, 9.0], [1.0, 1.3, 1.0], [1.0, 1.0, 1.1], [1.0, 1.2, 1.1]]), [True] * 4)
    (1, 2)
    """
    places = np.flatnonzero(allowed)
    best = int(places[losses[places].mean(axis=1).argmin()])
    return next(int(place) for place in places if standard_errors_above(losses[place], losses[best]) <= 1), best
