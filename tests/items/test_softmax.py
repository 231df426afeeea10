"""Chunked softmax over items against the dense computation: values, gradients, ties, memory, mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from latentloop.errors import InputError
from latentloop.items import ranks_in_tiles, same_keys
from latentloop.items import scores as item_scores
from latentloop.items import tiles as item_tiles
from latentloop.items.policy import weighed_log_prob_and_kl
from latentloop.items.ranks import count_ranks, top1
from latentloop.items.softmax import cross_entropy, log_prob, log_prob_and_kl

# Sums of up to 60 float32 terms in another order: a few units in the last place (2^-24 = 6e-8) each.
TOLERANCE = {torch.float32: {"rtol": 2e-5, "atol": 2e-6}, torch.float64: {"rtol": 1e-10, "atol": 1e-12}}
HALF = {"rtol": 2**-7, "atol": 2**-10}  # a gradient rounded to bfloat16's 8 bits of precision

seeds = st.integers(0, 2**31 - 1)


@contextmanager
def chunks_of(rows: int, items: int) -> Iterator[None]:
    """Chunks of so many rows, in tiles of about a third of the items; for ranks of all items or fewer."""
    tiles = mock.patch.multiple(ranks_in_tiles, ROWS=rows, TILE=rows * max(1, items * 2 // 3))
    softmax = mock.patch.multiple(item_tiles, ROWS=rows, WIDTH=max(1, items // 3), ALIGNED=1, LEAST_SCORES=1)
    with tiles, softmax, mock.patch.multiple(item_scores, CPU_BUDGET=rows * items, LEAST_ROWS=1):
        yield


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the tests' own checks of shapes and types, as a user's mistake meets the library."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


class World:
    """Random queries, keys and ids of any small size, with a chunk that rarely divides the rows."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64) -> None:
        rng = np.random.default_rng(seed)
        self.rows, self.items, dim = int(rng.integers(1, 41)), int(rng.integers(1, 61)), int(rng.integers(1, 9))
        self.chunk = int(rng.integers(1, self.rows + 1))
        scale = float(rng.choice([0.3, 1.0, 4.0]))

        def draw(*shape: int) -> Tensor:
            return torch.from_numpy(rng.normal(size=shape) * scale).to(dtype)

        self.queries, self.keys = draw(self.rows, dim), draw(self.items, dim)
        self.ref_queries, self.ref_keys = draw(self.rows, dim), draw(self.items, dim)
        self.ids = torch.from_numpy(rng.integers(1, self.items + 1, self.rows))
        self.weights = torch.from_numpy(rng.normal(size=(2, self.rows)))
        self.rng = rng

    def leaves(self) -> tuple[Tensor, Tensor]:
        return self.queries.clone().requires_grad_(), self.keys.clone().requires_grad_()


def dense_log_softmax(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.log_softmax(queries @ keys.T, 1)


def dense_log_prob(queries: Tensor, keys: Tensor, ids: Tensor) -> Tensor:
    return dense_log_softmax(queries, keys)[torch.arange(len(ids)), ids - 1]


def dense_kl(queries: Tensor, keys: Tensor, ref_queries: Tensor, ref_keys: Tensor) -> Tensor:
    ours, theirs = dense_log_softmax(queries, keys), dense_log_softmax(ref_queries, ref_keys)
    return (ours.exp() * (ours - theirs)).sum(1)


def gradients(loss: Tensor, leaves: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=seeds)
def test_cross_entropy_and_its_gradients_are_the_dense_ones(dtype: torch.dtype, seed: int) -> None:
    world = World(seed, dtype)
    leaves, twins = world.leaves(), world.leaves()
    with chunks_of(world.chunk, world.items):
        loss = cross_entropy(*leaves, world.ids)
    expected = F.cross_entropy(twins[0] @ twins[1].T, world.ids - 1)
    torch.testing.assert_close(loss, expected, **TOLERANCE[dtype])
    torch.testing.assert_close(gradients(3 * loss, leaves), gradients(3 * expected, twins), **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=seeds)
def test_log_prob_and_its_gradients_are_the_dense_ones(dtype: torch.dtype, seed: int) -> None:
    world = World(seed, dtype)
    leaves, twins = world.leaves(), world.leaves()
    weights = world.weights[0].to(dtype)
    with chunks_of(world.chunk, world.items):
        result = log_prob(*leaves, world.ids)
        found = gradients((result * weights).sum(), leaves)
    expected = dense_log_prob(*twins, world.ids)
    torch.testing.assert_close(result, expected, **TOLERANCE[dtype])
    scaled = {"rtol": TOLERANCE[dtype]["rtol"], "atol": 20 * TOLERANCE[dtype]["atol"]}  # sums of up to 40 such rows
    torch.testing.assert_close(found, gradients((expected * weights).sum(), twins), **scaled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=seeds)
def test_the_divergence_and_its_gradients_are_the_dense_ones(dtype: torch.dtype, seed: int) -> None:
    world = World(seed, dtype)
    leaves, twins = world.leaves(), world.leaves()
    first, second = world.weights.to(dtype)
    frozen = world.ref_queries.requires_grad_(), world.ref_keys.requires_grad_()
    with chunks_of(world.chunk, world.items):
        picked, divergence = log_prob_and_kl(*leaves, *frozen, world.ids)
        loss = (picked * first + divergence * second).sum()
        found = gradients(loss, leaves)
        assert torch.autograd.grad(
            log_prob_and_kl(*leaves, *frozen, world.ids)[1].sum(), frozen, allow_unused=True
        ) == (
            None,
            None,
        )
    wanted_picked = dense_log_prob(*twins, world.ids)
    wanted = dense_kl(*twins, world.ref_queries.detach(), world.ref_keys.detach())
    # scores reach some hundreds, whose float32 has an absolute error near 1e-5; the divergence is a difference of them
    close = {"rtol": 1e-4, "atol": 5e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(picked, wanted_picked, **close)
    torch.testing.assert_close(divergence, wanted, **close)
    close = {"rtol": 1e-3, "atol": 2e-2} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(found, gradients((wanted_picked * first + wanted * second).sum(), twins), **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=seeds)
def test_weighed_beforehand_it_is_the_same_in_one_pass(dtype: torch.dtype, seed: int) -> None:
    world = World(seed, dtype)
    leaves, twins = world.leaves(), world.leaves()
    first, second = world.weights.to(dtype)
    frozen = world.ref_queries.requires_grad_(), world.ref_keys.requires_grad_()
    with chunks_of(world.chunk, world.items):
        total, picked, divergence = weighed_log_prob_and_kl(*leaves, *frozen, world.ids, first, second)
        found = gradients(3 * total, leaves)
        with torch.no_grad():  # where nothing is to be differentiated, the same values come out
            again = weighed_log_prob_and_kl(*leaves, *frozen, world.ids, first, second)
    assert all(map(torch.equal, again, (total, picked, divergence)))
    assert not picked.requires_grad and not divergence.requires_grad
    wanted_picked = dense_log_prob(*twins, world.ids)
    wanted = dense_kl(*twins, world.ref_queries.detach(), world.ref_keys.detach())
    close = {"rtol": 1e-4, "atol": 5e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(picked, wanted_picked, **close)
    torch.testing.assert_close(divergence, wanted, **close)
    expected = (wanted_picked * first + wanted * second).sum()
    close = {"rtol": 1e-3, "atol": 2e-2} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(total, expected, **close)
    torch.testing.assert_close(found, gradients(3 * expected, twins), **close)


@given(seed=seeds)
def test_weighed_beforehand_the_divergence_from_oneself_is_exactly_zero_and_flat(seed: int) -> None:
    world = World(seed, torch.float32)
    leaves, zero = world.leaves(), torch.zeros(len(world.ids))
    with chunks_of(world.chunk, world.items):
        total, _, divergence = weighed_log_prob_and_kl(*leaves, world.queries, world.keys, world.ids, zero, zero + 1)
        found = gradients(total, leaves)
    assert total.item() == 0 and torch.equal(divergence, zero)
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in found)


@given(seed=seeds)
def test_the_divergence_from_oneself_is_exactly_zero_and_flat(seed: int) -> None:
    world = World(seed, torch.float32)
    leaves = world.leaves()
    with chunks_of(world.chunk, world.items):
        _, divergence = log_prob_and_kl(*leaves, world.queries, world.keys, world.ids)
        found = gradients(divergence.sum(), leaves)
    assert torch.equal(divergence, torch.zeros_like(divergence))
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in found)


@pytest.mark.parametrize("autocast", [False, True])
@given(seed=seeds)
def test_bfloat16_inputs_are_scored_in_float32_also_under_autocast(autocast: bool, seed: int) -> None:
    world = World(seed, torch.bfloat16)
    leaves = world.leaves()
    twins = world.queries.float().requires_grad_(), world.keys.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), chunks_of(world.chunk, world.items):
        loss = cross_entropy(*leaves, world.ids)
        each = log_prob(*leaves, world.ids)
        _, divergence = log_prob_and_kl(*leaves, world.ref_queries, world.ref_keys, world.ids)
        found = gradients(loss - each.mean(), leaves)
        share = torch.ones(len(world.ids)) / len(world.ids)
        weighed = weighed_log_prob_and_kl(*leaves, world.ref_queries, world.ref_keys, world.ids, -share, 0 * share)[0]
        picked, _ = log_prob_and_kl(*leaves, world.ref_queries, world.ref_keys, world.ids)
        again = gradients(weighed - picked.mean(), leaves)
    expected = F.cross_entropy(twins[0] @ twins[1].T, world.ids - 1)
    assert loss.dtype == each.dtype == divergence.dtype == torch.float32
    torch.testing.assert_close(loss, expected, **TOLERANCE[torch.float32])
    torch.testing.assert_close(each, dense_log_prob(*twins, world.ids), **TOLERANCE[torch.float32])
    wanted = dense_kl(twins[0], twins[1], world.ref_queries.float(), world.ref_keys.float())
    torch.testing.assert_close(divergence, wanted, rtol=1e-4, atol=5e-4)
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    wanted_gradients = [gradient.bfloat16() for gradient in gradients(2 * expected, twins)]
    torch.testing.assert_close(list(found), wanted_gradients, **HALF)
    torch.testing.assert_close(list(again), wanted_gradients, **HALF)


def test_probabilities_that_underflow_keep_their_logarithm() -> None:
    queries, keys = torch.tensor([[1.0], [-1.0]]), torch.tensor([[300.0], [0.0], [-300.0]])
    ids = torch.tensor([3, 1])
    assert log_prob(queries, keys, ids).tolist() == [-600.0, -600.0]
    assert cross_entropy(queries, keys, ids).item() == 600.0


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_wanted_gradients_are_computed(needed: tuple[bool, bool]) -> None:
    world = World(3)
    leaves = [leaf.requires_grad_(need) for leaf, need in zip((world.queries, world.keys), needed, strict=True)]
    loss = cross_entropy(*leaves, world.ids) + log_prob(*leaves, world.ids).sum()
    loss = loss + log_prob_and_kl(*leaves, world.ref_queries, world.ref_keys, world.ids)[1].sum()
    zero = torch.zeros(len(world.ids))
    loss = loss + weighed_log_prob_and_kl(*leaves, world.ref_queries, world.ref_keys, world.ids, zero, zero + 2)[0]
    twins = [leaf.detach().clone().requires_grad_(need) for leaf, need in zip(leaves, needed, strict=True)]
    expected = dense_log_prob(*twins, world.ids)
    expected = expected.sum() - expected.mean() + 3 * dense_kl(*twins, world.ref_queries, world.ref_keys).sum()
    loss.backward()
    expected.backward()
    for leaf, twin, need in zip(leaves, twins, needed, strict=True):
        assert (leaf.grad is not None) == need
        torch.testing.assert_close(leaf.grad, twin.grad, rtol=1e-8, atol=1e-8)


def test_a_second_backward_pass_gives_the_same_and_no_grad_keeps_nothing() -> None:
    world = World(5)
    leaves = world.leaves()
    loss = cross_entropy(*leaves, world.ids)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, leaves), strict=True))
    with torch.no_grad():
        assert not cross_entropy(*leaves, world.ids).requires_grad


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.size = max(self.size, value.numel())
        return result


def test_no_function_holds_rows_times_items() -> None:
    rows, items, chunk, tile = 300, 3000, 7, 1000
    torch.manual_seed(0)
    queries, keys = torch.randn(rows, 1, requires_grad=True), torch.randn(items, 1, requires_grad=True)
    others = torch.randn(rows, 1), torch.randn(items, 1)
    ids = torch.randint(1, items + 1, (rows,))
    share = torch.ones(rows)
    runs: list[tuple[Callable[[], Any], int]] = [  # and how many scores of a row they hold in one tensor
        (lambda: cross_entropy(queries, keys, ids).backward(), items),
        (lambda: cross_entropy(queries.detach(), keys.detach(), ids), tile),
        (lambda: log_prob(queries, keys, ids).sum().backward(), tile),
        (lambda: sum(log_prob_and_kl(queries, keys, *others, ids)).sum().backward(), tile),  # type: ignore[union-attr]
        (lambda: weighed_log_prob_and_kl(queries, keys, *others, ids, share, share)[0].backward(), items),  # noqa: PLW0108
        (lambda: weighed_log_prob_and_kl(queries.detach(), keys.detach(), *others, ids, share, share), tile),
        (lambda: top1(queries, keys, ids), items),
        (lambda: count_ranks(queries, keys, ids), items * 2 // 3),
    ]
    for number, (run, held) in enumerate(runs):
        with chunks_of(chunk, items), Largest() as largest:
            run()
        assert largest.size == chunk * held, number


def naive_ranks(
    queries: Tensor, keys: Tensor, target: Tensor, hidden: list[set[int]] | None = None
) -> tuple[list[int], list[int]]:
    greater, ties = [], []
    for row, own in enumerate(target.tolist()):
        scores = {item: float((queries[row] * keys[item - 1]).sum()) for item in range(1, len(keys) + 1)}
        left_out = hidden[row] - {own} if hidden else set()
        others = [score for item, score in scores.items() if item != own and item not in left_out]
        greater.append(sum(score > scores[own] for score in others))
        ties.append(sum(score == scores[own] for score in others))
    return greater, ties


def whole(world: World) -> tuple[Tensor, Tensor]:
    """Small whole numbers, whose products are exact and tie often."""
    draw = [torch.from_numpy(world.rng.integers(-2, 3, tuple(x.shape))).float() for x in (world.queries, world.keys)]
    return draw[0], draw[1]


@given(seed=seeds)
def test_ranks_are_counted_as_by_hand(seed: int) -> None:
    world = World(seed)
    queries, keys = whole(world)
    with chunks_of(world.chunk, world.items):
        greater, ties = count_ranks(queries, keys, world.ids)
    assert (greater.tolist(), ties.tolist()) == naive_ranks(queries, keys, world.ids)


@given(seed=seeds)
def test_excluded_items_leave_the_ranking_but_never_the_target(seed: int) -> None:
    world = World(seed)
    queries, keys = whole(world)
    hidden = [world.rng.integers(1, world.items + 1, world.rng.integers(0, 6)).tolist() for _ in range(world.rows)]
    hidden[0] = [int(world.ids[0])] * 2
    flat = torch.tensor([item for row in hidden for item in row], dtype=torch.int64)
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in hidden]).tolist()])
    with chunks_of(world.chunk, world.items):
        greater, ties = count_ranks(queries, keys, world.ids, exclude=(flat, offsets))
    assert (greater.tolist(), ties.tolist()) == naive_ranks(queries, keys, world.ids, [set(row) for row in hidden])


def an_ulp_off(queries: Tensor, keys: Tensor) -> Tensor:
    """Targets' own scores, of which every other row's differs in the last bit from what a tile finds."""
    own = (queries * keys).sum(1)
    own[::2] = own[::2].nextafter(own.new_tensor(torch.inf))
    return own


@given(seed=seeds, hide=st.booleans())
def test_a_row_whose_tile_disagrees_with_its_own_score_is_counted_again(seed: int, hide: bool) -> None:
    world = World(seed)
    queries, keys = whole(world)
    hidden = [world.rng.integers(1, world.items + 1, 3 * hide).tolist() for _ in range(world.rows)]
    flat = torch.tensor([item for row in hidden for item in row], dtype=torch.int64)
    offsets = torch.arange(world.rows + 1) * 3 * hide
    with chunks_of(world.chunk, world.items), mock.patch.object(ranks_in_tiles, "_own", an_ulp_off):
        greater, ties = count_ranks(queries, keys, world.ids, exclude=(flat, offsets))
    assert (greater.tolist(), ties.tolist()) == naive_ranks(queries, keys, world.ids, [set(row) for row in hidden])


@given(seed=seeds)
def test_tiles_are_sure_of_exact_scores_and_find_the_ranks_of_others(seed: int) -> None:
    world = World(seed)
    with chunks_of(world.chunk, world.items):
        assert ranks_in_tiles.count_in_tiles(*whole(world), world.ids)[2].all()
        greater, ties = count_ranks(world.queries, world.keys, world.ids)
    scores = world.queries @ world.keys.T
    assert torch.equal(greater, (scores > scores.gather(1, world.ids[:, None] - 1)).sum(1))
    assert not ties.any()


@given(seed=seeds, dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_items_with_the_same_key_tie_whatever_their_columns(seed: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    rows, items, dim = int(rng.integers(1, 20)), int(rng.integers(1, 200)), int(rng.integers(1, 70))
    kinds = torch.from_numpy(rng.integers(0, 4, items))
    keys = torch.from_numpy(rng.normal(size=(4, dim))).to(dtype)[kinds]
    queries = torch.from_numpy(rng.normal(size=(rows, dim))).to(dtype)
    target = torch.from_numpy(rng.integers(1, items + 1, rows))
    greater, ties = count_ranks(queries, keys, target)
    scores = queries.double() @ keys.double().T
    own = scores.gather(1, target[:, None] - 1)
    alike = kinds == kinds[target - 1][:, None]
    assert torch.equal(ties, alike.sum(1) - 1)
    assert torch.equal(greater, ((scores > own) & ~alike).sum(1))
    known = count_ranks(queries, keys, target, same=same_keys.same_keys(keys))  # of half-precision keys too
    assert torch.equal(known[0], greater) and torch.equal(known[1], ties)


@pytest.mark.parametrize("items", [1, 17, 130])
def test_a_constant_scorer_ties_everything(items: int) -> None:
    queries, keys = torch.randn(5, 33), torch.randn(1, 33).repeat(items, 1)
    greater, ties = count_ranks(queries, keys, torch.full((5,), items))
    assert greater.tolist() == [0] * 5
    assert ties.tolist() == [items - 1] * 5


@given(seed=seeds)
def test_the_top_item_is_the_highest_other_than_the_excluded(seed: int) -> None:
    world = World(seed)
    scores = world.queries @ world.keys.T
    with chunks_of(world.chunk, world.items):
        best = top1(world.queries, world.keys)
        assert torch.equal(best, scores.argmax(1) + 1)
        if world.items == 1:
            with pytest.raises(InputError, match="nothing to choose"):
                top1(world.queries, world.keys, best)
            return
        second = top1(world.queries, world.keys, best)
    assert torch.equal(second, scores.topk(2).indices[:, 1] + 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_score_that_is_no_number_is_an_error_that_names_the_row(value: float) -> None:
    queries, keys = torch.ones(4, 2), torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    queries[2] = value  # infinity - infinity, also where a finite product overflows
    keys = keys * (100 if value == 3e38 else 1)
    with pytest.raises(InputError, match="NaN in row 2"):
        count_ranks(queries, keys, torch.tensor([1, 2, 1, 2]))


def test_keys_too_large_for_the_queries_are_an_error_that_names_the_row() -> None:
    queries, keys = torch.tensor([[0.5, 0.0], [100.0, 100.0]]), torch.tensor([[3e38, -3e38], [1.0, 1.0]])
    with pytest.raises(InputError, match="NaN in row 1"):  # 3e40 - 3e40
        count_ranks(queries, keys, torch.tensor([1, 2]))


def test_large_scores_of_several_rows_are_ranked_row_by_row() -> None:
    queries, keys = torch.tensor([[3e38], [-1.0], [0.0]]), torch.tensor([[100.0], [1.0], [-100.0], [100.0]])
    greater, ties = count_ranks(queries, keys, torch.tensor([2, 1, 3]))
    assert (greater.tolist(), ties.tolist()) == ([2, 2, 0], [0, 1, 3])


def test_one_item_is_the_top_item_and_two_leave_the_other() -> None:
    queries = torch.randn(3, 2)
    assert top1(queries, torch.randn(1, 2)).tolist() == [1, 1, 1]
    assert top1(queries, torch.randn(2, 2), torch.tensor([1, 2, 1])).tolist() == [2, 1, 2]
    with pytest.raises(InputError, match="^exclude leaves nothing to choose from"):
        top1(queries, torch.randn(1, 2), torch.tensor([1, 1, 1]))
    with unchecked(), pytest.raises(InputError, match=r"^exclude must hold item ids 1\.\.4, found 5"):
        top1(queries, torch.randn(4, 2), torch.tensor([1, 5, 1]))


@given(seed=seeds, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_equal_keys_are_found_as_by_comparing_all_pairs(seed: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    items, dim = int(rng.integers(1, 40)), int(rng.integers(1, 6))
    signs = rng.choice([-1.0, 1.0], (items, dim))  # zeros of either sign are equal
    keys = torch.from_numpy(rng.integers(0, 2, (items, dim)) * rng.choice([1.0, 1e-9], (items, 1)) * signs).to(dtype)
    first = [next(j for j in range(items) if bool((keys[j] == keys[i]).all())) for i in range(items)]
    with mock.patch.object(same_keys, "ACCELERATOR_BUDGET", int(rng.integers(1, 4 * dim))):
        copies, originals = same_keys.same_keys(keys)
    found = dict(zip(copies.tolist(), originals.tolist(), strict=True))
    assert found == {i: j for i, j in enumerate(first) if i != j}


@pytest.mark.parametrize("size", [1e-9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_that_differ_have_hashes_that_differ(size: float, dtype: torch.dtype) -> None:
    grid = torch.cartesian_prod(*[torch.arange(-6, 7)] * 4)
    keys = torch.cat([grid, torch.randn(50_000, 4, generator=torch.Generator().manual_seed(3))]).to(dtype) * size
    assert len(same_keys._hashes(keys).unique()) == len(keys)


def test_ranking_draws_nothing_from_torchs_own_generator() -> None:
    before = torch.get_rng_state()
    count_ranks(torch.ones(2, 3), torch.ones(4, 3), torch.tensor([1, 2]))
    assert torch.equal(torch.get_rng_state(), before)


def test_large_scores_that_are_numbers_are_ranked() -> None:
    queries, keys = torch.tensor([[3e38, 0.0]]), torch.tensor([[100.0, 0.0], [1.0, 0.0], [-100.0, 0.0]])
    assert [x.tolist() for x in count_ranks(queries, keys, torch.tensor([2]))] == [[1], [0]]
    for hidden, expected in ((1, [[0], [0]]), (2, [[1], [0]]), (3, [[1], [0]])):
        out = torch.tensor([hidden]), torch.tensor([0, 1])
        assert [x.tolist() for x in count_ranks(queries, keys, torch.tensor([2]), exclude=out)] == expected
    lowest = torch.tensor([3])
    assert [x.tolist() for x in count_ranks(queries, torch.cat([keys, keys[2:]]), lowest)] == [[2], [1]]
    out = torch.tensor([4]), torch.tensor([0, 1])
    assert [x.tolist() for x in count_ranks(queries, torch.cat([keys, keys[2:]]), lowest, exclude=out)] == [[2], [0]]


def test_mistakes_are_named() -> None:
    queries, keys, ids = torch.randn(3, 2), torch.randn(4, 2), torch.tensor([1, 2, 3])
    with unchecked():
        for call in (cross_entropy, log_prob, count_ranks, top1):
            for wrong in (0, 5):
                with pytest.raises(InputError, match=rf"item ids 1..4, found {wrong}"):
                    call(queries, keys, torch.tensor([1, wrong, 2]))
            with pytest.raises(InputError, match=r"one a row, got \(2,\)"):
                call(queries, keys, ids[:2])
            with pytest.raises(InputError, match=r"got .*int32"):
                call(queries, keys, ids.int())
            with pytest.raises(InputError, match=r"got \(3, 2\) and \(4, 1\)"):
                call(queries, keys[:, :1], ids)
            with pytest.raises(InputError, match="at least one item"):
                call(queries, keys[:0], ids)
        with pytest.raises(InputError, match="at least one row"):
            cross_entropy(queries[:0], keys, ids[:0])
        with pytest.raises(InputError, match="3 rows and 4 items, got 2 rows and 4 items"):
            log_prob_and_kl(queries, keys, queries[:2], keys, ids)
        with pytest.raises(InputError, match="3 rows and 4 items, got 2 rows and 4 items"):
            weighed_log_prob_and_kl(queries, keys, queries[:2], keys, ids, torch.ones(3), torch.ones(3))
        with pytest.raises(InputError, match=r"kl_weight must be \(3,\), one a row, got \(2,\)"):
            weighed_log_prob_and_kl(queries, keys, queries, keys, ids, torch.ones(3), torch.ones(2))
        with pytest.raises(InputError, match="exclude leaves nothing to choose from: keys holds one item"):
            top1(queries, keys[:1], torch.ones(3, dtype=torch.int64))
        for offsets in ([0, 2, 1, 2], [0, 2], [0, 1, 1, 1, 2], [1, 1, 1, 2], [0, 1, 1, 1]):
            with pytest.raises(InputError, match=r"^exclude must be .* with 4 rising offsets from 0 to 2$"):
                count_ranks(queries, keys, ids, exclude=(torch.tensor([1, 2]), torch.tensor(offsets)))
        with pytest.raises(InputError, match=r"exclude must hold item ids 1\.\.4, found 9"):
            count_ranks(queries, keys, ids, exclude=(torch.tensor([1, 9]), torch.tensor([0, 1, 1, 2])))


def test_no_rows_are_no_work() -> None:
    queries, keys, ids = torch.randn(0, 2), torch.randn(4, 2), torch.zeros(0, dtype=torch.int64)
    assert log_prob(queries, keys, ids).shape == (0,)
    assert top1(queries, keys).shape == (0,)
    assert [x.shape for x in count_ranks(queries, keys, ids)] == [(0,), (0,)]
