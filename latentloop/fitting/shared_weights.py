"""Whether two models that are trained beside each other would train the same weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["shared_weight"]


def shared_weight(model: nn.Module, base: nn.Module) -> str | None:
    """A weight of both that one of them would train: what both leave frozen they may share, such as embedded texts."""
    learns: dict[int, bool] = {}
    for parameter in model.parameters():
        place = _place(parameter)
        learns[place] = learns.get(place, False) or parameter.requires_grad
    for name, parameter in base.named_parameters():
        place = _place(parameter)
        if place and place in learns and (parameter.requires_grad or learns[place]):
            return name
    return None


def _place(parameter: Tensor) -> int:
    """Where its numbers lie; 0 where it has none yet."""
    return 0 if is_lazy(parameter) else parameter.untyped_storage().data_ptr()
