"""Where tokens stand for causal attention, in left-padded rows or packed.

Packed tokens are spread over right-padded rows, where plain causality already hides the padding. On a CPU, rows of
similar length form a group of their own: histories are short (a third of the maximum on average), and a group padded
to its own length costs a fraction of the scores. On an accelerator several short rows share a window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentloop.backbones.windows import WIDTH, windows

__all__ = ["Group", "Layout", "packed_layout"]

_KNOWN = "_latentloop_layout"

_LEAST_ROWS = 32
"""Rows of a length, on average, for which a group of its own pays."""


@dataclass(frozen=True)
class Group:
    """Rows that attend together.

    Args:
        mask: (B, 1, L, L) True = may attend; None where causality alone is right.
        last_mask: (B, 1, 1, L) the same for the newest position's query; None where no row has a newest of its own.
        tokens: (B, L) places of the rows' tokens among the packed ones, None for padded rows.
        rows: (B,) which rows of the batch these are, None for all.
        span: first and last place, and L, of rows of one length whose packed tokens follow each other: read in place.
    """

    mask: Bool[Tensor, "B 1 L L"] | None
    last_mask: Bool[Tensor, "B 1 1 L"] | None
    tokens: Int[Tensor, "B L"] | None = None
    rows: Int[Tensor, " B"] | None = None
    span: tuple[int, int, int] | None = None

    def rows_of(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "B L c"]:
        """This group's rows; places past a row's end hold some token, which nothing real attends to."""
        if self.span is not None:
            first, last, length = self.span
            return x[first:last].reshape(-1, length, x.shape[-1])
        return x if self.tokens is None else x.index_select(0, self.tokens.flatten()).unflatten(0, self.tokens.shape)

    def newest_of(self, x: Float[Tensor, "B2 1 c"]) -> Float[Tensor, "B 1 c"]:
        """This group's part of one vector a row."""
        return x if self.rows is None else x.index_select(0, self.rows)


@dataclass(frozen=True)
class Layout:
    """Groups of rows, and the way back from them; worked out once for all layers of a block.

    Args:
        groups: what attends together.
        places: (tokens,) each packed token's place in the rows of what attends together, laid end to end, None where it is
            its own.
        order: (B,) each row's place in the groups laid end to end, None where it is its own.
        ends: (B,) each row's newest packed token, None for padded rows.
        windows: what attends together where all positions do, and the groups only where the newest does.
    """

    groups: tuple[Group, ...]
    places: Int[Tensor, " tokens"] | None = None
    order: Int[Tensor, " B"] | None = None
    ends: Int[Tensor, " B"] | None = None
    windows: Group | None = None

    @property
    def everywhere(self) -> tuple[Group, ...]:
        """What attends together where all positions do."""
        return self.groups if self.windows is None else (self.windows,)

    @classmethod
    def padded(cls, x: Float[Tensor, "B L d"], padding_mask: Bool[Tensor, "B L"] | None) -> Layout:
        """The layout of left-padded rows."""
        rows, length = x.shape[:2]
        if padding_mask is None:
            padding_mask = torch.zeros(rows, length, dtype=torch.bool, device=x.device)
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        own = torch.eye(length, dtype=torch.bool, device=x.device)  # else padding attends to nothing, which is NaN
        keep = ~padding_mask[:, None, None, :]
        return cls((Group((causal & keep) | own, keep | own[-1]),))

    @classmethod
    def packed(
        cls, x: Float[Tensor, "tokens d"], offsets: Int[Tensor, " B1"], max_length: int | None, *, grouped: bool
    ) -> Layout:
        """The layout of packed tokens.

        Args:
            x: the tokens.
            offsets: (B + 1,) where each row starts.
            max_length: length of the longest row, saves looking it up.
            grouped: whether to group rows by length; it reads lengths on the host, which an accelerator waits for.
        """
        lengths, starts = offsets.diff(), offsets[:-1]
        if grouped and (in_place := _of_equal_lengths(lengths)) is not None:
            return cls(in_place, None, None, offsets[1:] - 1)
        longest = max(1, int(lengths.max()) if max_length is None and lengths.shape[0] else max_length or 0)
        widths = [min(1 << power, longest) for power in range((longest - 1).bit_length() + 1)] if grouped else [longest]
        groups: list[Group] = []
        bases = torch.empty_like(starts)
        order = torch.empty_like(starts)
        shorter = done_rows = done_places = 0
        for width in widths:
            rows = (
                ((lengths > shorter) & (lengths <= width)).nonzero()[:, 0]
                if grouped
                else torch.arange(lengths.shape[0], device=x.device)
            )
            shorter = width
            if not rows.shape[0] and (groups or width < longest):  # an empty batch still has one, empty group
                continue
            columns = torch.arange(width, device=x.device)
            tokens = (starts[rows, None] + columns).clamp_(max=x.shape[0] - 1)
            last_mask = (columns < lengths[rows, None])[:, None, None]
            groups.append(Group(None, last_mask, tokens, rows if grouped else None))
            ranks = torch.arange(rows.shape[0], device=x.device)
            bases[rows] = done_places + ranks * width
            order[rows] = done_rows + ranks
            done_rows += rows.shape[0]
            done_places += rows.shape[0] * width
        shift = torch.repeat_interleave(bases - starts, lengths, output_size=x.shape[0])
        places = torch.arange(x.shape[0], device=x.device) + shift
        return cls(tuple(groups), places, order if len(groups) > 1 else None, offsets[1:] - 1)

    @classmethod
    def windowed(cls, x: Float[Tensor, "tokens d"], offsets: Int[Tensor, " B1"], max_length: int) -> Layout:
        """The layout of packed tokens in windows, for rows of at most half a window."""
        together = cls.packed(x, offsets, max_length, grouped=False)
        tokens, mask, places = windows(x, offsets, max_length)
        return replace(together, places=places, windows=Group(mask, None, tokens))

    def gather(self, read: list[Float[Tensor, "_ c"]]) -> Float[Tensor, "n c"]:
        """The groups' positions laid end to end, back in the tokens' order, which they have where nothing says else."""
        flat = torch.cat(read) if len(read) > 1 else read[0]
        return flat if self.places is None else flat.index_select(0, self.places)

    def gather_rows(self, read: list[Float[Tensor, "_ c"]]) -> Float[Tensor, "B c"]:
        """The groups' rows laid end to end, back in the batch's order."""
        flat = torch.cat(read) if len(read) > 1 else read[0]
        return flat if self.order is None else flat.index_select(0, self.order)

    def newest(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "B c"]:
        """Each row's newest token."""
        return x[:, -1] if self.ends is None else x.index_select(0, self.ends)


def _of_equal_lengths(lengths: Int[Tensor, " B"]) -> tuple[Group, ...] | None:
    """Groups that are read in place, where rows come in order of length, as those of a ranking do."""
    if torch.compiler.is_compiling():
        return None
    found, counts = torch.unique_consecutive(lengths, return_counts=True)
    if not len(found) or len(found) * _LEAST_ROWS > len(lengths):
        return None
    if int(found[0]) < 1 or bool((found.diff() < 0).any()):
        return None
    groups, row, place = [], 0, 0
    for length, count in zip(found.tolist(), counts.tolist(), strict=True):
        seen = torch.ones(count, 1, 1, length, dtype=torch.bool, device=lengths.device)
        rows = torch.arange(row, row + count, device=lengths.device)
        groups.append(Group(None, seen, rows=rows, span=(place, place + count * length, length)))
        row, place = row + count, place + count * length
    return tuple(groups)


def packed_layout(x: Float[Tensor, "tokens d"], offsets: Int[Tensor, " B1"], max_length: int | None) -> Layout:
    """The layout that suits the tokens' device, worked out once for all passes of a loop: kept on `offsets`, which they
    share."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or offsets.is_inference():
        return _suiting(x, offsets, max_length)
    state = (x.device, max_length, offsets._version)  # offsets that are written to get a new layout
    known: tuple[object, Layout] | None = getattr(offsets, _KNOWN, None)
    if known is None or known[0] != state:
        known = (state, _suiting(x, offsets, max_length))
        setattr(offsets, _KNOWN, known)
    return known[1]


def _suiting(x: Tensor, offsets: Tensor, max_length: int | None) -> Layout:
    if x.device.type == "cpu":
        return Layout.packed(x, offsets, max_length, grouped=True)
    if max_length is not None and 2 * max_length <= WIDTH and x.shape[0]:
        return Layout.windowed(x, offsets, max_length)
    return Layout.packed(x, offsets, max_length, grouped=False)
