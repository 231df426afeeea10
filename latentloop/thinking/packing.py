"""Real tokens without their padding: left-padded rows to packed tokens and back to what each token is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["Packing"]


@dataclass(frozen=True)
class Packing:
    """The real tokens of a batch of left-padded histories, row after row, oldest first.

    Args:
        items: (tokens,) int64 item ids.
        slots: (tokens,) int64 distance from the row's newest item.
        rows: (tokens,) int64 row of each token.
        offsets: (B + 1,) int64, where each row starts.
        max_length: length of the longest row.
    """

    items: Int[Tensor, " tokens"]
    slots: Int[Tensor, " tokens"]
    rows: Int[Tensor, " tokens"]
    offsets: Int[Tensor, " B1"]
    max_length: int

    @classmethod
    def of(cls, history: Int[Tensor, "B L"]) -> Packing:
        """Pack `history`; a row without items keeps its newest padding token, so that it still gets an answer."""
        length = history.shape[1]
        real = history != 0
        real[:, -1] = True
        rows, columns = real.nonzero(as_tuple=True)
        offsets = torch.nn.functional.pad(real.sum(1).cumsum(0), (1, 0))
        longest = length - int(columns.min()) if rows.numel() else 0
        return cls(history[rows, columns], length - 1 - columns, rows, offsets, longest)

    @classmethod
    def filled(cls, history: Int[Tensor, "B L"], tokens: int, fillers: int) -> Packing:
        """`of`, with rows of padding behind that bring it to so many tokens, which an accelerator need not wait to learn.

        Args:
            history: item ids, left-padded with 0.
            tokens: of all rows together; the real ones, and for each filler 1 to L more.
            fillers: rows behind the batch's; their items are 0.
        """
        rows, length = history.shape
        lengths = (history != 0).sum(1).clamp_(min=1)
        before = torch.arange(fillers, device=history.device) * (length - 1)
        lengths = torch.cat([lengths, (tokens - fillers - lengths.sum() - before).clamp_(0, length - 1) + 1])
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        row = torch.repeat_interleave(torch.arange(rows + fillers, device=history.device), lengths, output_size=tokens)
        slots = offsets[row + 1] - 1 - torch.arange(tokens, device=history.device)
        items = history[row.clamp(max=rows - 1), length - 1 - slots].masked_fill(row >= rows, 0)
        return cls(items, slots, row, offsets, length)

    def repeat(self, copies: int) -> tuple[Packing, Int[Tensor, " tokens2"]]:
        """Each row `copies` times, its copies adjacent, and for each new token the old one it copies."""
        lengths = self.offsets.diff().repeat_interleave(copies)
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        total = int(self.items.shape[0]) * copies
        rows = torch.repeat_interleave(
            torch.arange(lengths.shape[0], device=lengths.device), lengths, output_size=total
        )
        within = torch.arange(total, device=lengths.device) - offsets[rows]
        source = self.offsets[rows // copies] + within
        return Packing(self.items[source], self.slots[source], rows, offsets, self.max_length), source
