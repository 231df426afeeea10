"""Linear + softmax over all items, a chunk of rows at a time: rows x items scores never exist at once.

    log p(r, v) = score(r, v) - log sum_u exp score(r, u)        score(r, v) = queries[r] . keys[v - 1], v = 1..N

Scores and log-sum-exp are float32 whatever comes in (float64 stays float64), also under autocast. Gradients equal those
of the dense computation; what a chunk computed is recomputed in the backward pass instead of being kept.

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

__all__ = ["cross_entropy", "log_prob", "log_prob_and_kl"]


def _softmax_(scores: Tensor, column: Tensor) -> Tensor:
    """Turn scores into probabilities in place; return log p of `column` (rows,), exact where p itself underflows."""
    picked, highest = pick(scores, column), scores.amax(1, keepdim=True)
    torch.softmax(scores, 1, out=scores)
    # the highest probability is at least 1 / N, so its logarithm is safe: -log-sum-exp(scores - highest)
    return (picked - highest + scores.amax(1, keepdim=True).log())[:, 0]


class _CrossEntropy(torch.autograd.Function):
    """Loss and, where wanted, its gradients in one pass over the chunks: backward only scales them."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, column: Tensor, grad: bool) -> Tensor:
        rows = queries.shape[0]
        grad_queries = torch.empty_like(queries) if grad and ctx.needs_input_grad[0] else None
        grad_keys = torch.zeros_like(keys) if grad and ctx.needs_input_grad[1] else None
        losses = queries.new_empty(rows)
        with no_autocast(queries):
            score = ChunkScorer(queries, keys)
            for part in chunks(rows, keys):
                probabilities = score(part)
                losses[part] = -_softmax_(probabilities, column[part])
                if grad_queries is None and grad_keys is None:
                    continue
                # d loss / d score = (p - onehot) / rows
                probabilities.scatter_add_(1, column[part, None], -torch.ones_like(probabilities[:, :1]))
                if grad_queries is not None:
                    torch.mm(probabilities, keys, out=grad_queries[part])
                if grad_keys is not None:
                    grad_keys.addmm_(probabilities.T, queries[part], alpha=1 / rows)
        if grad_queries is not None:
            grad_queries /= rows
        ctx.save_for_backward(grad_queries, grad_keys)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if saved is None else saved * grad for saved in ctx.saved_tensors), None, None)


def cross_entropy(
    queries: Float[Tensor, "R d"], keys: Float[Tensor, "N d"], target: Int[Tensor, " R"]
) -> Float[Tensor, ""]:
    """Mean next-item loss -log softmax(queries keys^T)[target] (LARES eq. 7), never R x N.

    Equals `F.cross_entropy(queries @ keys.T, target - 1)`, with the same gradients. torch's own
    `linear_cross_entropy` (2.13) does the same work; measured at its best chunk size it is not faster.

    Args:
        queries: (R, d) float, R >= 1.
        keys: (N, d) float; row i - 1 is item i.
        target: (R,) int64 item ids 1..N.

    Raises:
        InputError: for shapes that do not fit, no rows, or an id outside 1..N.
    """
    queries, keys = checked(queries, keys, target=target)
    if queries.shape[0] < 1:
        raise InputError("queries must hold at least one row, got none")
    loss: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch types no Function
        queries, keys, target - 1, torch.is_grad_enabled()
    )
    return loss


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, column: Tensor) -> Tensor:
        result = queries.new_empty(queries.shape[0])
        with no_autocast(queries):
            score = ChunkScorer(queries, keys)
            for part in chunks(queries.shape[0], keys):
                result[part] = _softmax_(score(part), column[part])
        ctx.save_for_backward(queries, keys, column)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, column = ctx.saved_tensors
        grad_queries = torch.empty_like(queries) if ctx.needs_input_grad[0] else None
        grad_keys = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        with no_autocast(queries):
            score = ChunkScorer(queries, keys)
            for part in chunks(queries.shape[0], keys):
                probabilities = score(part)
                torch.softmax(probabilities, 1, out=probabilities)
                # d log p_c / d score = onehot(c) - p; the row's factor goes onto the small side of each product
                probabilities.scatter_add_(1, column[part, None], -torch.ones_like(probabilities[:, :1]))
                factor = -grad[part, None]
                if grad_queries is not None:
                    grad_queries[part] = (probabilities @ keys) * factor
                if grad_keys is not None:
                    grad_keys.addmm_(probabilities.T, queries[part] * factor)
        return grad_queries, grad_keys, None


def log_prob(
    queries: Float[Tensor, "R d"], keys: Float[Tensor, "N d"], choice: Int[Tensor, " R"]
) -> Float[Tensor, " R"]:
    """Log-probability of one item a row, differentiable in queries and keys, never R x N.

    Equals `log_softmax(queries @ keys.T, 1)[arange(R), choice - 1]`; the backward pass recomputes the scores.

    Args:
        queries: (R, d) float.
        keys: (N, d) float; row i - 1 is item i.
        choice: (R,) int64 item ids 1..N.

    Raises:
        InputError: for shapes that do not fit or an id outside 1..N.
    """
    queries, keys = checked(queries, keys, choice=choice)
    result: Tensor = _LogProb.apply(queries, keys, choice - 1)  # type: ignore[no-untyped-call]  # as above
    return result


class _LogProbAndKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, ref_queries: Tensor, ref_keys: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor]:
        picked, divergence, offset = queries.new_empty(3, queries.shape[0])
        with no_autocast(queries):
            score, ref_score = ChunkScorer(queries, keys), ChunkScorer(ref_queries, ref_keys)
            for part in chunks(queries.shape[0], keys):
                log_p, norm = _log_softmax_(score(part), column[part])
                gap, ref_norm = _log_softmax_(ref_score(part), column[part])
                torch.sub(log_p, gap, out=gap)
                offset[part] = ref_norm - norm
                picked[part] = pick(log_p, column[part])[:, 0]
                divergence[part] = log_p.exp_().mul_(gap).sum(1)
        ctx.save_for_backward(queries, keys, ref_queries, ref_keys, column, offset - divergence)
        return picked, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_picked: Tensor, grad_divergence: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, ref_queries, ref_keys, column, offset = ctx.saved_tensors
        grad_queries = torch.empty_like(queries) if ctx.needs_input_grad[0] else None
        grad_keys = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        # d KL / d score = p (log p - log p_ref - KL), d log p_c / d score = onehot(c) - p; log p - log p_ref is the gap
        # of the scores and that of the norms, which forward knew
        added = grad_divergence * offset - grad_picked
        with no_autocast(queries):
            score, ref_score = ChunkScorer(queries, keys), ChunkScorer(ref_queries, ref_keys)
            for part in chunks(queries.shape[0], keys):
                scores, gap = score(part), ref_score(part)
                torch.sub(scores, gap, out=gap).mul_(grad_divergence[part, None]).add_(added[part, None])
                gap.mul_(torch.softmax(scores, 1, out=scores))
                gap.scatter_add_(1, column[part, None], grad_picked[part, None])
                if grad_queries is not None:
                    torch.mm(gap, keys, out=grad_queries[part])
                if grad_keys is not None:
                    grad_keys.addmm_(gap.T, queries[part])
        return grad_queries, grad_keys, None, None, None


def _log_softmax_(scores: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Turn scores into log-probabilities in place; return them and the log-sum-exp (rows,) of the scores."""
    picked = pick(scores, column)[:, 0]
    torch.log_softmax(scores, 1, out=scores)
    return scores, picked - pick(scores, column)[:, 0]


def log_prob_and_kl(
    queries: Float[Tensor, "R d"],
    keys: Float[Tensor, "N d"],
    ref_queries: Float[Tensor, "R d"],
    ref_keys: Float[Tensor, "N d"],
    choice: Int[Tensor, " R"],
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """`log_prob` and the full divergence sum_v pi log(pi / pi_ref) of each row, never R x N.

    Differentiable in `queries` and `keys` only: the reference is frozen. Exactly 0 where both are the same numbers.

    Args:
        queries: (R, d) float.
        keys: (N, d) float; row i - 1 is item i.
        ref_queries: (R, d) float, the reference's.
        ref_keys: (N, d) float, the reference's.
        choice: (R,) int64 item ids 1..N.

    Raises:
        InputError: for shapes that do not fit or an id outside 1..N.
    """
    queries, keys = checked(queries, keys, choice=choice)
    ref_queries, ref_keys = checked_reference(ref_queries, ref_keys, queries, keys)
    picked, divergence = _LogProbAndKL.apply(  # type: ignore[no-untyped-call]  # as above
        queries, keys, ref_queries, ref_keys, choice - 1
    )
    return picked, divergence
