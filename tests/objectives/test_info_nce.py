"""InfoNCE: a naive loop, its closed form, its symmetries, its masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from latentloop.across_ranks import Share
from latentloop.data.batch import Batch
from latentloop.errors import InputError
from latentloop.objectives.info_nce import Similarity, align, info_nce, same_target_mask, symmetric_info_nce
from tests.core.worlds import unchecked
from tests.objectives.worlds import part_of, seeds, side_by_side

similarities = st.sampled_from(["cosine", "dot"])
EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64


def views(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    rows, dim = int(rng.integers(1, 9)), int(rng.integers(1, 6))
    x, y = (torch.from_numpy(rng.normal(size=(rows, dim))).to(dtype) for _ in range(2))
    return x, y, torch.from_numpy(rng.integers(1, 5, rows))


def naive(x: Tensor, y: Tensor, temperature: float, similarity: str, target: Tensor | None) -> float:
    def score(a: list[float], b: list[float]) -> float:
        product = sum(p * q for p, q in zip(a, b, strict=True))
        if similarity == "cosine":
            product /= math.sqrt(sum(p * p for p in a)) * math.sqrt(sum(q * q for q in b))
        return product / temperature

    total, rows = 0.0, len(x)
    for i in range(rows):
        candidates = [j for j in range(rows) if j == i or target is None or int(target[j]) != int(target[i])]
        scores = {j: score(x[i].tolist(), y[j].tolist()) for j in candidates}
        highest = max(scores.values())
        total += highest + math.log(sum(math.exp(s - highest) for s in scores.values())) - scores[i]
    return total / rows


@given(seed=seeds, temperature=st.sampled_from([0.05, 0.2, 1.0]), similarity=similarities, masked=st.booleans())
def test_it_is_the_naive_loop(seed: int, temperature: float, similarity: Similarity, masked: bool) -> None:
    x, y, target = views(seed)
    same = same_target_mask(target) if masked else None
    found = info_nce(x, y, temperature=temperature, similarity=similarity, same=same)
    other = info_nce(y, x, temperature=temperature, similarity=similarity, same=same)
    expected = naive(x, y, temperature, similarity, target if masked else None)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    both = symmetric_info_nce(x, y, temperature=temperature, similarity=similarity, same=same)
    torch.testing.assert_close(both, (found + other) / 2, **EXACT)


def dense(x: Tensor, y: Tensor, temperature: float, similarity: str, same: Tensor | None) -> Tensor:
    """Both ways in plain torch."""
    if similarity == "cosine":
        x, y = (view / view.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12) for view in (x, y))
    scores = x @ y.T / temperature
    if same is not None:
        scores = torch.where(same & ~torch.eye(len(x), dtype=torch.bool), -torch.inf, scores)
    rows = torch.arange(len(x))
    return (F.cross_entropy(scores, rows) + F.cross_entropy(scores.T, rows)) / 2


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@given(
    seed=seeds, temperature=st.sampled_from([0.05, 0.2, 1.0]), masked=st.booleans(),
    weight=st.sampled_from([-2.0, 0.5, 1.0]), scale=st.sampled_from([1e-14, 1.0, 1e8]),
)  # fmt: skip
def test_gradients_are_those_of_the_plain_loss(
    seed: int, temperature: float, similarity: Similarity, masked: bool, weight: float, scale: float
) -> None:
    """Of vectors too short to be divided by their norm as well; and theirs in turn, where they are differentiated."""
    x, y, target = views(seed)
    x[0] *= scale if similarity == "cosine" else 1.0
    x, y, same = x.requires_grad_(), y.requires_grad_(), same_target_mask(target) if masked else None
    loss, plain = (
        symmetric_info_nce(x, y, temperature=temperature, similarity=similarity, same=same),
        dense(x, y, temperature, similarity, same),
    )
    torch.testing.assert_close(loss, plain, **EXACT)
    expected = torch.autograd.grad(weight * plain, (x, y), create_graph=True)
    for found in (
        torch.autograd.grad(weight * loss, (x, y), retain_graph=True),
        torch.autograd.grad(weight * loss, (x, y), create_graph=True),
    ):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10 / min(1.0, scale))
    if scale == 1.0:
        twice = [
            torch.autograd.grad(sum(g.square().sum() for g in gradients), (x, y)) for gradients in (found, expected)
        ]
        for one, other in zip(*twice, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    (alone,) = torch.autograd.grad(
        symmetric_info_nce(x, y.detach(), temperature=temperature, similarity=similarity, same=same),
        (x,),
        create_graph=True,
    )
    torch.testing.assert_close(weight * alone, expected[0], rtol=1e-8, atol=1e-10 / min(1.0, scale))


def test_a_mask_of_another_shape_is_refused_both_ways() -> None:
    x, wrong = torch.randn(3, 4), torch.zeros(3, 2, dtype=torch.bool)
    with unchecked(), pytest.raises(InputError, match="same must be a bool mask"):
        symmetric_info_nce(x, x, temperature=1.0, same=wrong)


@given(seed=seeds, similarity=similarities)
def test_it_is_computed_in_float32_whatever_comes_in(seed: int, similarity: Similarity) -> None:
    x, y, target = views(seed, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = symmetric_info_nce(x, y, temperature=0.2, similarity=similarity, same=same_target_mask(target))
        one_way = info_nce(x, y, temperature=0.2, similarity=similarity, same=same_target_mask(target))
    assert found.dtype == one_way.dtype == torch.float32
    assert one_way.item() == pytest.approx(naive(x, y, 0.2, similarity, target), rel=1e-5, abs=1e-4)
    twice = naive(x, y, 0.2, similarity, target) + naive(y, x, 0.2, similarity, target)
    # float32: scores up to 60 over the temperature carry an error of 2^-24 each
    assert found.item() == pytest.approx(twice / 2, rel=1e-5, abs=1e-4)


@given(seed=seeds, similarity=similarities)
def test_equal_candidates_give_the_logarithm_of_their_number(seed: int, similarity: Similarity) -> None:
    x, y, _ = views(seed)
    alike = y[:1].expand_as(y)
    assert info_nce(x, alike, temperature=0.3, similarity=similarity).item() == pytest.approx(math.log(len(x)))


@given(seed=seeds, similarity=similarities)
def test_the_order_of_the_batch_and_of_the_views_do_not_matter(seed: int, similarity: Similarity) -> None:
    x, y, target = views(seed)
    same = same_target_mask(target)
    loss = symmetric_info_nce(x, y, temperature=0.2, similarity=similarity, same=same)
    swapped = symmetric_info_nce(y, x, temperature=0.2, similarity=similarity, same=same)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    shuffled = symmetric_info_nce(
        x[order], y[order], temperature=0.2, similarity=similarity, same=same_target_mask(target[order])
    )
    torch.testing.assert_close(swapped, loss, **EXACT)
    torch.testing.assert_close(shuffled, loss, **EXACT)


@given(seed=seeds, similarity=similarities)
def test_a_masked_duplicate_never_counts(seed: int, similarity: Similarity) -> None:
    x, y, target = views(seed)
    noise = torch.Generator().manual_seed(seed)
    x.requires_grad_(), y.requires_grad_()

    def row_losses(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Only the first row's two terms, through weights on the mean over rows."""
        count = len(x)
        rest = info_nce(x, y, temperature=0.2, similarity=similarity, same=same_target_mask(target)) * count
        return rest

    # one more row with the first one's target: the first row's own candidates stay what they were
    extra_x, extra_y = (torch.randn(1, x.shape[1], generator=noise, dtype=x.dtype).requires_grad_() for _ in range(2))
    alone = row_losses(x, y, target)
    grown = row_losses(torch.cat([x, extra_x]), torch.cat([y, extra_y]), torch.cat([target, target[:1]]))
    (seen,) = torch.autograd.grad(alone, x, retain_graph=True)
    (again,) = torch.autograd.grad(grown, x, retain_graph=True)
    torch.testing.assert_close(again[0], seen[0], **EXACT)
    # and the duplicate's y is nobody's negative among the rows of that target
    (pull,) = torch.autograd.grad(grown, extra_y, retain_graph=True)
    others = [i for i in range(len(x)) if int(target[i]) != int(target[0])]
    if not others:
        own = torch.cat([x, extra_x])[-1:].detach(), extra_y
        lonely = info_nce(*own, temperature=0.2, similarity=similarity)
        torch.testing.assert_close(pull, torch.autograd.grad(lonely, extra_y)[0], **EXACT)


@given(seed=seeds, similarity=similarities, masked=st.booleans(), world=st.integers(2, 3))
def test_the_candidates_are_the_rows_of_all_processes(
    seed: int, similarity: Similarity, masked: bool, world: int
) -> None:
    x, y, target = views(seed)
    whole = Batch(torch.ones(len(x), 1, dtype=torch.int64), target, torch.arange(len(x)), 0)
    settings: dict[str, Any] = {"temperature": 0.3, "similarity": similarity, "mask_same_target": masked}

    def loss(share: Share) -> float:
        batch = part_of(whole, share)
        return align(x[batch.rows], y[batch.rows], batch, **settings).item()

    naively = [naive(a, b, 0.3, similarity, target if masked else None) for a, b in ((x, y), (y, x))]
    for found in (align(x, y, whole, **settings).item(), *side_by_side(len(x), loss, world)):
        assert found == pytest.approx(sum(naively) / 2, rel=1e-9, abs=1e-9)


def test_what_processes_exchange_is_float32_and_has_gradients_in_all_of_them() -> None:
    x, y = (torch.randn(5, 4).bfloat16().requires_grad_() for _ in range(2))
    whole = Batch(torch.ones(5, 1, dtype=torch.int64), torch.tensor([1, 2, 1, 3, 4]), torch.arange(5), 0)
    settings: dict[str, Any] = {"temperature": 0.3, "similarity": "dot", "mask_same_target": True}
    wanted = torch.autograd.grad(align(x, y, whole, **settings), (x, y))
    first, _ = side_by_side(
        5, lambda share: align(x[share.rank :: 2], y[share.rank :: 2], part_of(whole, share), **settings)
    )
    assert first.dtype == torch.float32
    torch.testing.assert_close(torch.autograd.grad(first, (x, y)), wanted)


def test_two_rows_of_one_target_have_no_negative_left() -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    same = same_target_mask(torch.tensor([7, 7]))
    assert symmetric_info_nce(x, y, temperature=0.1, similarity="cosine", same=same).item() == 0
    assert symmetric_info_nce(x, y, temperature=0.1, similarity="cosine").item() > 0


def test_mistakes_are_named() -> None:
    x = torch.randn(3, 2)
    with unchecked():
        with pytest.raises(InputError, match="^temperature must be a finite number above 0, got 0"):
            info_nce(x, x, temperature=0)
        with pytest.raises(InputError, match="^similarity must be one of 'cosine', 'dot', got 'l2'"):
            info_nce(x, x, temperature=1.0, similarity="l2")  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"got \(3, 2\) and \(2, 2\)"):
            info_nce(x, x[:2], temperature=1.0)
        with pytest.raises(InputError, match=r"B >= 1, got \(0, 2\) and \(0, 2\)"):
            info_nce(x[:0], x[:0], temperature=1.0)
        with pytest.raises(InputError, match=r"bool mask \(3, 3\), got \(3, 2\)"):
            info_nce(x, x, temperature=1.0, same=torch.zeros(3, 2, dtype=torch.bool))
