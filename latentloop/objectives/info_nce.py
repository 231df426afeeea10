"""InfoNCE between two views of a batch (LARES eq. 8), in float32 whatever comes in.

Shapes: B rows, d latent size.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from latentloop.checks import above_zero, one_of
from latentloop.data.batch import Batch
from latentloop.errors import InputError

__all__ = ["Similarity", "align", "info_nce", "same_target_mask", "symmetric_info_nce"]

Similarity = Literal["cosine", "dot"]


def info_nce(
    x: Float[Tensor, "B d"],
    y: Float[Tensor, "B d"],
    *,
    temperature: float,
    similarity: Similarity = "cosine",
    same: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over rows of F(x_i, y_i, {y}): the candidates are the other view's B rows, not 2B - 1.

    Equals `-log(exp(s_ii / tau) / sum_j exp(s_ij / tau))` averaged, j over the rows with `same[i, j]` False and i.

    Args:
        x: (B, d) float.
        y: (B, d) float; row i is row i's positive.
        temperature: tau, above 0.
        similarity: "cosine" or "dot".
        same: (B, B) bool, symmetric; True where row j is a positive of row i too, which may not stand among its
            negatives. The diagonal always counts.

    Raises:
        InputError: for shapes that do not fit or a value out of range.
    """
    x, y = _checked(x, y, temperature, similarity, same)
    with torch.autocast(device_type=x.device.type, enabled=False):
        if similarity == "cosine":
            x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
        scores = (x @ y.T) / temperature
        if same is not None:
            diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(same & ~diagonal, -torch.inf)
        return (scores.logsumexp(1) - scores.diagonal()).mean()


def symmetric_info_nce(
    x: Float[Tensor, "B d"],
    y: Float[Tensor, "B d"],
    *,
    temperature: float,
    similarity: Similarity = "cosine",
    same: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """1/2 [info_nce(x, y) + info_nce(y, x)] from one matrix of scores (LARES eq. 8 and 9).

    The gradients are taken while the scores are there.

    Args:
        x: (B, d) float.
        y: (B, d) float; row i is row i's positive.
        temperature: tau, above 0.
        similarity: "cosine" or "dot".
        same: see `info_nce`.

    Raises:
        InputError: for shapes that do not fit or a value out of range.
    """
    x, y = _checked(x, y, temperature, similarity, same)
    with torch.autocast(device_type=x.device.type, enabled=False):
        loss: Tensor = _Symmetric.apply(  # type: ignore[no-untyped-call]  # torch types no Function
            x, y, temperature, similarity == "cosine", same, torch.is_grad_enabled()
        )
    return loss


class _Symmetric(torch.autograd.Function):
    """Loss and gradients in a third of the operations that autograd takes: launches, on an accelerator."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, temperature: float, cosine: bool, same: Tensor | None, grad: bool
    ) -> Tensor:
        (left, left_norm), (right, right_norm) = (_unit(view) if cosine else (view, None) for view in (x, y))
        one_way = torch.mm(left, right.T).div_(temperature)
        if same is not None:
            one_way.masked_fill_(same.logical_not().fill_diagonal_(True).logical_not_(), -torch.inf)
        # of rows that lie behind each other: on an H100 the softmax of columns took a hundred times as long
        other_way = torch.log_softmax(one_way.T.contiguous(), 1)
        one_way = torch.log_softmax(one_way, 1)
        loss = (0 - (one_way.diagonal() + other_way.diagonal()).mean()) / 2
        if not grad:
            return loss
        # d loss / d score = (p + p' - 2 onehot) / 2B
        gradient = one_way.exp_().add_(other_way.exp_().T)
        gradient.diagonal().sub_(2)
        gradient.div_(2 * len(x) * temperature)
        gradients = (
            _through_unit(gradient @ right, left, left_norm),
            _through_unit(gradient.T @ left, right, right_norm),
        )
        ctx.save_for_backward(*gradients, x, y, same)
        ctx.settings = {"temperature": temperature, "similarity": "cosine" if cosine else "dot"}
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_y, x, y, same = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return grad_x * grad, grad_y * grad, None, None, None, None
        # the gradients are to be differentiated themselves, which only autograd's own can be
        loss = (info_nce(x, y, same=same, **ctx.settings) + info_nce(y, x, same=same, **ctx.settings)) / 2
        wanted = [view for view in (x, y) if view.requires_grad]
        found = iter(torch.autograd.grad(loss, wanted, grad, create_graph=True))
        return (*(next(found) if view.requires_grad else None for view in (x, y)), None, None, None, None)


_TINY = 1e-12
"""The norm that shorter vectors are divided by, as `F.normalize` does."""


def _unit(view: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of length 1, and their norms (B, 1)."""
    norm = torch.linalg.vector_norm(view, dim=1, keepdim=True)
    return view / norm.clamp_min(_TINY), norm


def _through_unit(gradient: Tensor, unit: Tensor, norm: Tensor | None) -> Tensor:
    """The gradient before `_unit`, given that behind it: what points along the vector is lost."""
    if norm is None:
        return gradient
    along = (gradient * unit).sum(1, keepdim=True).mul_(norm > _TINY)
    return torch.addcmul(gradient, along, unit, value=-1).div_(norm.clamp_min(_TINY))


def align(
    x: Float[Tensor, "B d"],
    y: Float[Tensor, "B d"],
    batch: Batch,
    *,
    temperature: float,
    similarity: Similarity,
    mask_same_target: bool,
) -> Float[Tensor, ""]:
    """`symmetric_info_nce` over the rows of the whole step: those of all processes, where there are several.

    Args:
        x: (B, d) float.
        y: (B, d) float; row i is row i's positive.
        batch: what the rows are of.
        temperature: tau, above 0.
        similarity: "cosine" or "dot".
        mask_same_target: leave rows with the same target out of each other's negatives.

    Raises:
        InputError: for shapes that do not fit or a value out of range.
    """
    target = batch.target
    if batch.share is not None:
        x, y = (view.to(torch.promote_types(view.dtype, torch.float32)) for view in (x, y))
        x, y = batch.share.gather(torch.cat([x, y], 1)).chunk(2, 1)
        target = batch.share.gather(target) if mask_same_target else target
    same = same_target_mask(target) if mask_same_target else None
    return symmetric_info_nce(x, y, temperature=temperature, similarity=similarity, same=same)


def same_target_mask(target: Int[Tensor, " B"]) -> Bool[Tensor, "B B"]:
    """True where two rows have the same target."""
    return target[:, None] == target[None, :]


def _checked(x: Tensor, y: Tensor, temperature: float, similarity: str, same: Tensor | None) -> tuple[Tensor, Tensor]:
    above_zero("temperature", temperature)
    one_of("similarity", similarity, get_args(Similarity))
    if x.ndim != 2 or x.shape != y.shape or x.shape[0] < 1:
        raise InputError(f"the views must be (B, d) alike with B >= 1, got {tuple(x.shape)} and {tuple(y.shape)}")
    if same is not None and (same.shape != (len(x), len(x)) or same.dtype != torch.bool):
        raise InputError(f"same must be a bool mask {(len(x), len(x))}, got {tuple(same.shape)} {same.dtype}")
    x, y = (view.to(torch.promote_types(view.dtype, torch.float32)) for view in (x, y))
    return x, y
