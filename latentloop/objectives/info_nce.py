"""InfoNCE between two views of a batch (LARES eq. 8), in float32 whatever comes in.

Shapes: B rows, d latent size.
"""

from __future__ import annotations

from typing import Literal, get_args

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
    with torch.autocast(device_type=x.device.type, enabled=False):
        scores = _scores(x, y, temperature, similarity, same)
        return _loss(scores, 1)


def symmetric_info_nce(
    x: Float[Tensor, "B d"],
    y: Float[Tensor, "B d"],
    *,
    temperature: float,
    similarity: Similarity = "cosine",
    same: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """1/2 [info_nce(x, y) + info_nce(y, x)] from one matrix of scores (LARES eq. 8 and 9).

    Args:
        x: (B, d) float.
        y: (B, d) float; row i is row i's positive.
        temperature: tau, above 0.
        similarity: "cosine" or "dot".
        same: see `info_nce`.

    Raises:
        InputError: for shapes that do not fit or a value out of range.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        scores = _scores(x, y, temperature, similarity, same)
        return (_loss(scores, 1) + _loss(scores, 0)) / 2


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


def _loss(scores: Tensor, candidates: int) -> Tensor:
    return (scores.logsumexp(candidates) - scores.diagonal()).mean()


def _scores(x: Tensor, y: Tensor, temperature: float, similarity: str, same: Tensor | None) -> Tensor:
    above_zero("temperature", temperature)
    one_of("similarity", similarity, get_args(Similarity))
    if x.ndim != 2 or x.shape != y.shape or x.shape[0] < 1:
        raise InputError(f"the views must be (B, d) alike with B >= 1, got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = (view.to(torch.promote_types(view.dtype, torch.float32)) for view in (x, y))
    if similarity == "cosine":
        x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    scores = (x @ y.T) / temperature
    if same is None:
        return scores
    if same.shape != scores.shape or same.dtype != torch.bool:
        raise InputError(f"same must be a bool mask {tuple(scores.shape)}, got {tuple(same.shape)} {same.dtype}")
    diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return scores.masked_fill(same & ~diagonal, -torch.inf)
