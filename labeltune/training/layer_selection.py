"""What `auto` takes for depth, trained layers, epochs and rank."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PretrainedConfig

from labeltune.config.model import Train, auto_epochs, auto_layers, auto_rank
from labeltune.console.terminal import say
from labeltune.modeling.architectures import architecture_of, is_encoder
from labeltune.modeling.base_models import load_config
from labeltune.modeling.builder import NetworkSpec
from labeltune.modeling.classifiers import shared_prefix
from labeltune.modeling.device import device
from labeltune.modeling.prompts import EncodedRows
from labeltune.probing import hidden_states
from labeltune.probing.feature_cache import WritePart, cached, put_row, row_positions, states_entry
from labeltune.probing.hidden_states import POOLINGS, ProbedModel
from labeltune.probing.layer_probes import (
    LayerProbes,
    Part,
    Tokens,
    fewest_layers,
    least_read,
    probe_layers,
    probe_sample,
)
from labeltune.probing.regression import standard_errors_above

ALPHA_PER_RANK = 2
LEAST_KEPT = 2
"""Of a decoder one layer in so many is kept at any rate: what regressions on short rows see in the lower half did not
hold on longer ones (docs/log.md)."""
KEPT_BYTES = 1 << 28
"""Most bytes of the states that are kept in memory until the depth, and so the layer they are needed of, is chosen."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was taken where a setting left it open."""

    taken: dict[str, Any] = field(default_factory=dict)
    """Keys of the section `train` that were left open -> what was taken."""
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


def choose_capacity(plan: NetworkSpec, train: EncodedRows, validation: EncodedRows) -> tuple[NetworkSpec, Choice]:
    """Choose what settings leave open by `auto`: depth, layers, epochs and rank, on training and validation rows alone.

    `train.effort` decides how much is spent; more rows get more epochs, ranks and layers.

    Returns:
        The plan with numbers, or `all`, in place of `auto`, and what was chosen.

    Raises:
        UserError: states of `train.probe_rows` rows do not fit in memory.
    """
    started = time.perf_counter()
    settings, rows = plan.train, len(train)
    chosen: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    probes = None
    if settings.epochs == "auto" and settings.fine_tunes:
        chosen["epochs"] = auto_epochs(settings.effort, rows)
        reasons["epochs"] = f"{chosen['epochs']:g}: for {rows:,} rows with train.effort {settings.effort}"
    if settings.method in ("lora", "qlora") and "auto" in (settings.lora.rank, settings.lora.alpha):
        rank = auto_rank(settings.effort, rows) if settings.lora.rank == "auto" else int(settings.lora.rank)
        alpha = ALPHA_PER_RANK * rank if settings.lora.alpha == "auto" else settings.lora.alpha
        chosen["lora"] = settings.lora.model_dump() | {"rank": rank, "alpha": alpha}
        reasons["lora"] = f"rank {rank}, alpha {alpha}: for {rows:,} rows with train.effort {settings.effort}"
    if "auto" in (settings.depth, settings.layers):
        layers, why, probes = _layers(plan, train, validation)
        chosen |= layers
        reasons |= why
    for name, reason in reasons.items():
        say(f"train.{name}: auto takes {reason}")
    if not chosen:
        return plan, Choice()
    resolved = replace(plan, train=Train.model_validate(settings.model_dump() | chosen))
    return resolved, Choice(taken=chosen, reasons=reasons, probes=probes, seconds=time.perf_counter() - started)


def _layers(
    plan: NetworkSpec, train: EncodedRows, validation: EncodedRows
) -> tuple[dict[str, int | str], dict[str, str], dict[str, Any] | None]:
    """Depth and layers, the reason for each that was left open, and the figures of the layers that were read."""
    settings, config = plan.train, load_config(plan.base.folder)
    chosen: dict[str, int | str] = {"depth": settings.depth, "layers": settings.layers}
    reasons: dict[str, str] = {}
    probes = None
    if architecture_of(config) is None:
        for name in [name for name, value in chosen.items() if value == "auto"]:
            chosen[name] = "all"
            reasons[name] = f"all: where {config.model_type} keeps its layers is not known here"
    if chosen["depth"] == "auto" and settings.effort != "fast" and is_encoder(config):
        chosen["depth"], reasons["depth"] = "all", "all: an encoder's last layers are made for such tasks"
    if chosen["depth"] == "auto" and settings.effort == "best":
        chosen["depth"], reasons["depth"] = "all", "all: train.effort is best"
    if chosen["depth"] == "auto":
        chosen["depth"], reasons["depth"], probes = _depth(plan, config, train, validation)
    if chosen["layers"] == "auto":
        depth = config.num_hidden_layers if chosen["depth"] == "all" else int(chosen["depth"])
        chosen["layers"], reasons["layers"] = _trained(settings, depth, len(train))
    return chosen, reasons, probes


def _trained(settings: Train, depth: int, rows: int) -> tuple[int | str, str]:
    if settings.method == "probe":
        return "all", "all: a probe reads them and trains none"
    on_gpu = device().type == "cuda"
    return auto_layers(settings.effort, settings.method, depth, rows, on_gpu=on_gpu)


def _frozen(settings: Train, depth: int, rows: int) -> int:
    """How many layers of a model of some depth do not train."""
    layers: int | str = settings.layers
    if layers == "auto":
        layers, _ = _trained(settings, depth, rows)
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
    least = fewest_layers(count) if settings.effort == "fast" else -(-count // LEAST_KEPT)
    least = max(least, settings.layers if isinstance(settings.layers, int) else 1)
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
        least=max(least, least_read(settings.effort, count)),
        wanted={_frozen(settings, depth, len(train)) for depth in range(least, count + 1)} - {0},
        keep=keep,
    )
    pooling = "own" if is_encoder(config) else "last"
    pooling = pooling if settings.pooling == "auto" else settings.pooling
    losses, right, poolings = _pooled(probes, pooling)
    allowed = [layer >= least for layer in probes.layers]
    deepest = settings.effort != "fast"
    place, best = select_depth(losses, allowed, deepest=deepest)
    mean, share = losses.mean(axis=1), right.mean(axis=1)
    depth = probes.layers[place]
    which = "deepest" if deepest else "first"
    reason = (
        f"{depth} of {count}: from layer {least} on the {which} whose regression is within a standard error of the "
        f"best, that of layer {probes.layers[best]} among the first {probes.layers[-1]}; validation log-loss "
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
    frozen = _frozen(settings, depth, len(train))
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


def select_depth(losses: NDArray[np.float64], allowed: list[bool], *, deepest: bool = False) -> tuple[int, int]:
    """The first or the deepest allowed layer not worse than the best by more than a standard error, and the best.

    The error is that of the mean difference between the two layers' losses, row by row. The rule of one standard error
    is that of Breiman et al. (1984), section 3.4.3.

    Args:
        losses: of the validation rows, `[layers, rows]`.

    >>> losses = np.array([[9.0, 9.0, 9.0], [1.0, 1.3, 1.0], [1.0, 1.0, 1.1], [1.0, 1.2, 1.1]])
    >>> select_depth(losses, [True] * 4), select_depth(losses, [True] * 4, deepest=True)
    ((1, 2), (3, 2))
    """
    places = np.flatnonzero(allowed)
    best = int(places[losses[places].mean(axis=1).argmin()])
    tried = places[::-1] if deepest else places
    return next(int(place) for place in tried if standard_errors_above(losses[place], losses[best]) <= 1), best
