"""Catalogs of growing size: loss, policy, ranks and the ten best of a batch of rows, chunked against whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.flops import DIM, Work, score
from benchmarks.speed.options import Device, Options
from benchmarks.speed.timing import Action, Pair
from latentloop.items.policy import weighed_log_prob_and_kl
from latentloop.items.ranks import count_ranks
from latentloop.items.softmax import cross_entropy
from latentloop.items.top_k import top_k

__all__ = ["catalogs"]

LIMIT = 2048.0
"""MiB beyond the table."""


class _Inputs(NamedTuple):
    queries: Tensor
    keys: Tensor
    ref_queries: Tensor
    ref_keys: Tensor
    target: Tensor


def catalogs(options: Options) -> Iterator[Pair]:
    """Next-item loss and policy with their gradients, ranks and the ten best, at each size of the catalog."""
    size = options.sizes
    for name, (fast, twin, products) in _CASES.items():
        for items in size.catalogs:
            inputs = partial(_inputs, size.catalog_rows, items, name == "policy and KL", options.device)
            yield Pair(
                f"{name}, {items:,} items", "rows", size.catalog_rows, partial(_with, fast, inputs),
                partial(_with, twin, inputs) if items <= size.dense_items else None, beside="whole scores",
                work=Work(scores=products * score(size.catalog_rows, items)), memory=True,
                limit_above=options.on_cpu(LIMIT),
            )  # fmt: skip


def _inputs(rows: int, items: int, reference: bool, device: Device) -> _Inputs:
    torch.manual_seed(0)
    random = partial(torch.randn, device=device)
    queries, keys = random(rows, DIM).requires_grad_(), random(items, DIM).mul_(0.1).requires_grad_()
    ref_queries, ref_keys = queries.detach() + 0.1, keys.detach()
    if reference:
        ref_keys = random(items, DIM).mul_(0.1)
    return _Inputs(queries, keys, ref_queries, ref_keys, torch.randint(1, items + 1, (rows,), device=device))


def _with(work: Callable[[_Inputs], object], inputs: Callable[[], _Inputs]) -> Action:
    return partial(work, inputs())


def _loss(i: _Inputs) -> None:
    torch.autograd.grad(cross_entropy(i.queries, i.keys, i.target), (i.queries, i.keys))


def _loss_twin(i: _Inputs) -> None:
    torch.autograd.grad(F.cross_entropy(i.queries @ i.keys.T, i.target - 1), (i.queries, i.keys))


def _policy(i: _Inputs) -> None:
    share = torch.full_like(i.target, 1 / len(i.target), dtype=i.queries.dtype)
    torch.autograd.grad(weighed_log_prob_and_kl(*i, -share, share)[0], (i.queries, i.keys))


def _policy_twin(i: _Inputs) -> None:
    log = (i.queries @ i.keys.T).log_softmax(-1)
    reference = (i.ref_queries @ i.ref_keys.T).log_softmax(-1)
    divergence = (log.exp() * (log - reference)).sum(-1)
    picked = log.gather(1, i.target[:, None] - 1)[:, 0]
    torch.autograd.grad((divergence - picked).mean(), (i.queries, i.keys))


@torch.no_grad()
def _ranks(i: _Inputs) -> None:
    count_ranks(i.queries, i.keys, i.target)


@torch.no_grad()
def _ranks_twin(i: _Inputs) -> None:
    scores = i.queries @ i.keys.T
    own = scores.gather(1, i.target[:, None] - 1)
    (scores > own).sum(1), (scores == own).sum(1)


@torch.no_grad()
def _best(i: _Inputs) -> None:
    top_k(i.queries, i.keys, 10)


@torch.no_grad()
def _best_twin(i: _Inputs) -> None:
    (i.queries @ i.keys.T).topk(10)


_CASES: dict[str, tuple[Callable[[_Inputs], None], Callable[[_Inputs], None], int]] = {
    # the library, its twin, and the products of rows with all items that cannot be avoided
    "next-item loss": (_loss, _loss_twin, 3),
    "policy and KL": (_policy, _policy_twin, 4),
    "ranks": (_ranks, _ranks_twin, 1),
    "ten best": (_best, _best_twin, 1),
}
