"""The label set: the classes of a task, in the order of all logits, probabilities and figures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labeltune.runtime.errors import UserError
from labeltune.runtime.files import write_json

Indices = NDArray[np.int64]
"""Index of each row's label, `[rows]`."""
Probabilities = NDArray[np.float64]
"""Probability of each label, `[rows, num_labels]`."""


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """Ordered labels: column i of every `[rows, num_labels]` array is `names[i]`."""

    names: tuple[str, ...]
    """Names that users read; they are unique."""
    words: tuple[str, ...]
    """Label words (the verbalizer), which label scoring scores and the prompt lists, in the order of `names`."""

    @classmethod
    def of(
        cls,
        values: Iterable[str],
        labels: Mapping[str, str] | None = None,
        verbalizer: Mapping[str, str] | None = None,
    ) -> "LabelSet":
        """Build the set from the names seen in the rows, in the order of the map raw value -> name if there is one.

        Without a map the names are the raw values: whole numbers sorted as numbers, else as text.

        >>> LabelSet.of(["10", "9", "9"]).names
        ('9', '10')

        Raises:
            UserError: fewer than two classes, or a verbalizer that does not fit the names.
        """
        seen = sorted(set(values), key=_natural)
        names = tuple(dict.fromkeys(labels.values())) if labels else tuple(seen)
        if len(names) < 2 or len(seen) < 2:
            found = ", ".join(repr(value) for value in seen) or "none"
            raise UserError(f"a classifier needs at least two classes; the rows have {found}")
        absent = [f"{raw!r} ({name})" for raw, name in (labels or {}).items() if name not in seen]
        if absent:
            raise UserError(f"labels: no row has {', '.join(absent)}; remove it from 'labels' or add rows")
        words = dict(verbalizer or {})
        unknown = sorted(set(words) - set(names))
        if unknown:
            raise UserError(f"verbalizer: no label is called {unknown}; the labels are {list(names)}")
        spoken = tuple(words.get(name, name) for name in names)
        if len(set(spoken)) < len(spoken):
            raise UserError(f"verbalizer: two labels share a word: {dict(zip(names, spoken, strict=True))}")
        return cls(names=names, words=spoken)

    def save(self, path: Path) -> None:
        """Write the set as JSON."""
        write_json(path, {"names": list(self.names), "words": list(self.words)})

    @classmethod
    def load(cls, path: Path) -> "LabelSet":
        """Read the set that `save` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(names=tuple(content["names"]), words=tuple(content["words"]))

    def __len__(self) -> int:
        return len(self.names)

    def index(self, names: Sequence[str]) -> list[int]:
        """Return the position of each name."""
        positions = {name: position for position, name in enumerate(self.names)}
        return [positions[name] for name in names]


def _natural(value: str) -> tuple[int, int, str]:
    digits = value.removeprefix("-")
    return (0, int(value), value) if digits.isascii() and digits.isdigit() else (1, 0, value)
