"""A policy's gradient and its divergence from a reference in one pass over the chunks of scores.

Where it is known beforehand what a log-probability and a divergence will weigh in the loss (at the first update of a
batch of rollouts the ratio is 1), the gradient can be taken while a chunk's scores are there. Without that, backward
has to compute both models' scores again: `item_softmax.log_prob_and_kl`, with half as many products more.

Shapes: R rows, N items, d latent size.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from latentloop.errors import InputError
from latentloop.item_scores import ChunkScorer, checked, checked_reference, chunks, no_autocast, pick

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
        grad_queries = torch.empty_like(queries) if grad and ctx.needs_input_grad[0] else None
        grad_keys = torch.zeros_like(keys) if grad and ctx.needs_input_grad[1] else None
        picked, divergence = queries.new_empty(2, rows)
        with no_autocast(queries):
            score, ref_score = ChunkScorer(queries, keys), ChunkScorer(ref_queries, ref_keys)
            gap_buffer: Tensor | None = None
            for part in chunks(rows, keys):
                scores, ref_scores = score(part), ref_score(part)
                if gap_buffer is None:
                    gap_buffer = torch.empty_like(scores)
                gap = torch.sub(scores, ref_scores, out=gap_buffer[: len(scores)])
                of_choice, norm = _softmax_(scores, column[part])
                picked[part] = of_choice - norm
                # sum p (log p - log p_ref), the norms taken out of the sum; 0 where both models are the same numbers
                gap.sub_((norm - _softmax_(ref_scores, column[part])[1])[:, None]).mul_(scores)
                divergence[part] = gap.sum(1)
                if grad_queries is None and grad_keys is None:
                    continue
                # d log p_c / d score = onehot(c) - p,  d KL / d score = p (log p - log p_ref - KL)
                towards, away = weight[part, None], kl_weight[part, None]
                gap.mul_(away).addcmul_(scores, away * -divergence[part, None] - towards)
                gap.scatter_add_(1, column[part, None], towards)
                if grad_queries is not None:
                    torch.mm(gap, keys, out=grad_queries[part])
                if grad_keys is not None:
                    grad_keys.addmm_(gap.T, queries[part])
        ctx.save_for_backward(grad_queries, grad_keys)
        ctx.mark_non_differentiable(picked, divergence)
        return (weight * picked + kl_weight * divergence).sum(), picked, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if saved is None else saved * grad for saved in ctx.saved_tensors), *(None,) * 6)


def _softmax_(scores: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Turn scores into probabilities in place; return the score of `column` and the log-sum-exp of each row."""
    picked, highest = pick(scores, column)[:, 0], scores.amax(1)
    torch.softmax(scores, 1, out=scores)
    # the highest probability is at least 1 / N, so its logarithm is safe: highest - log-sum-exp
    return picked, highest - scores.amax(1).log()


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
