"""Features: one state of the untuned base model per row, kept so that no other stage has to compute them again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeltune.outputs import replacing

States = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Features:
    """States of one layer and pooling, of rows of one split."""

    ids: list[str]
    """What `prepare` calls each row."""
    states: States
    """`[rows, size]`."""


def save(path: Path, features: dict[str, Features]) -> None:
    """Write split -> features; the same ones give the same bytes."""
    arrays: dict[str, Any] = {}
    for split, part in features.items():
        arrays |= {f"{split}_ids": np.array(part.ids), split: part.states}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def load(path: Path) -> dict[str, Features]:
    """Read what `save` wrote."""
    with np.load(path) as arrays:
        splits = [name.removesuffix("_ids") for name in arrays if name.endswith("_ids")]
        return {split: Features(ids=arrays[f"{split}_ids"].tolist(), states=arrays[split]) for split in splits}
