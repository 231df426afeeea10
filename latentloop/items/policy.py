"""A policy's gradient and its divergence from a reference in one pass over the tiles of scores.

Where it is known beforehand what a log-probability and a divergence will weigh in the loss (at the first update of a
batch of rollouts the ratio is 1), the gradient can be taken while a chunk's scores are there. Without that, backward
has to compute both models' scores again: `items.softmax.log_prob_and_kl`, with half as many products more.

Shapes: R rows, N items, d latent size.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from latentloop.errors import InputError
from latentloop.items.divergence import ChunkDivergence
from latentloop.items.scores import checked, checked_reference, no_autocast
from latentloop.items.tiles import row_chunks

__all__ = ["weighed_log_prob_and_kl"]


class _Weighed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        ref_queries: Tensor,
        ref_keys: Tensor,
        column: Tensor,
        weight: Tensor,
        kl_weight: Tensor,
        grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = queries.shape[0]
        grad_queries = torch.zeros_like(queries) if grad and ctx.needs_input_grad[0] else None
        grad_keys = torch.zeros_like(keys) if grad and ctx.needs_input_grad[1] else None
        picked, divergence = queries.new_empty(2, rows)
        keep = grad_queries is not None or grad_keys is not None
        with no_autocast(queries):
            diverge = ChunkDivergence(keys, ref_keys, keep=keep)
            for part in row_chunks(rows, keys):
                found = diverge(queries[part], ref_queries[part], column[part])
                picked[part] = (found.own - found.highest) - found.above
                divergence[part] = found.kl
                if not keep:
                    continue
                # d log p_c / d score = onehot(c) - p,  d KL / d score = p (log p - log p_ref - KL)
                towards, away = weight[part], kl_weight[part, None]
                of_gap = found.scales * away
                of_p = found.scales * (away * (found.among - found.kl[:, None]) - towards[:, None])
                for number, (tile, p, p_gap) in enumerate(found.held):
                    p_gap.mul_(of_gap[:, number, None]).addcmul_(p, of_p[:, number, None])
                    tile.add_to_own_(p_gap, towards)
                    if grad_queries is not None:
                        grad_queries[part].addmm_(p_gap, keys[tile.items])
                    if grad_keys is not None:
                        grad_keys[tile.items].addmm_(p_gap.T, queries[part])
        ctx.save_for_backward(grad_queries, grad_keys)
        ctx.mark_non_differentiable(picked, divergence)
        return (weight * picked + kl_weight * divergence).sum(), picked, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if saved is None else saved * grad for saved in ctx.saved_tensors), *(None,) * 6)


def weighed_log_prob_and_kl(
    queries: Float[Tensor, "R d"],
    keys: Float[Tensor, "N d"],
    ref_queries: Float[Tensor, "R d"],
    ref_keys: Float[Tensor, "N d"],
    choice: Int[Tensor, " R"],
    weight: Float[Tensor, " R"],
    kl_weight: Float[Tensor, " R"],
) -> tuple[Float[Tensor, ""], Float[Tensor, " R"], Float[Tensor, " R"]]:
    """sum_r weight_r log p_r + kl_weight_r KL_r, to differentiate, and every row's log p and KL, which are not.

    Equals `log_prob_and_kl` and that sum of its results, with the same gradients; a third of the products is saved.

    Args:
        queries: (R, d) float.
        keys: (N, d) float; row i - 1 is item i.
        ref_queries: (R, d) float, the reference's; no gradient.
        ref_keys: (N, d) float, the reference's; no gradient.
        choice: (R,) int64 item ids 1..N.
        weight: (R,) float, of the choice's log-probability; no gradient.
        kl_weight: (R,) float, of the divergence sum_v p log(p / p_ref); no gradient.

    Raises:
        InputError: for shapes that do not fit or an id outside 1..N.
    """
    queries, keys = checked(queries, keys, choice=choice)
    ref_queries, ref_keys = checked_reference(ref_queries, ref_keys, queries, keys)
    for name, values in (("weight", weight), ("kl_weight", kl_weight)):
        if values.shape != choice.shape:
            raise InputError(f"{name} must be ({len(choice)},), one a row, got {tuple(values.shape)}")
    total, picked, divergence = _Weighed.apply(  # type: ignore[no-untyped-call]  # torch types no Function
        queries,
        keys,
        ref_queries,
        ref_keys,
        choice - 1,
        weight.detach().to(queries.dtype),
        kl_weight.detach().to(queries.dtype),
        torch.is_grad_enabled(),
    )
    return total, picked, divergence
