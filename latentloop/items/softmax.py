"""Linear + softmax over all items, a tile of scores at a time: rows x items scores never exist at once.

    log p(r, v) = score(r, v) - log sum_u exp score(r, u)        score(r, v) = queries[r] . keys[v - 1], v = 1..N

Scores and log-sum-exp are float32 whatever comes in (float64 stays float64), also under autocast. Gradients equal those
of the dense computation; what a tile computed is recomputed in the backward pass instead of being kept.

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
from latentloop.items.tiles import RowNorms, TileMemory, row_chunks, tiles_of

__all__ = ["cross_entropy", "log_prob", "log_prob_and_kl"]


def _forward(queries: Tensor, keys: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row log p of `column` (R,), the highest score, and how far the log-sum-exp is above that."""
    log_p, (highest, above) = queries.new_empty(queries.shape[0]), queries.new_empty(2, queries.shape[0])
    memory = TileMemory(keep=False)
    for part in row_chunks(queries.shape[0], keys):
        tiles = tiles_of(column[part], keys)
        norms = RowNorms(queries, len(column[part]), len(tiles))
        for number, tile in enumerate(tiles):
            scores = memory.scores(queries[part], keys, tile.items)
            tile.read_own(scores, log_p[part])
            norms.exp_(scores, number)
        highest[part], above[part], _ = norms.close()
    return log_p.sub_(highest).sub_(above), highest, above


class _CrossEntropy(torch.autograd.Function):
    """Loss and, where wanted, its gradients in one pass over the chunks: backward only scales them."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, column: Tensor, grad: bool) -> Tensor:
        rows = queries.shape[0]
        grad_queries = torch.zeros_like(queries) if grad and ctx.needs_input_grad[0] else None
        grad_keys = torch.zeros_like(keys) if grad and ctx.needs_input_grad[1] else None
        with no_autocast(queries):
            if grad_queries is None and grad_keys is None:
                return -_forward(queries, keys, column)[0].mean()
            losses, memory = queries.new_empty(rows), TileMemory(keep=True)
            for part in row_chunks(rows, keys):
                tiles, of_part = tiles_of(column[part], keys), queries[part]
                own, norms, held = queries.new_empty(len(of_part)), RowNorms(queries, len(of_part), len(tiles)), []
                for number, tile in enumerate(tiles):
                    scores = memory.scores(of_part, keys, tile.items)
                    tile.read_own(scores, own)
                    held.append(norms.exp_(scores, number))
                highest, above, log_shares = norms.close()
                losses[part], scales = (highest - own) + above, norms.scales(log_shares)
                for number, (tile, probabilities) in enumerate(zip(tiles, held, strict=True)):
                    # d loss / d score = (p - onehot) / rows
                    if len(tiles) > 1 or not norms.scaled:  # else the scale is 1
                        probabilities.mul_(scales[:, number, None])
                    tile.add_to_own_(probabilities, -torch.ones_like(own))
                    if grad_queries is not None:
                        grad_queries[part].addmm_(probabilities, keys[tile.items], alpha=1 / rows)
                    if grad_keys is not None:
                        grad_keys[tile.items].addmm_(probabilities.T, of_part, alpha=1 / rows)
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
        with no_autocast(queries):
            log_p, highest, above = _forward(queries, keys, column)
        ctx.save_for_backward(queries, keys, column, highest, above)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, column, highest, above = ctx.saved_tensors
        grad_queries = torch.zeros_like(queries) if ctx.needs_input_grad[0] else None
        grad_keys = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        memory = TileMemory(keep=False)
        # d log p_c / d score = onehot(c) - p; what a row has in common goes onto the small side of each product
        weight, scale = (-grad * above.neg().exp())[:, None], above.exp()
        with no_autocast(queries):
            for part in row_chunks(queries.shape[0], keys):
                for tile in tiles_of(column[part], keys):
                    scores = memory.scores(queries[part], keys, tile.items)
                    scores.sub_(highest[part, None]).exp_()
                    tile.add_to_own_(scores, -scale[part])
                    if grad_queries is not None:
                        grad_queries[part].addcmul_(scores @ keys[tile.items], weight[part])
                    if grad_keys is not None:
                        grad_keys[tile.items].addmm_(scores.T, queries[part] * weight[part])
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
        rows = queries.shape[0]
        log_p, divergence, norm = (queries.new_empty(n) for n in (rows, rows, (4, rows)))
        highest, above, ref_highest, rest = norm
        with no_autocast(queries):
            diverge = ChunkDivergence(keys, ref_keys, keep=False)
            for part in row_chunks(rows, keys):
                found = diverge(queries[part], ref_queries[part], column[part])
                log_p[part], divergence[part] = (found.own - found.highest) - found.above, found.kl
                highest[part], above[part], ref_highest[part] = found.highest, found.above, found.ref_highest
                rest[part] = (found.above - found.ref_above) + found.kl
        ctx.save_for_backward(queries, keys, ref_queries, ref_keys, column, norm)
        return log_p, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_picked: Tensor, grad_divergence: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, ref_queries, ref_keys, column, (highest, above, ref_highest, rest) = ctx.saved_tensors
        grad_queries = torch.zeros_like(queries) if ctx.needs_input_grad[0] else None
        grad_keys = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        # d KL / d score = p (log p - log p_ref - KL), d log p_c / d score = onehot(c) - p; the highest scores are taken off
        # first, for how far both models' scores are from each other is no matter of a divergence, and would drown it
        scale = above.neg().exp_()
        of_gap, of_p = (grad_divergence * scale)[:, None], (-grad_picked * scale)[:, None]
        memory, gap_memory = TileMemory(keep=False), TileMemory(keep=False)
        with no_autocast(queries):
            for part in row_chunks(queries.shape[0], keys):
                for tile in tiles_of(column[part], keys):
                    scores = memory.scores(queries[part], keys, tile.items)
                    gap = gap_memory.scores(ref_queries[part], ref_keys, tile.items).sub_(ref_highest[part, None])
                    scores.sub_(highest[part, None])
                    torch.sub(scores, gap, out=gap).sub_(rest[part, None])
                    scores.exp_()
                    gap.mul_(scores).mul_(of_gap[part]).addcmul_(scores, of_p[part])
                    tile.add_to_own_(gap, grad_picked[part])
                    if grad_queries is not None:
                        grad_queries[part].addmm_(gap, keys[tile.items])
                    if grad_keys is not None:
                        grad_keys[tile.items].addmm_(gap.T, queries[part])
        return grad_queries, grad_keys, None, None, None


def log_prob_and_kl(
    queries: Float[Tensor, "R d"],
    keys: Float[Tensor, "N d"],
    ref_queries: Float[Tensor, "R d"],
    ref_keys: Float[Tensor, "N d"],
    choice: Int[Tensor, " R"],
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """`log_prob` and the full divergence sum_v pi log(pi / pi_ref) of each row, never R x N.

    Differentiable in `queries` and `keys` only: the reference is frozen. Exactly 0 where both are the same numbers; NaN
    where a score is infinite.

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
