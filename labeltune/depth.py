"""Depth: after which layer the model is cut, and how many of its layers train, where the settings leave that open."""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig, PretrainedConfig

from labeltune import soundings, untuned
from labeltune.architectures import architecture
from labeltune.blueprint import Blueprint
from labeltune.hardware import device
from labeltune.models import is_encoder
from labeltune.params import Train
from labeltune.passes import Passed
from labeltune.regression import errors_behind
from labeltune.rows import Rows
from labeltune.soundings import Part, Sounding
from labeltune.strata import sample
from labeltune.terminal import say
from labeltune.watch import POOLINGS

SEED = 0
"""Of the sample: not the training's, so that all its seeds have the same depth."""
TOP = 4
"""On a CPU one layer in so many trains."""
MOST = 8
"""Most layers that train on a CPU: twice as many gained nothing (docs/log.md)."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was taken where a setting left it open."""

    taken: dict[str, int | str] = field(default_factory=dict)
    """The depth and the layers, nothing where neither was left open."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Setting -> what was chosen, and why."""
    probes: dict[str, Any] | None = None
    """What each layer's regression gave on the validation rows, where the depth was left open."""
    seconds: float = 0.0
    """What choosing took."""
    passed: Passed | None = None
    """The rows that the depth was chosen on, for the trunk; None where it was not left open."""

    def figures(self) -> dict[str, Any]:
        """What metrics/train.json holds of it, nothing where nothing was left open."""
        if not self.taken:
            return {}
        return {"depth": {**self.taken, "reasons": self.reasons} | ({"probes": self.probes} if self.probes else {})}


def settle(plan: Blueprint, train: Rows, validation: Rows) -> tuple[Blueprint, Choice]:
    """Choose what `train.depth: auto` and `train.layers: auto` leave open, on training and validation rows alone.

    Returns:
        The plan with numbers, or `all`, as depth and layers, and what was chosen.

    Raises:
        UserError: states of `train.depth_rows` rows do not fit in memory.
    """
    settings = plan.train
    if "auto" not in (settings.depth, settings.layers):
        return plan, Choice()
    started = time.perf_counter()
    config = AutoConfig.from_pretrained(plan.base.folder)
    chosen: dict[str, int | str] = {"depth": settings.depth, "layers": settings.layers}
    reasons, probes, passed = {}, None, None
    if architecture(config) is None:
        for name in [name for name, value in chosen.items() if value == "auto"]:
            chosen[name] = "all"
            reasons[name] = f"all: where {config.model_type} keeps its layers is not known here"
    if chosen["depth"] == "auto":
        chosen["depth"], reasons["depth"], probes, passed = _depth(plan, config, train, validation)
    if chosen["layers"] == "auto":
        depth = config.num_hidden_layers if chosen["depth"] == "all" else int(chosen["depth"])
        chosen["layers"], reasons["layers"] = trained_layers(settings.method, depth, on_gpu=device().type == "cuda")
    for name, reason in reasons.items():
        say(f"train.{name}: auto takes {reason}")
    if passed is not None:
        passed.only(_below(settings, int(chosen["depth"])))
    settled = replace(plan, train=Train.model_validate(settings.model_dump() | chosen))
    seconds = time.perf_counter() - started
    return settled, Choice(taken=chosen, reasons=reasons, probes=probes, seconds=seconds, passed=passed)


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
    plan: Blueprint, config: PretrainedConfig, train: Rows, validation: Rows
) -> tuple[int, str, dict[str, Any], Passed]:
    """The depth, why, the figures of every layer that was read, and the rows that it was read on.

    A regression sees what a layer knows, not what the layers can learn: hence a least depth.
    """
    settings, count = plan.train, config.num_hidden_layers
    rows = soundings.compared_rows(settings.depth_rows, len(plan.labels))
    places = [sample(part.labels, rows, SEED) for part in (train, validation)]
    fitted, seen = (part.take(some) for part, some in zip((train, validation), places, strict=True))
    model = untuned.load(plan.base, plan.labels, plan.encoder, plan.machine, scoring=False)
    least = max(soundings.fewest_layers(count), settings.layers if isinstance(settings.layers, int) else 1)
    passed = Passed(
        rows=[*places[0], *(len(train) + place for place in places[1])],
        ends={_below(settings, depth) for depth in range(least, count + 1)} - {0},
    )
    sounding = soundings.take(
        model,
        Part(input_ids=fitted.input_ids, labels=np.array(fitted.labels)),
        Part(input_ids=seen.input_ids, labels=np.array(seen.labels)),
        len(plan.labels),
        key="train.depth_rows",
        budget=settings.trunk_budget,
        least=least,
        passed=passed,
    )
    pooling = "own" if is_encoder(config) else "last"
    pooling = pooling if settings.pooling == "auto" else settings.pooling
    losses, right, poolings = _pooled(sounding, pooling)
    place, best = shallowest(losses, [layer >= least for layer in sounding.layers])
    mean, share = losses.mean(axis=1), right.mean(axis=1)
    depth = sounding.layers[place]
    reason = (
        f"{depth} of {count}: from layer {least} on the first whose regression is within a standard error of the best, "
        f"that of layer {sounding.layers[best]} among the first {sounding.layers[-1]}; validation log-loss "
        f"{mean[place]:.3f} against {mean[best]:.3f}, accuracy {share[place]:.3f} against {share[best]:.3f}"
    )
    table = {
        "layers": list(sounding.layers),
        "poolings": poolings,
        "log_loss": mean.round(6).tolist(),
        "accuracy": share.round(6).tolist(),
        "rows": len(fitted),
        "validation_rows": len(seen),
    }
    return depth, reason, table, passed


def _pooled(sounding: Sounding, pooling: str) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[str]]:
    """What regressions gave on each layer's states: losses and hits of the validation rows, and the pooling.

    Args:
        pooling: of the state that the head will see; what is none of `POOLINGS` is stood for by the better one.

    Returns:
        Each row's loss and whether it was right, both `[layers, rows]`, and the layers' poolings.
    """
    layers = np.arange(len(sounding.layers))
    better = sounding.losses.mean(axis=2).argmin(axis=1)  # [layers]
    taken = np.full_like(better, POOLINGS.index(pooling)) if pooling in POOLINGS else better
    return sounding.losses[layers, taken], sounding.right[layers, taken], [POOLINGS[place] for place in taken]


def shallowest(losses: NDArray[np.float64], allowed: list[bool]) -> tuple[int, int]:
    """The first allowed layer that is not worse than the best by more than a standard error, and the best.

    The error is that of the mean difference between the two layers' losses, row by row. The rule of one standard error
    is that of Breiman et al. (1984), section 3.4.3.

    Args:
        losses: of the validation rows, `[layers, rows]`.

    >>> shallowest(np.array([[9.0, 9.0, 9.0], [1.0, 1.3, 1.0], [1.0, 1.0, 1.1], [1.0, 1.2, 1.1]]), [True] * 4)
    (1, 2)
    """
    places = np.flatnonzero(allowed)
    best = int(places[losses[places].mean(axis=1).argmin()])
    return next(int(place) for place in places if errors_behind(losses[place], losses[best]) <= 1), best
