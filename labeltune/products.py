"""Products: linear layers that read the same states, multiplied as one, with the low-rank adapters beside them.

An adapter's first half makes a few numbers of the states; to the second half they are more inputs of the product:

    y = W·x + s·B·A·x = [W  s·B] · [x; A·x]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Product:
    """A linear layer, and the adapter beside it."""

    weight: torch.Tensor
    """W, `[outputs, inputs]`."""
    bias: torch.Tensor | None
    """`[outputs]`."""
    down: torch.Tensor | None = None
    """The adapter's A, `[rank, inputs]`."""
    up: torch.Tensor | None = None
    """Its B, `[outputs, rank]`."""
    scaling: float = 1.0
    """Its s."""

    @property
    def rank(self) -> int:
        """Of the adapter, 0 without one."""
        return 0 if self.down is None else len(self.down)


def total_rank(products: Sequence[Product]) -> int:
    """Ranks of all adapters."""
    return sum(part.rank for part in products)


def joined(products: Sequence[Product], h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Products of the same inputs as one.

    Args:
        h: inputs, `[tokens, inputs + ranks]`; the last ones, what the adapters' first halves give, are filled in here.

    Returns:
        The weights, `[outputs, inputs + ranks]`, and the adapters' first halves, `[ranks, inputs]`, in the type of `h`.
    """
    first, inputs = products[0].weight, products[0].weight.shape[1]
    downs = [part.down.to(h.dtype) for part in products if part.down is not None]
    if not downs and len(products) == 1:
        return first, first[:0]
    weight = first.new_zeros(sum(len(part.weight) for part in products), h.shape[1])
    row, column = 0, inputs
    for part in products:
        end = row + len(part.weight)
        weight[row:end, :inputs] = part.weight
        if part.up is not None:
            weight[row:end, column : column + part.rank] = part.up * part.scaling
        row, column = end, column + part.rank
    down = torch.cat(downs) if downs else first[:0]
    h[:, inputs:] = h[:, :inputs] @ down.t()
    return weight, down


def back(
    dy: torch.Tensor,
    h: torch.Tensor,
    weight: torch.Tensor,
    down: torch.Tensor,
    products: Sequence[Product],
    *,
    inputs: bool = True,
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Gradients of joined products for their inputs, `[tokens, inputs]`, and for each adapter's A and B.

    Args:
        dy: for the outputs, `[tokens, outputs]`.
        h, weight, down: as `joined` left and gave them.
        inputs: whether the first are wanted; else they are not computed.
    """
    size = down.shape[1]
    d_h = dy @ (weight if inputs else weight[:, size:])  # [tokens, inputs + ranks], or the ranks alone
    d_low = d_h[:, d_h.shape[1] - len(down) :]  # [tokens, ranks]
    d_down, d_up = d_low.t() @ h[:, :size], dy.t() @ h[:, size:]  # [ranks, inputs], [outputs, ranks]
    found: list[torch.Tensor | None] = []
    row = column = 0
    for part in products:
        end, last = row + len(part.weight), column + part.rank
        if part.down is None or part.up is None:
            found += [None, None]
        else:
            found.append(d_down[column:last].to(part.down.dtype))
            found.append(d_up[row:end, column:last].to(part.up.dtype).mul_(part.scaling))
        row, column = end, last
    return (torch.addmm(d_h[:, :size], d_low, down) if inputs else d_h), found


def add_product(x: torch.Tensor, h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`x + W·h + bias`, in one product."""
    found = torch.addmm(x, h, weight.t())
    return found if bias is None else found.add_(bias)
