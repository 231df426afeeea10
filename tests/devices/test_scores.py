"""Losses, ranks and rewards on every device, as dense float64 formulas and loops have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from latentloop.items.policy import weighed_log_prob_and_kl
from latentloop.items.ranks import count_ranks, top1
from latentloop.items.softmax import cross_entropy, log_prob, log_prob_and_kl
from latentloop.items.top_k import top_k
from latentloop.objectives.advantages import advantages
from latentloop.objectives.info_nce import info_nce
from latentloop.objectives.rewards import NDCGReward, RecallReward
from tests.devices.worlds import close, normal, numbers


def test_softmax_over_items_equals_the_dense_one(device: torch.device) -> None:
    queries, keys, target = normal(12, 16), normal(40, 16, seed=1), numbers(40, 12)
    ref_queries, ref_keys = normal(12, 16, seed=2), normal(40, 16, seed=3)
    weight, kl_weight = normal(12, seed=4), normal(12, seed=5).abs()
    rows = torch.arange(12)
    q, k = (one.double().requires_grad_() for one in (queries, keys))
    log_p = (q @ k.T).log_softmax(1)
    log_ref = (ref_queries.double() @ ref_keys.double().T).log_softmax(1)
    picked, divergence = log_p[rows, target - 1], (log_p.exp() * (log_p - log_ref)).sum(1)
    weighed = (weight.double() * picked + kl_weight.double() * divergence).sum()
    moved = [one.to(device) for one in (ref_queries, ref_keys, target, weight, kl_weight)]

    def check(function: Callable[..., Any], expected: tuple[Tensor, ...], factors: tuple[Tensor | None, ...]) -> None:
        """Values, and gradients of their sum with these factors; None is not to be differentiated."""
        x, y = (one.detach().clone().to(device).requires_grad_() for one in (queries, keys))
        found = function(x, y)
        found = found if isinstance(found, tuple) else (found,)
        for value, wanted in zip(found, expected, strict=True):
            close(value, wanted)
        wanted = sum((w * f.double()).sum() for w, f in zip(expected, factors, strict=True) if f is not None)
        sum((v * f.to(device)).sum() for v, f in zip(found, factors, strict=True) if f is not None).backward()
        for one, gradient in zip((x, y), torch.autograd.grad(wanted, (q, k), retain_graph=True), strict=True):
            close(one.grad, gradient)

    one = torch.ones(())
    check(lambda x, y: cross_entropy(x, y, moved[2]), (-picked.mean(),), (one,))
    check(lambda x, y: log_prob(x, y, moved[2]), (picked,), (weight,))
    both = (picked, divergence)
    check(lambda x, y: log_prob_and_kl(x, y, *moved[:3]), both, (weight, kl_weight))
    check(lambda x, y: weighed_log_prob_and_kl(x, y, *moved), (weighed, *both), (one, None, None))


@pytest.mark.parametrize("whole", [True, False])
def test_ranks_are_counted_as_a_loop_counts_them(whole: bool, device: torch.device) -> None:
    """Whole numbers tie often; of the others every item has a twin, which must tie to the last bit."""
    queries, keys = normal(13, 16), normal(40, 16, seed=1)
    queries, keys = (queries.round(), keys.round()) if whole else (queries, keys)
    keys[20:] = keys[:20]
    target, out = numbers(40, 13, seed=2), numbers(40, 13, 3, seed=3)
    scores = queries.double() @ keys.double().T
    bonus = (torch.arange(13).repeat_interleave(2), torch.stack([target % 40 + 1, target], 1).flatten(), torch.full((26,), 2.0))  # fmt: skip
    more = scores.clone()
    more[bonus[0], bonus[1] - 1] += 2.0

    def naive(scores: Tensor, hidden: list[set[int]]) -> list[tuple[int, int]]:
        places = []
        for row, own in enumerate(target.tolist()):
            others = [item for item in range(1, 41) if item != own and item not in hidden[row]]
            above = sum(bool(scores[row, item - 1] > scores[row, own - 1]) for item in others)
            places.append((above, sum(bool(scores[row, item - 1] == scores[row, own - 1]) for item in others)))
        return places

    nothing, some = [set() for _ in target], [set(row.tolist()) for row in out]
    exclude = (out.flatten().to(device), torch.arange(0, 40, 3, device=device))
    given = [one.to(device) for one in (queries, keys, target)]
    moved = tuple(one.to(device) for one in bonus)
    for expected, found in (
        (naive(scores, nothing), count_ranks(*given)),
        (naive(scores, some), count_ranks(*given, exclude=exclude)),
        (naive(more, some), count_ranks(*given, exclude=exclude, bonus=moved)),
    ):
        assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == expected
    assert any(ties for _, ties in naive(scores, nothing))


def test_the_best_items_are_those_of_a_sorted_list(device: torch.device) -> None:
    queries, keys, own = normal(9, 16), normal(90, 16, seed=1), numbers(90, 9)
    scores = queries.double() @ keys.double().T
    without = scores.scatter(1, own[:, None] - 1, -math.inf)
    moved = (queries.to(device), keys.to(device))
    assert top1(*moved).tolist() == (scores.argmax(1) + 1).tolist()
    assert top1(*moved, scores.argmax(1).to(device) + 1).tolist() == (scores.topk(2).indices[:, 1] + 1).tolist()
    found, items = top_k(*moved, 7, exclude=(torch.arange(9, device=device), own.to(device)))
    close(found, without.topk(7).values)
    assert items.tolist() == (without.topk(7).indices + 1).tolist()
    whole = (queries.round(), keys.round())  # of equals the smaller number comes first, so that sums are exact
    table = (whole[0] @ whole[1].T).tolist()
    best = [sorted(range(1, 91), key=lambda item, row=row: (-row[item - 1], item))[:7] for row in table]
    assert top_k(*(one.to(device) for one in whole), 7)[1].tolist() == best


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_info_nce_equals_a_loop(similarity: str, device: torch.device) -> None:
    x, y, target = normal(10, 16), normal(10, 16, seed=1), numbers(4, 10)
    same = target[:, None] == target
    a, b = x.double(), y.double()
    if similarity == "cosine":
        a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    losses = []
    for row in range(10):
        scores = [float(a[row] @ b[other]) / 0.2 for other in range(10) if other == row or not same[row, other]]
        losses.append(math.log(sum(map(math.exp, scores))) - float(a[row] @ b[row]) / 0.2)
    found = info_nce(x.to(device), y.to(device), temperature=0.2, similarity=similarity, same=same.to(device))
    close(found, torch.tensor(sum(losses) / 10))


def test_rewards_and_advantages_equal_loops(device: torch.device) -> None:
    greater, ties = torch.tensor([[0, 3, 9, 30], [4, 4, 4, 4]]), torch.tensor([[0, 2, 4, 1], [7, 7, 7, 7]])
    places = [[range(g, g + t + 1) for g, t in zip(*row, strict=True)] for row in zip(greater.tolist(), ties.tolist(), strict=True)]  # fmt: skip
    recalls = [[sum(p < 10 for p in one) / len(one) for one in row] for row in places]
    gains = [[sum(1 / math.log2(p + 2) for p in one if p < 10) / len(one) for one in row] for row in places]
    for reward, expected in ((RecallReward(10), recalls), (NDCGReward(10), gains)):
        found = reward(greater.to(device), ties.to(device))
        close(found, torch.tensor(expected, dtype=torch.float64), 1e-12)
        first = torch.tensor(expected[0], dtype=torch.float64)
        relative = advantages(found)
        close(relative[0], (first - first.mean()) / first.std(correction=0), 1e-9)
        assert relative[1].tolist() == [0.0] * 4
