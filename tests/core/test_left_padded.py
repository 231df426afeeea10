"""Rows padded on the other side are refused, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import vmap

from latentloop.errors import InputError
from latentloop.recurrence import RecurrentDepth
from tests.core.worlds import unchecked

D = 4
X = torch.zeros(2, 3, D)


def loop() -> RecurrentDepth:
    return RecurrentDepth(nn.GRU(D, D, batch_first=True), nn.Identity(), dim=D)


@pytest.mark.parametrize(
    ("context", "said"),
    [
        (
            {"padding_mask": torch.tensor([[True, False, False], [False, False, True]])},
            "row 1 has padding after an item",
        ),
        ({"history": torch.tensor([[1, 0, 2], [1, 2, 3]])}, "row 0 has padding after an item"),
        ({"lengths": torch.tensor([3, -1])}, r"lengths must lie in 0\.\.3, found -1"),
        ({"lengths": torch.tensor([4, 0])}, r"lengths must lie in 0\.\.3, found 4"),
    ],
)
def test_padding_on_the_other_side_is_refused(context: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        loop()(X, **context)


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_padding_on_our_side_is_not(lengths: list[int]) -> None:
    real = torch.tensor(lengths)
    mask = torch.arange(5) < 5 - real[:, None]
    x = torch.randn(len(lengths), 5, D)
    told = ({"padding_mask": mask}, {"lengths": real}, {"history": (~mask).long()}, {})
    found = [RecurrentDepth(nn.Identity(), nn.Identity(), dim=D)(x, **context) for context in told]
    assert all(each.shape == x.shape for each in found)


def test_what_is_no_mask_is_told_where_masks_are_read() -> None:
    with unchecked(), pytest.raises(InputError, match="padding_mask must be bool"):
        loop()(X, padding_mask=torch.zeros(2, 3))


def test_where_values_may_not_decide_nothing_is_looked_at() -> None:
    model = RecurrentDepth(nn.Identity(), nn.Linear(D, D), dim=D)
    x, mask = torch.randn(5, 2, 3, D), torch.zeros(5, 2, 3, dtype=torch.bool)

    def one(x: Tensor, mask: Tensor) -> Tensor:
        answer: Tensor = model(x, padding_mask=mask, depth=2)
        return answer

    torch.testing.assert_close(vmap(one)(x, mask), torch.stack([one(*pair) for pair in zip(x, mask, strict=True)]))
