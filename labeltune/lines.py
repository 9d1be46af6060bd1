"""Lines: the tokens of a batch behind one another, so that attention alone meets padding.

A batch is blocks of a row each, or of several beside each other. Norms, products and MLPs take its tokens as one line,
in which each stands once, a front that several blocks begin with too; attention takes them by blocks.
"""

from dataclasses import dataclass

import torch

from labeltune.inference import rounded
from labeltune.packing import FRONT, PADDING

MULTIPLE = 16
"""What the length of a line is a multiple of, where kernels are compiled for every shape."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """Where the tokens of a batch, `[blocks, length]`, stand in its line, `[tokens]`; behind them there is a stand-in.

    A line is at least one token longer than the batch's: whatever is padding in a block stands there, and so does
    nothing else.
    """

    picks: torch.Tensor
    """Place in the blocks, `[tokens]`, of each token of the line; of the stand-ins the first token's."""
    keys: torch.Tensor
    """Place in the line, `[blocks * length]`, of each token that is seen."""
    blocks: int
    """How many there are."""
    real: int
    """Tokens of the line that are no stand-ins."""
    front: tuple[int, int, int]
    """Where the front stands in the line, how many tokens it has, and the block in which it asks, before which no block
    begins with it, and behind which every one does."""
    asking: torch.Tensor
    """Place among the line's queries, `[tokens * groups]`, of each one that asks, `[blocks * groups * length]`: a
    front's in one block alone."""
    answered: torch.Tensor
    """The other way round: place among `[blocks * groups * length]` of each of the line's queries."""

    @classmethod
    def of(cls, owners: torch.Tensor, multiple: int, groups: int) -> "Line":
        """Line up a batch.

        Args:
            owners: the row that a token belongs to, `packing.FRONT` or `PADDING`, `[blocks, length]`.
            multiple: what the length of the line is to be a multiple of.
            groups: query heads that share keys and values.

        >>> line = Line.of(torch.tensor([[FRONT, 0, 0, PADDING], [FRONT, 1, PADDING, PADDING]]), 1, 1)
        >>> line.picks.tolist(), line.real
        ([0, 1, 2, 5, 0], 4)
        >>> line.asking.view(2, 4).tolist(), line.keys.view(2, 4).tolist()
        ([[0, 1, 2, 4], [4, 3, 4, 4]], [[0, 1, 2, 4], [0, 3, 4, 4]])
        """
        blocks, length = owners.shape
        is_front = owners == FRONT
        first = int(is_front[:, 0].int().argmax())
        once = is_front.clone()
        once[first + 1 :] = False
        picks = ((owners >= 0) | once).flatten().nonzero()[:, 0]  # [real]
        real, size = len(picks), int(is_front[first].sum())
        queries = picks.new_full((blocks * length,), real)
        queries[picks] = torch.arange(real, device=picks.device)
        begin = int(queries[first * length]) if size else 0
        assert size == 0 or bool(is_front[first:, :size].all()), "blocks with a front are the last ones"
        keys = queries.view(blocks, length).clone()
        keys[is_front] = (begin + torch.arange(length, device=picks.device)).expand(blocks, -1)[is_front]
        picks = torch.cat([picks, picks[:1].expand(rounded(real + 1, multiple) - real)])
        group = torch.arange(groups, device=picks.device)
        asking = queries.view(blocks, 1, length) * groups + group.unsqueeze(1)  # [blocks, groups, length]
        block, place = picks.unsqueeze(1) // length, picks.unsqueeze(1) % length
        return cls(
            picks=picks, keys=keys.flatten(), blocks=blocks, real=real, front=(begin, size, first),
            asking=asking.flatten(), answered=((block * groups + group) * length + place).flatten(),
        )  # fmt: skip

    @classmethod
    def of_rows(cls, attention_mask: torch.Tensor, multiple: int, groups: int) -> "Line":
        """Line up rows that are a block each, by their mask, `[rows, length]`."""
        rows = torch.arange(len(attention_mask), device=attention_mask.device).unsqueeze(1)
        return cls.of(torch.where(attention_mask.bool(), rows, PADDING), multiple, groups)

    def pick(self, blocks: torch.Tensor) -> torch.Tensor:
        """The line, `[1, tokens, ...]`, of what is in blocks, `[blocks, length, ...]`."""
        return blocks.flatten(0, 1).index_select(0, self.picks).unsqueeze(0)

    def spread(self, line: torch.Tensor) -> torch.Tensor:
        """The blocks, `[blocks, length, ...]`, of what is in a line, `[1, tokens, ...]`; padding holds a stand-in's."""
        found = line[0].index_select(0, self.keys)
        return found.view(self.blocks, -1, *found.shape[1:])

    def weights(self, reading: torch.Tensor) -> torch.Tensor:
        """What each token of the line counts, `[rows, tokens]`, of what every place does, `[rows, blocks * length]`."""
        found = reading.new_zeros(len(reading), len(self.picks))
        return found.scatter_add_(1, self.keys.expand(len(reading), -1), reading)
