"""A module that promises what does not hold is refused when a model is built around it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from latentloop.adapt import adapt
from latentloop.errors import InputError
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth

D, LENGTH = 8, 6


class Mean(nn.Module):
    """The mean of a row's positions: of all of them, or of those up to each; with or without padding among them."""

    def __init__(self, *, running: bool, counts_padding: bool, causal: bool, pad_invariant: bool) -> None:
        super().__init__()
        self.project = nn.Linear(D, D)
        self.running, self.counts_padding = running, counts_padding
        self.causal, self.pad_invariant = causal, pad_invariant

    def forward(self, x: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
        keep = torch.ones_like(x[..., :1])
        if padding_mask is not None and not self.counts_padding:
            keep = (~padding_mask)[..., None].to(x.dtype)
        total, count = (self.project(x) * keep).cumsum(1), keep.cumsum(1)
        if not self.running:
            total, count = total[:, -1:].expand_as(x), count[:, -1:]
        return torch.nn.functional.gelu(total / count.clamp_min(1))


def built(core: nn.Module) -> Recommender:
    return Recommender(20, RecurrentDepth(nn.GRU(D, D, batch_first=True), core), D, LENGTH)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("counts_padding", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pad_invariant", [True, False])
def test_only_what_is_promised_must_hold(
    running: bool, counts_padding: bool, causal: bool, pad_invariant: bool
) -> None:
    mean = Mean(running=running, counts_padding=counts_padding, causal=causal, pad_invariant=pad_invariant)
    broken = [
        fact
        for fact, promised, holds in (("causal", causal, running), ("pad_invariant", pad_invariant, not counts_padding))
        if promised and not holds
    ]
    if not broken:
        assert built(mean).encode(torch.tensor([[0, 0, 1, 2, 3, 4]])).shape == (1, D)
        return
    with pytest.raises(InputError, match=f"^Mean declares {broken[0]} = True") as caught:
        built(mean)
    assert "\n" not in str(caught.value)


def test_numbers_of_few_digits_are_not_compared() -> None:
    liar = Mean(running=False, counts_padding=True, causal=True, pad_invariant=True)
    with pytest.raises(InputError):
        adapt(liar).try_out(D, LENGTH)
    adapt(liar.half()).try_out(D, LENGTH)


class NormedAverage(nn.Module):
    """Causal once its batch norm has learned."""

    causal = True

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(D)

    def forward(self, x: Tensor) -> Tensor:
        averages: Tensor = self.norm(x.cumsum(1).transpose(1, 2)).transpose(1, 2)
        return averages


def test_a_batch_norm_that_learns_breaks_no_promise() -> None:
    core = NormedAverage()
    model = built(core)
    assert core.training and model.encode(torch.tensor([[0, 0, 1, 2, 3, 4]])).shape == (1, D)


class Drawing(nn.Module):
    """Draws at each call, so that no two answers are alike, whatever it sees."""

    causal = True

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def test_what_draws_anew_is_believed() -> None:
    assert built(Drawing()).encode(torch.tensor([[0, 0, 1, 2, 3, 4]])).shape == (1, D)


def test_a_single_position_tells_nothing_of_a_promise() -> None:
    wrong = {"running": False, "counts_padding": False, "causal": True, "pad_invariant": False}
    with pytest.raises(InputError, match="^Mean declares causal = True"):
        Recommender(20, Mean(**wrong), D, 3)
    model = Recommender(20, Mean(**wrong), D, 1)
    assert model.encode(torch.tensor([[3], [4]])).shape == (2, D)
