"""The policy's arithmetic (LARES eq. 11-12), on tensors alone.

Shapes: k steps, R rollouts.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["KL", "Policy", "Ratio", "clipped", "mean_over_steps", "ratios", "surrogate", "target_kl"]

Policy = Literal["target", "hybrid", "top"]
Ratio = Literal["joint", "step"]
KL = Literal["full", "target"]

# exp of more overflows float32, and then 0 x infinity makes NaN of a gradient that the clip has stopped
_LARGEST_LOG = 80.0


def mean_over_steps(values: Float[Tensor, "k R"], live: Bool[Tensor, "k R"]) -> Float[Tensor, " R"]:
    """The mean over the steps that a rollout has taken."""
    return (values * live).sum(0) / live.sum(0)


def ratios(
    new: Float[Tensor, "k R"], old: Float[Tensor, "k R"], live: Bool[Tensor, "k R"], form: Ratio
) -> Float[Tensor, "_ R"]:
    """P = pi / pi_old: (1, R) of the rollout's joint probability, or (k, R), one a step.

    log P is cut at 80: e^89 is infinite in float32, and 0 x infinity would make NaN of a gradient that the clip has
    stopped. So P never exceeds e^80, and beyond it has no gradient, for A < 0 neither, where the clip alone would let
    one pass. No P below is changed.

    Args:
        new: log pi of each step's choice.
        old: log pi_old of it.
        live: steps that count.
        form: "joint" or "step".
    """
    gap = (new - old) * live
    if form == "joint":
        gap = gap.sum(0, keepdim=True)
    return gap.clamp(max=_LARGEST_LOG).exp()


def surrogate(
    ratio: Float[Tensor, "s R"], advantage: Float[Tensor, " R"], live: Bool[Tensor, "k R"], clip: float
) -> Float[Tensor, " R"]:
    """min(P A, clip(P, 1 - eps, 1 + eps) A); of ratios by step, the mean over a rollout's steps."""
    # not by minimum and clamp, whose gradients where both are equal are another torch's choice
    edge = (1 + clip * advantage.sign()) * advantage
    bounded = torch.where(clipped(ratio, advantage, clip), edge, ratio * advantage)
    return bounded[0] if len(ratio) == 1 else mean_over_steps(bounded, live)


def clipped(ratio: Float[Tensor, "s R"], advantage: Float[Tensor, " R"], clip: float) -> Bool[Tensor, "s R"]:
    """Where the clip stops the gradient: A > 0 and P > 1 + eps, or A < 0 and P < 1 - eps."""
    return ((advantage > 0) & (ratio > 1 + clip)) | ((advantage < 0) & (ratio < 1 - clip))


def target_kl(new: Float[Tensor, "k R"], reference: Float[Tensor, "k R"]) -> Float[Tensor, "k R"]:
    """exp(d) - d - 1, d = log pi_ref(target) - log pi(target).

    A penalty that is 0 at the reference and not below; not an estimate of the divergence, because the target is not
    sampled from pi. d is cut at 80, as in `ratios`.
    """
    gap = (reference - new).clamp(max=_LARGEST_LOG)
    return torch.expm1(gap) - gap
