"""Numbers that broke: what training raises, and the check of weights before they are measured or kept."""

from __future__ import annotations

import torch
from torch import nn

from latentloop.errors import InputError

__all__ = ["NotFinite", "ScoresBroke", "check_weights"]


class NotFinite(RuntimeError):
    """Training met NaN or infinity; the message names the step, the term and what the model was left with.

    Args:
        message: one line.
        learned: whether weights had changed before, so that the way they are changed may be to blame.
    """

    def __init__(self, message: str, *, learned: bool = True) -> None:
        super().__init__(message)
        self.learned = learned


class ScoresBroke(InputError):
    """Scores that are to be ranked are no numbers: in training that is `NotFinite`."""


@torch.no_grad()
def check_weights(model: nn.Module, step: int) -> None:
    """Refuse trained weights that are no numbers, with one transfer from their device.

    Args:
        model: its parameters that are trained are looked at.
        step: optimizer steps done, for the message.

    Raises:
        NotFinite: where one is NaN or infinite.
    """
    each = [parameter.isfinite().all() for parameter in model.parameters() if parameter.requires_grad]
    if each and not bool(torch.stack(each).all()):
        raise NotFinite(f"weights are no numbers after step {step}", learned=step > 1)
