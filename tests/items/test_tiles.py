"""Tiles of scores against the whole: what they cover, where the own columns are, and norms of large scores."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.items import tiles as item_tiles
from latentloop.items.policy import weighed_log_prob_and_kl
from latentloop.items.softmax import cross_entropy, log_prob, log_prob_and_kl
from latentloop.items.tiles import RowNorms, TileMemory, row_chunks, tiles_of

seeds = st.integers(0, 2**31 - 1)


@given(seed=seeds, items=st.integers(1, 300), width=st.integers(1, 200), rows=st.integers(1, 30))
def test_tiles_cover_all_items_once_and_know_each_row_s_own_column(
    seed: int, items: int, width: int, rows: int
) -> None:
    keys = torch.zeros(items, 1)
    column = torch.randint(items, (rows,), generator=torch.Generator().manual_seed(seed))
    with mock.patch.object(item_tiles, "WIDTH", width):
        tiles = tiles_of(column, keys)
    widths = [tile.items.stop - tile.items.start for tile in tiles]
    assert (len(tiles) == 1) == (items < 1.5 * width or items <= 16)
    assert all(each == widths[0] for each in widths[:-1]) and 0 < widths[-1] <= widths[0] <= max(1.5 * width, 1) + 16
    assert len(tiles) == 1 or widths[0] % 16 == 0
    scores = torch.arange(rows * items).view(rows, items)
    assert torch.equal(torch.cat([scores[:, tile.items] for tile in tiles], 1), scores)
    own = torch.full((rows,), -1)
    added = scores.clone()
    for tile in tiles:
        part = scores[:, tile.items].clone(memory_format=torch.contiguous_format)
        tile.read_own(part, own)
        tile.add_to_own_(part, 1000 + torch.arange(rows))
        added[:, tile.items] = part
    expected = scores.clone()
    for row, place in enumerate(column.tolist()):
        assert own[row] == row * items + place
        expected[row, place] += 1000 + row
    assert torch.equal(added, expected)


def test_an_accelerator_takes_all_items_in_one_tile_and_few_large_chunks() -> None:
    """Its kinds of tensors without one: `meta` is no CPU."""
    column = torch.zeros(3, dtype=torch.int64, device="meta")
    (tile,) = tiles_of(column, torch.zeros(100_000, 1, device="meta"))
    assert tile.items == slice(0, 100_000) and tile.rows is None and tile.column is column
    sizes = [next(row_chunks(10**9, torch.zeros(1, device="meta").expand(n, 1))).stop for n in (1000, 24_587, 10**6)]
    assert sizes == [2**25 // 1000, 2**25 // 24_587, 64]
    assert [next(row_chunks(10**9, torch.zeros(1).expand(n, 1))).stop for n in (1000, 24_587, 10**6)] == [1048, 256, 64]


def test_a_column_that_is_not_there_is_an_error_where_nothing_was_checked_before() -> None:
    """On an accelerator ids are checked by the look-up alone, which must not read the next row."""
    for outside in (-1, 5):
        (tile,) = tiles_of(torch.tensor([0, outside, 1]), torch.zeros(5, 1))
        with pytest.raises(RuntimeError, match="out of bounds"):
            tile.read_own(torch.zeros(3, 5), torch.zeros(3))


@given(rows=st.integers(0, 5000), items=st.integers(1, 3_000_000))
def test_chunks_cover_all_rows_once_and_hold_few_scores(rows: int, items: int) -> None:
    keys = torch.zeros(1).expand(items, 1)
    chunks = list(row_chunks(rows, keys))
    assert [row for part in chunks for row in range(part.start, part.stop)] == list(range(rows))
    largest = max((part.stop - part.start for part in chunks), default=0)
    assert largest <= item_tiles.LEAST_ROWS or largest * items <= item_tiles.MOST_SCORES
    assert all(part.stop - part.start <= chunks[0].stop for part in chunks)


def test_a_chunk_s_tiles_do_not_overlap_and_the_next_chunk_writes_over_them() -> None:
    keys, tiles = torch.zeros(50, 3), [slice(0, 16), slice(16, 32), slice(32, 50)]
    kept = TileMemory(keep=True)
    first = [kept.tile(4, items, keys).fill_(number) for number, items in enumerate(tiles)]
    assert [tile.unique().tolist() for tile in first] == [[0], [1], [2]]
    assert [tuple(tile.shape) for tile in first] == [(4, 16), (4, 16), (4, 18)]
    again = [kept.tile(2, items, keys).fill_(9) for items in tiles]
    assert sum(int((tile == 9).sum()) for tile in first) == 2 * 50 and tuple(again[2].shape) == (2, 18)
    one = TileMemory(keep=False)
    assert one.tile(4, slice(0, 16), keys).data_ptr() == one.tile(4, slice(16, 30), keys).data_ptr()


@given(seed=seeds, scale=st.sampled_from([0.1, 10.0, 1e4]), scaled=st.booleans(), taken=st.booleans())
def test_norms_of_tiles_are_those_of_the_whole_to_float32_where_scores_are_large(
    seed: int, scale: float, scaled: bool, taken: bool
) -> None:
    """`scaled` is an accelerator's way; `taken` where the highest scores were taken off beforehand."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(5, 40, generator=generator) * scale
    scores[0, :16] = -torch.inf  # a tile without any share
    norms = RowNorms(scores, 5, 3)
    norms.scaled = scaled
    parts = []
    for number, part in enumerate(scores.split(16, 1)):
        top = part.amax(1)
        parts.append(norms.exp_(*((part - top[:, None], number, top) if taken else (part.clone(), number))))
    highest, above, log_shares = norms.close()
    scales = norms.scales(log_shares)
    assert torch.equal(highest, scores.amax(1))
    exact = scores.double()
    torch.testing.assert_close(above.double(), exact.logsumexp(1) - exact.amax(1), rtol=1e-5, atol=1e-6)
    found = torch.cat([part * scales[:, number, None] for number, part in enumerate(parts)], 1)
    torch.testing.assert_close(found.double(), exact.softmax(1), rtol=1e-5, atol=1e-6)
    shares = torch.stack([part.sum(1) for part in exact.softmax(1).split(16, 1)], 1)
    torch.testing.assert_close(log_shares.exp().double(), shares, rtol=1e-5, atol=1e-6)
    assert bool((above >= 0).all())
    if scaled and not taken:
        assert all(bool(((sums - 1).abs() < 1e-5)[sums != 0].all()) for sums in (part.sum(1) for part in parts))


@pytest.mark.parametrize("items", [200, 9001])
@pytest.mark.parametrize("offset", [0.0, 10.0, 1e3, 1e4])
def test_a_divergence_does_not_care_how_far_all_scores_are_from_the_reference_s(items: int, offset: float) -> None:
    """Softmax does not see a constant; float32 must not drown the gap of probabilities in it."""
    generator = torch.Generator().manual_seed(items)
    queries, keys = torch.randn(40, 9, generator=generator), torch.randn(items, 9, generator=generator)
    keys[:, 8] = 1.0
    queries[:, 8] = offset
    ref_queries = queries + 1e-2 * torch.randn(40, 9, generator=generator)
    ref_queries[:, 8] = 0.0
    ids = torch.randint(1, items + 1, (40,), generator=generator)
    exact = [x.double().requires_grad_() for x in (queries, keys)]
    log_p = torch.log_softmax(exact[0] @ exact[1].T, 1)
    log_ref = torch.log_softmax(ref_queries.double() @ keys.double().T, 1)
    expected = (log_p.exp() * (log_p - log_ref)).sum(1)
    wanted = torch.autograd.grad(expected.sum(), exact[:1])[0]
    # a float32 score of offset is known to offset * 2^-24; that rounds what is compared, and must do no more
    rounding = offset * 2**-24
    tolerance = {"rtol": 1e-3, "atol": 3e-6 + 4 * rounding * float(expected.detach().max()) ** 0.5 + rounding**2}
    leaves = [queries.requires_grad_(), keys]
    nothing = torch.zeros(40)
    total, _, weighed = weighed_log_prob_and_kl(*leaves, ref_queries, keys, ids, nothing, nothing + 1)
    _, divergence = log_prob_and_kl(*leaves, ref_queries, keys, ids)
    for found, loss in ((weighed, total), (divergence, divergence.sum())):
        torch.testing.assert_close(found.double(), expected.detach(), **tolerance)
        assert float(found.detach().min()) > -3e-6
        gradient = torch.autograd.grad(loss, queries, retain_graph=True)[0].double()
        assert float((gradient - wanted).norm() / wanted.norm()) < 1e-4 + 30 * rounding


def test_a_tile_of_minus_infinity_has_no_share() -> None:
    queries, keys = torch.ones(3, 1, requires_grad=True), torch.zeros(9001, 1)
    keys[:5000] = -torch.inf
    ids = torch.tensor([9001, 5001, 7000])
    assert len(tiles_of(ids - 1, keys)) == 2
    expected = torch.tensor(4001.0).log()
    torch.testing.assert_close(cross_entropy(queries, keys, ids), expected)
    torch.testing.assert_close(cross_entropy(queries.detach(), keys, ids), expected)
    torch.testing.assert_close(log_prob(queries, keys, ids), -expected.expand(3))


def test_what_a_function_returns_may_be_changed_in_place() -> None:
    queries, keys, ids = torch.randn(3, 2, requires_grad=True), torch.randn(5, 2), torch.tensor([1, 2, 3])
    result = log_prob(queries, keys, ids)
    result.mul_(2).sum().backward()
    assert queries.grad is not None and result.untyped_storage().nbytes() == 3 * 4


@pytest.mark.parametrize("items", [3000, 5000, 14_001])
def test_at_full_size_results_are_the_dense_ones(items: int) -> None:
    """One tile, one that is wider than usual, and three; rows that fill a chunk and a part of the next."""
    generator = torch.Generator().manual_seed(items)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = 2**20 // items + 300
    queries, keys, ref_queries, ref_keys = draw(rows, 6), draw(items, 6), draw(rows, 6), draw(items, 6)
    queries.requires_grad_()
    keys.requires_grad_()
    ids = torch.randint(1, items + 1, (rows,), generator=generator)
    weight, kl_weight = draw(2, rows) / rows
    log_p = torch.log_softmax(queries @ keys.T, 1)
    picked = log_p[torch.arange(rows), ids - 1]
    divergence = (log_p.exp() * (log_p - torch.log_softmax(ref_queries @ ref_keys.T, 1))).sum(1)
    weighed = (weight * picked + kl_weight * divergence).sum()

    def same(found: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(found, expected)
        grads = (torch.autograd.grad(of, (queries, keys), retain_graph=True) for of in (found, expected))
        for ours, dense in zip(*grads, strict=True):
            torch.testing.assert_close(ours, dense, rtol=1e-9, atol=1e-12)

    same(cross_entropy(queries, keys, ids), -picked.mean())
    same((weight * log_prob(queries, keys, ids)).sum(), (weight * picked).sum())
    chosen, gap = log_prob_and_kl(queries, keys, ref_queries, ref_keys, ids)
    same((weight * chosen + kl_weight * gap).sum(), weighed)
    total, chosen, gap = weighed_log_prob_and_kl(queries, keys, ref_queries, ref_keys, ids, weight, kl_weight)
    same(total, weighed)
    torch.testing.assert_close((chosen, gap), (picked, divergence))
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy(queries, keys, ids), -picked.mean())
        assert log_prob_and_kl(queries, keys, queries, keys, ids)[1].abs().max() == 0
