"""Linear + softmax over all items, a chunk of rows at a time: rows x items scores never exist at once.

    score(r, v) = queries[r] . keys[v - 1]        v = 1..N

Scores and log-sum-exp are float32 whatever comes in (float64 stays float64), also under autocast. Gradients equal those
of the dense computation; what a chunk computed is recomputed in the backward pass instead of being kept.

Shapes: R rows, N items, d latent size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from latentloop.errors import InputError

__all__ = ["count_ranks", "cross_entropy", "log_prob", "log_prob_and_kl", "top1"]

# Scores held at once. On two CPU cores chunks that stay in the last-level cache are fastest (4,344 to 24,587 items,
# d 64: up to 1.5 times as fast as dense); an accelerator wants few, large kernels instead.
_CPU_BUDGET = 2**20
_ACCELERATOR_BUDGET = 2**25
_LEAST_ROWS = 16  # a product of fewer rows reads all keys for too little work; 16 x N is below the keys' own N x d


def _chunks(rows: int, keys: Tensor) -> Iterator[slice]:
    budget = _CPU_BUDGET if keys.device.type == "cpu" else _ACCELERATOR_BUDGET
    size = max(_LEAST_ROWS, budget // max(1, keys.shape[0]))
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))


class _Scorer:
    """Chunks of scores, written into one buffer: allocating afresh costs more than the product itself."""

    def __init__(self, queries: Tensor, keys: Tensor) -> None:
        self.queries, self.keys = queries, keys.T
        self.buffer: Tensor | None = None

    def __call__(self, rows: slice) -> Tensor:
        queries = self.queries[rows]
        if self.buffer is None:
            self.buffer = queries.new_empty(queries.shape[0], self.keys.shape[1])
        return torch.mm(queries, self.keys, out=self.buffer[: queries.shape[0]])


def _no_autocast(tensor: Tensor) -> torch.autocast:
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _checked(queries: Tensor, keys: Tensor, **ids: Tensor) -> tuple[Tensor, Tensor]:
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise InputError(
            f"queries and keys must be (rows, d) and (items, d), got {tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    if keys.shape[0] < 1:
        raise InputError("keys must hold at least one item, got none")
    for name, values in ids.items():
        if values.shape != queries.shape[:1] or values.dtype != torch.int64:
            raise InputError(
                f"{name} must be {queries.shape[0]} int64 item ids, one a row, got {tuple(values.shape)} {values.dtype}"
            )
        _check_ids(name, values, keys.shape[0])
    queries, keys = _wide(queries), _wide(keys)
    dtype = torch.promote_types(queries.dtype, keys.dtype)
    return queries.to(dtype), keys.to(dtype)


def _check_ids(name: str, ids: Tensor, num_items: int) -> None:
    if ids.numel():
        low, high = (int(bound) for bound in torch.aminmax(ids))
        if low < 1 or high > num_items:
            raise InputError(f"{name} must hold item ids 1..{num_items}, found {low if low < 1 else high}")


def _pick(scores: Tensor, column: Tensor) -> Tensor:
    return scores.gather(1, column[:, None])


def _softmax_(scores: Tensor, column: Tensor) -> Tensor:
    """Turn scores into probabilities in place; return log p of `column` (rows,), exact where p itself underflows."""
    picked, highest = _pick(scores, column), scores.amax(1, keepdim=True)
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
        with _no_autocast(queries):
            score = _Scorer(queries, keys)
            for part in _chunks(rows, keys):
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
    queries, keys = _checked(queries, keys, target=target)
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
        with _no_autocast(queries):
            score = _Scorer(queries, keys)
            for part in _chunks(queries.shape[0], keys):
                result[part] = _softmax_(score(part), column[part])
        ctx.save_for_backward(queries, keys, column)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, column = ctx.saved_tensors
        grad_queries = torch.empty_like(queries) if ctx.needs_input_grad[0] else None
        grad_keys = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        with _no_autocast(queries):
            score = _Scorer(queries, keys)
            for part in _chunks(queries.shape[0], keys):
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
    queries, keys = _checked(queries, keys, choice=choice)
    result: Tensor = _LogProb.apply(queries, keys, choice - 1)  # type: ignore[no-untyped-call]  # as above
    return result


class _LogProbAndKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, ref_queries: Tensor, ref_keys: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor]:
        picked, divergence, offset = queries.new_empty(3, queries.shape[0])
        with _no_autocast(queries):
            score, ref_score = _Scorer(queries, keys), _Scorer(ref_queries, ref_keys)
            for part in _chunks(queries.shape[0], keys):
                log_p, norm = _log_softmax_(score(part), column[part])
                gap, ref_norm = _log_softmax_(ref_score(part), column[part])
                torch.sub(log_p, gap, out=gap)
                offset[part] = ref_norm - norm
                picked[part] = _pick(log_p, column[part])[:, 0]
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
        with _no_autocast(queries):
            score, ref_score = _Scorer(queries, keys), _Scorer(ref_queries, ref_keys)
            for part in _chunks(queries.shape[0], keys):
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
    picked = _pick(scores, column)[:, 0]
    torch.log_softmax(scores, 1, out=scores)
    return scores, picked - _pick(scores, column)[:, 0]


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
    queries, keys = _checked(queries, keys, choice=choice)
    ref_queries, ref_keys = _checked(ref_queries.detach(), ref_keys.detach())
    if ref_queries.shape[0] != queries.shape[0] or ref_keys.shape[0] != keys.shape[0]:
        found = f"{ref_queries.shape[0]} rows and {ref_keys.shape[0]} items"
        raise InputError(f"the reference must have {queries.shape[0]} rows and {keys.shape[0]} items, got {found}")
    picked, divergence = _LogProbAndKL.apply(  # type: ignore[no-untyped-call]  # as above
        queries, keys, ref_queries.to(queries.dtype), ref_keys.to(queries.dtype), choice - 1
    )
    return picked, divergence


@torch.no_grad()
def top1(
    queries: Float[Tensor, "R d"], keys: Float[Tensor, "N d"], exclude: Int[Tensor, " R"] | None = None
) -> Int[Tensor, " R"]:
    """The highest-scored item of each row, ids 1..N; among equals any of them.

    Args:
        queries: (R, d) float.
        keys: (N, d) float; row i - 1 is item i.
        exclude: (R,) int64, one item a row that may not be the answer.

    Raises:
        InputError: for shapes that do not fit, an id outside 1..N, or nothing left to choose.
    """
    queries, keys = _checked(queries, keys, **({} if exclude is None else {"exclude": exclude}))
    if exclude is not None and keys.shape[0] < 2:
        raise InputError("exclude leaves nothing to choose from: keys holds one item")
    best = torch.empty(queries.shape[0], dtype=torch.int64, device=queries.device)
    with _no_autocast(queries):
        score = _Scorer(queries, keys)
        for part in _chunks(queries.shape[0], keys):
            scores = score(part)
            if exclude is not None:
                scores.scatter_(1, exclude[part, None] - 1, -torch.inf)
            best[part] = scores.argmax(1) + 1
    return best


@torch.no_grad()
def count_ranks(
    queries: Float[Tensor, "R d"],
    keys: Float[Tensor, "N d"],
    target: Int[Tensor, " R"],
    *,
    exclude: tuple[Int[Tensor, " n"], Int[Tensor, " R1"]] | None = None,
) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"]]:
    """How many items score above the target, and how many others exactly as high.

    Equals `scores = queries @ keys.T; own = scores[target - 1]; (scores > own).sum(), (scores == own).sum() - 1` for
    each row. Items with the same key score the same to the last bit here, which a matrix product alone does not
    promise: its kernels sum the columns at the edge of a block in another order.

    Args:
        queries: (R, d) float.
        keys: (N, d) float; row i - 1 is item i.
        target: (R,) int64 item ids 1..N.
        exclude: items left out of the ranking: (flat ids, offsets (R + 1,)), row r's are
            `flat[offsets[r]:offsets[r + 1]]`; repeats are fine, and the target is never left out.

    Raises:
        InputError: for shapes that do not fit, an id outside 1..N, or a score that is NaN.
    """
    queries, keys = _checked(queries, keys, target=target)
    rows = queries.shape[0]
    greater = torch.empty(rows, dtype=torch.int64, device=queries.device)
    ties = torch.empty_like(greater)
    may_be_nan = _may_be_nan(queries, keys)
    copies, originals = _same_keys(keys)
    bounds = _check_exclude(exclude, rows, keys.shape[0]) if exclude is not None else []
    with _no_autocast(queries):
        score = _Scorer(queries, keys)
        for part in _chunks(rows, keys):
            scores = score(part)
            if may_be_nan and bool((bad := scores.isnan().any(1)).any()):
                row = part.start + int(bad.nonzero()[0])
                raise InputError(f"scores must be numbers, found NaN in row {row}: the model has diverged")
            if copies.numel():
                scores.index_copy_(1, copies, scores.index_select(1, originals))
            own = _pick(scores, target[part] - 1)
            if exclude is not None:
                flat, offsets = exclude
                hidden = flat[bounds[part.start] : bounds[part.stop]]
                row_of = torch.repeat_interleave(offsets[part.start : part.stop + 1].diff())
                # below any number; NaN, where a score may itself be infinite, is neither above nor equal to anything
                scores[row_of, hidden - 1] = torch.nan if may_be_nan else -torch.inf
                scores.scatter_(1, target[part, None] - 1, own)
            greater[part], ties[part] = _count(scores, own, may_be_nan)
    return greater, ties


def _count(scores: Tensor, own: Tensor, may_be_nan: bool) -> tuple[Tensor, Tensor]:
    """Columns above `own` (rows, 1), and others equal to it; overwrites `scores`."""
    items = scores.shape[1]
    if may_be_nan or items > 2**24:
        return (scores > own).sum(1), (scores == own).sum(1) - 1
    # the same through signs, whose float32 sums are exact up to 2^24 of them: half the time of counting booleans
    balance = scores.sub_(own).sign_().sum(1)
    unequal = scores.abs_().sum(1)
    return ((unequal + balance) / 2).long(), items - 1 - unequal.long()


def _may_be_nan(queries: Tensor, keys: Tensor) -> bool:
    """False where the norms rule it out (|q . k| <= |q| |k|, and no partial sum is larger): saves a pass over scores."""
    if not queries.numel():
        return False
    bound = queries.norm(dim=1).amax() * keys.norm(dim=1).amax()
    return not bool(bound < torch.finfo(bound.dtype).max / 2)


def _check_exclude(exclude: tuple[Tensor, Tensor], rows: int, num_items: int) -> list[int]:
    flat, offsets = exclude
    bounds: list[int] = offsets.tolist()
    if len(bounds) != rows + 1 or bounds[0] != 0 or bounds[-1] != flat.numel() or bool((offsets.diff() < 0).any()):
        raise InputError(f"exclude must be (flat ids, offsets) with {rows + 1} rising offsets from 0 to {flat.numel()}")
    _check_ids("exclude", flat, num_items)
    return bounds


def _same_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Columns whose key equals an earlier one, bit for bit, and for each the first such column."""
    width = torch.int64 if keys.dtype == torch.float64 else torch.int32
    mixer = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (keys.shape[1],), generator=mixer).to(keys.device) * 2 + 1
    hashes = torch.empty(keys.shape[0], dtype=torch.int64, device=keys.device)
    step = max(1, _ACCELERATOR_BUDGET // max(1, keys.shape[1]))
    for start in range(0, keys.shape[0], step):
        bits = (keys[start : start + step] + 0.0).view(width).long() * weights  # + 0.0: minus zero becomes zero
        hashes[start : start + step] = ((bits ^ (bits >> 29)) * weights).sum(1)
    values, order = hashes.sort(stable=True)
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    if bool(first.all()):
        return order[:0], order[:0]
    leader = order[first][first.cumsum(0) - 1]
    copies, originals = order[~first], leader[~first]
    equal = (keys[copies] == keys[originals]).all(1)  # two keys of one hash that differ keep their own scores
    return copies[equal], originals[equal]
