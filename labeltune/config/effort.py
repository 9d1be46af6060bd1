"""What `train.effort` takes for settings that are `auto`: more rows get more layers, ranks and passes."""

from typing import Literal

Effort = Literal["fast", "balanced", "best"]
Method = Literal["full", "lora", "qlora"]

FEW_ROWS, MANY_ROWS = 1_000, 20_000
"""Training rows below which an epoch is short, and from which one brings nearly all there is to learn."""
EPOCHS: dict[Effort, tuple[float, float, float]] = {"fast": (1, 1, 1), "balanced": (4, 3, 2), "best": (5, 4, 3)}
"""Passes over few training rows, over more, and over many."""
RANKS: dict[Effort, tuple[int, int, int]] = {"fast": (8, 8, 8), "balanced": (8, 16, 32), "best": (16, 16, 32)}
"""Ranks of the adapters, likewise."""
PROBE_ROWS: dict[Effort, tuple[int, int]] = {"fast": (128, 16), "balanced": (1024, 64), "best": (1024, 64)}
"""Rows on which layers are compared: at least so many, and at least so many for each label."""
FAST_SHARE, FAST_MOST = 4, 8
"""With `fast`, a CPU trains one layer in so many, and at most so many."""


def _step(rows: int) -> int:
    return (rows >= FEW_ROWS) + (rows >= MANY_ROWS)


def epochs(effort: Effort, rows: int) -> float:
    """Passes over `rows` training rows.

    >>> epochs("balanced", 800), epochs("balanced", 2_000), epochs("best", 60_000)
    (4, 3, 3)
    """
    return EPOCHS[effort][_step(rows)]


def rank(effort: Effort, rows: int) -> int:
    """Rank of the adapters for `rows` training rows.

    >>> rank("fast", 60_000), rank("balanced", 60_000)
    (8, 32)
    """
    return RANKS[effort][_step(rows)]


def probe_rows(effort: Effort, num_labels: int) -> int:
    """Training rows, and validation rows, on which layers are compared.

    >>> probe_rows("fast", 2), probe_rows("fast", 77), probe_rows("balanced", 2)
    (128, 1232, 1024)
    """
    least, per_label = PROBE_ROWS[effort]
    return max(least, per_label * num_labels)


def trained_layers(effort: Effort, method: str, depth: int, rows: int, *, on_gpu: bool) -> tuple[int | str, str]:
    """How many top layers train of a model of `depth` layers, and why.

    >>> trained_layers("balanced", "lora", 12, 2_000, on_gpu=False)
    (6, '6: half of 12, as a CPU trains adapters on fewer than 20,000 rows')
    """
    if on_gpu:
        return "all", "all: a GPU trains them as fast as it can be fed"
    if effort == "best":
        return "all", "all: train.effort is best"
    if effort == "balanced" and rows >= MANY_ROWS:
        return "all", f"all: {rows:,} rows can use them"
    if effort == "balanced":
        half = max(1, -(-depth // 2))
        return half, f"{half}: half of {depth}, as a CPU trains on fewer than {MANY_ROWS:,} rows"
    if method == "full":
        return "all", "all: every weight trains with method: full"
    top = min(FAST_MOST, max(1, depth // FAST_SHARE))
    return top, f"{top}: a quarter of {depth}, at most {FAST_MOST}, as a CPU trains adapters"
