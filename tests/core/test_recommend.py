"""Recommendations against a dense sort of all scores."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentloop.data.interactions import Interactions
from latentloop.data.splits import leave_one_out
from latentloop.errors import InputError, InputTypeError
from latentloop.histories import Histories, from_tensor
from latentloop.items.top_k import top_k
from latentloop.recommender import Recommender
from tests.core.worlds import DIM, MAX_LENGTH, NUM_ITEMS, fewer, ragged, recommender, seeds, unchecked

MONKEY = settings(fewer, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def blocks_of(size: int, patch: pytest.MonkeyPatch, tile: int = 1) -> None:
    """So many items a block, and so many blocks and three rows a tile."""
    patch.setattr("latentloop.items.top_k.BLOCKS", {size: 3})
    patch.setattr("latentloop.items.top_k.WHOLE", size)
    patch.setattr("latentloop.items.top_k.ROWS", 3)
    patch.setattr("latentloop.items.top_k.CPU_BUDGET", 3 * size * tile)


def dense(scores: np.ndarray, k: int, excluded: list[set[int]], candidates: set[int]) -> list[list[int]]:
    """Every item sorted by (score, number), what may not come taken out."""
    ranked = []
    for row, out in zip(scores, excluded, strict=True):
        items = [i for i in range(1, scores.shape[1] + 1) if i in candidates and i not in out]
        ranked.append(sorted(items, key=lambda i: (-row[i - 1], i))[:k])
    return ranked


@MONKEY
@given(
    seed=seeds,
    k=st.integers(1, 12),
    size=st.integers(1, 15),
    tile=st.integers(1, 30),
    num_items=st.integers(12, 70),
    filtered=st.booleans(),
    more=st.integers(0, 30),
)
def test_top_k_is_the_dense_sort(
    seed: int, k: int, size: int, tile: int, num_items: int, filtered: bool, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small whole numbers: exact scores and many ties, within blocks and between them."""
    rng = np.random.default_rng(seed)
    queries, keys = rng.integers(-2, 3, (4, 3)), rng.integers(-1, 2, (num_items, 3))
    pairs = rng.permutation([(r, i) for r in range(4) for i in rng.choice(num_items, 2, replace=False) + 1])
    candidates = rng.random(num_items) < (0.6 if filtered else 2)
    wins = rng.permutation([(r, i, rng.integers(-3, 4)) for r in range(4) for i in range(1, num_items + 1)])[:more]
    whole = queries @ keys.T
    whole[wins[:, 0], wins[:, 1] - 1] += wins[:, 2]
    row, item, won = torch.from_numpy(wins[wins[:, 0].argsort()].T.copy())
    blocks_of(size, monkeypatch, tile)
    scores, items = top_k(
        torch.from_numpy(queries).float(),
        torch.from_numpy(keys).float(),
        k,
        exclude=(torch.from_numpy(pairs[:, 0]), torch.from_numpy(pairs[:, 1])),
        candidates=torch.from_numpy(candidates) if filtered else None,
        bonus=(row, item, won.float()) if more else None,
    )
    excluded = [{int(i) for r, i in pairs if r == row} for row in range(4)]
    wanted = dense(whole, k, excluded, {i + 1 for i in range(num_items) if candidates[i]})
    assert items.min() >= 1 and items.max() <= num_items
    for row in range(4):
        kept = [i for s, i in zip(scores[row].tolist(), items[row].tolist(), strict=True) if s != -np.inf]
        assert kept == wanted[row]
        assert scores[row, : len(kept)].tolist() == [float(whole[row, i - 1]) for i in kept]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [1, 1000])
def test_top_k_searches_few_blocks_of_a_large_catalog(seed: int, spread: int) -> None:
    """At the real sizes; ties within blocks, between them and between tiles, or hardly any."""
    rng = np.random.default_rng(seed)
    queries, keys = rng.integers(-spread, spread + 1, (3, 3)), rng.integers(-spread, spread + 1, (20_000, 3))
    found = top_k(torch.from_numpy(queries).float(), torch.from_numpy(keys).float().requires_grad_(), 10)[1]
    assert found.tolist() == dense(queries @ keys.T, 10, [set()] * 3, set(range(1, 20_001)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_searches_few_of_small_blocks(seed: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    queries, keys = rng.integers(-2, 3, (5, 2)), rng.integers(-2, 3, (90, 2))
    blocks_of(2, monkeypatch, tile=30)  # more than 4 (k + 1) blocks a tile
    found = top_k(torch.from_numpy(queries).float(), torch.from_numpy(keys).float(), k)[1]
    assert found.tolist() == dense(queries @ keys.T, k, [set()] * 5, set(range(1, 91)))


ODD = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1.5e-38, -1.5e-38, 3e38, -3e38, math.inf, -math.inf]).tolist()


@MONKEY
@given(
    scores=st.lists(st.sampled_from(ODD) | st.floats(width=32, allow_nan=False), min_size=1, max_size=40),
    k=st.integers(1, 40),
    size=st.integers(1, 3),
)
def test_top_k_sorts_any_numbers(scores: list[float], k: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both zeros are one score, and the smallest and the largest numbers are told apart."""
    blocks_of(size, monkeypatch, tile=15)
    k = min(k, len(scores))
    found, items = top_k(torch.ones(1, 1), torch.tensor(scores)[:, None], k)
    wanted = [i for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k] if scores[i] > -math.inf]
    assert items[0, : len(wanted)].tolist() == [i + 1 for i in wanted]
    assert found[0].tolist() == [scores[i] for i in wanted] + [-math.inf] * (k - len(wanted))


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("num_items", [7, 300, 40_000])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_top_k_finds_one_nan_among_all_scores(k: int, num_items: int, sign: float) -> None:
    keys = torch.randn(num_items, 2)
    keys[num_items // 2, 0] = math.copysign(math.nan, sign)
    candidates = torch.ones(num_items, dtype=torch.bool)
    queries, k = torch.ones(3, 2), min(k, num_items - 1)
    with pytest.raises(InputError, match="scores hold NaN"):
        top_k(queries, keys, k, candidates=candidates)
    candidates[num_items // 2] = False  # it cannot come
    assert top_k(queries, keys, k, candidates=candidates)[0].isfinite().all()


@MONKEY
@given(rows=st.lists(st.lists(st.integers(1, 9), max_size=5), max_size=6), max_length=st.integers(1, 7), data=st.data())
def test_histories_are_the_lists_that_they_were_made_of(
    rows: list[list[int]], max_length: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, 9))
    part, wanted = Histories.of(rows).part(start, stop), rows[start:stop]
    assert len(part) == len(wanted) and part.lengths.tolist() == [len(row) for row in wanted]
    length = max(1, min(max_length, max(map(len, wanted), default=0)))
    assert part.left_padded(max_length).tolist() == [([0] * length + row)[-length:] for row in wanted]
    longest = max(1, max(map(len, wanted), default=0))
    assert part.left_padded().tolist() == [([0] * longest + row)[-longest:] for row in wanted]
    pairs = [(place, item) for place, row in enumerate(wanted) for item in row]
    assert list(zip(*(column.tolist() for column in part.pairs()), strict=True)) == pairs
    padded = torch.tensor([([0] * 5 + row)[-5:] for row in rows], dtype=torch.int32).view(len(rows), 5)
    again = from_tensor(padded, 9)
    assert again.items.tolist() == Histories.of(rows).items.tolist()
    assert again.offsets.tolist() == Histories.of(rows).offsets.tolist()


@MONKEY
@given(seed=seeds, k=st.integers(1, NUM_ITEMS), size=st.integers(2, 30), exclude=st.booleans(), text=st.booleans())
def test_recommend_is_the_dense_sort_in_original_ids(
    seed: int, k: int, size: int, exclude: bool, text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(1000)[:NUM_ITEMS].tolist()
    ids: list[Any] = [f"item-{n}" for n in numbers] if text else numbers
    model = recommender(seed, item_ids=ids, inference_state="shared").train()
    history = ragged(seed)
    rows = [[i for i in row if i] for row in history.tolist()]
    allow, deny = rng.choice(NUM_ITEMS, 15, replace=False) + 1, rng.choice(NUM_ITEMS, 4, replace=False) + 1
    blocks_of(size, monkeypatch)
    found = model.recommend(
        [[ids[i - 1] for i in row] for row in rows],
        k=k,
        exclude_history=exclude,
        allow=[ids[i - 1] for i in allow],
        deny=[ids[i - 1] for i in deny],
        batch_size=2,
    )
    assert model.training
    with torch.no_grad():
        scores = model.eval().score(history)
    excluded = [set(row) if exclude else set() for row in rows]
    wanted = dense(scores.double().numpy(), k, excluded, set(allow.tolist()) - set(deny.tolist()))
    assert len(found) == len(rows)
    for row, items in enumerate(found.items):
        numbers_found = [ids.index(i) + 1 for i in items]
        assert len(items) == len(wanted[row])
        assert set(numbers_found).isdisjoint(excluded[row])
        # companions and padding move scores by rounding, so the order is compared through the scores
        torch.testing.assert_close(scores[row, [i - 1 for i in numbers_found]], torch.tensor(found.scores[row]))
        torch.testing.assert_close(
            torch.tensor(found.scores[row]), scores[row, [i - 1 for i in wanted[row]]], rtol=1e-5, atol=1e-5
        )


def test_without_ids_the_numbers_are_the_ids_and_tensors_work_too() -> None:
    model, history = recommender(2), ragged(2)
    rows = [[i for i in row if i] for row in history.tolist()]
    by_list, by_tensor = model.recommend(rows, k=5), model.recommend(history, k=5)
    by_text = model.recommend([[str(i) for i in row] for row in rows], k=5)
    with unchecked():
        by_row = model.recommend([torch.tensor(row) for row in rows], k=5)
        allowed = model.recommend(rows, k=5, allow=torch.tensor([4, 5, 6]), deny=torch.tensor([5]))
    assert by_list == by_tensor == by_text == by_row
    assert allowed == model.recommend(rows, k=5, allow=[4, 6])
    assert all(set(items).isdisjoint(row) for items, row in zip(by_list.items, rows, strict=True))
    assert any(
        set(i) & set(r) for i, r in zip(model.recommend(rows, k=20, exclude_history=False).items, rows, strict=True)
    )


def test_a_bonus_is_asked_with_the_histories_that_the_model_reads() -> None:
    model, asked = recommender(0), []

    def bonus(history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        asked.append(history)
        return torch.tensor([1]), torch.tensor([3]), torch.tensor([1000.0])

    histories = torch.tensor([[0, 1, 2], [4, 5, 6], [0, 0, 2]])
    plain, found = (model.recommend(histories, k=2, batch_size=3, bonus=given) for given in (None, bonus))
    assert [row.tolist()[-3:] for row in asked[0]] == histories.tolist()
    assert found.items[1][0] == 3 and found.scores[1][0] == pytest.approx(1000, abs=50)
    assert (found.items[0], found.items[2]) == (plain.items[0], plain.items[2])


def test_fewer_candidates_than_k_give_shorter_lists() -> None:
    model = recommender(0)
    found = model.recommend([[1, 2], [], [5]], k=4, allow=[1, 2, 3])
    assert [sorted(items) for items in found.items] == [[3], [1, 2, 3], [1, 2, 3]]
    assert [len(s) for s in found.scores] == [1, 3, 3]
    assert model.recommend([], k=3).items == []
    assert model.recommend([[1], [2]], k=3, allow=[]).items == [[], []]


def log() -> Interactions:
    """Users "u0".."u4" with 3..7 items each, in an order of their own."""
    rng = np.random.default_rng(0)
    users = [f"u{u}" for u in range(5) for _ in range(3 + u)]
    items = [f"i{int(i)}" for u in range(5) for i in rng.permutation(9)[: 3 + u]]
    return Interactions.of(users, items, rng.permutation(len(users)).tolist())


def history_of(data: Interactions, user: str) -> list[Any]:
    number = list(data.user_ids).index(user)
    return [data.item_ids[int(i) - 1] for u, i in zip(data.user, data.item, strict=True) if int(u) == number]


@pytest.mark.parametrize("form", ["interactions", "split"])
@pytest.mark.parametrize("numbered", ["alike", "otherwise", "never"])
def test_users_are_looked_up_in_data(form: str, numbered: str) -> None:
    data = log()
    ids = {"alike": list(data.item_ids), "otherwise": list(data.item_ids)[::-1], "never": None}[numbered]
    torch.manual_seed(0)
    model = Recommender(data.num_items, torch.nn.Identity(), DIM, MAX_LENGTH, item_ids=ids, init_std=0.5).eval()
    users = ["u3", "u0", "u3", "u4"]
    found = model.recommend(users=users, data=leave_one_out(data) if form == "split" else data, k=2)
    if ids is None:
        model.item_ids = list(data.item_ids)
    assert found == model.recommend([history_of(data, user) for user in users], k=2)
    assert found.items[0] == found.items[2]
    with unchecked():
        assert model.recommend(users=iter(users), data=data, k=2) == found  # type: ignore[arg-type]


def test_users_mistakes() -> None:
    data = log()
    model = recommender(0)
    with pytest.raises(InputError, match=f"data must hold the model's 23 items, found {data.num_items}"):
        model.recommend(users=["u1"], data=data)
    model = Recommender(data.num_items, torch.nn.Identity(), DIM, MAX_LENGTH, item_ids=list(data.item_ids))
    with pytest.raises(InputError, match="users names 'nobody'"):
        model.recommend(users=["u1", "nobody"], data=data, k=2)
    with pytest.raises(InputError, match="pass the interactions as data="):
        model.recommend(users=["u1"], k=2)
    for both in ({}, {"histories": [["i1"]], "users": ["u1"], "data": data}):
        with pytest.raises(InputError, match="either histories or users"):
            model.recommend(**both, k=2)
    with unchecked(), pytest.raises(InputTypeError, match="users must be a list"):
        model.recommend(users="u1", data=data, k=2)


@pytest.mark.parametrize("ids", [True, False])
def test_data_of_another_kind_are_refused(ids: bool) -> None:
    model = recommender(0, item_ids=[f"i{n}" for n in range(NUM_ITEMS)] if ids else None)
    frame = pandas.DataFrame({"user": ["u1"], "item": ["i1"]})
    said = "^data must be Interactions or a Split of them, got DataFrame: load_interactions makes"
    for asked in ({"users": ["u1"]}, {"histories": [["i1"]]}):
        with unchecked(), pytest.raises(InputTypeError, match=said):
            model.recommend(**asked, data=frame, k=2)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("histories", [[["item-01"]], [[], ["item-01", "item-02"], ["item-03"]]])
def test_ids_that_a_model_without_ids_cannot_know_are_an_error(histories: list[list[Any]], strict: bool) -> None:
    place = next(place for place, history in enumerate(histories) if history)
    said = (
        f"^history {place} names item {histories[place][0]!r}, and no item of any history is known: this model has no item "
        f"ids, only the numbers 1..{NUM_ITEMS}; pass item_ids= when it is made, or data=$"
    )
    with pytest.raises(InputError, match=said):
        recommender(0).recommend(histories, k=3, strict=strict)


def test_a_known_number_or_a_model_of_ids_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    for model, histories in (
        (recommender(0), [["item-01"], [5]]),
        (recommender(0), [[99], []]),  # new since it was made, perhaps
        (recommender(0), [["99"], []]),
        (recommender(0, item_ids=[f"i{n}" for n in range(NUM_ITEMS)]), [["item-01"], []]),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert len(model.recommend(histories, k=3)) == 2
        assert "skipped 1 unknown item(s) in 1 of 2 histories" in caplog.text
    data = log()
    torch.manual_seed(0)
    model = Recommender(data.num_items, torch.nn.Identity(), DIM, MAX_LENGTH).eval()
    assert len(model.recommend([["nope"]], data=data, k=2)) == 1  # which has the ids


@pytest.mark.parametrize("k", [0, -1, NUM_ITEMS + 1, True])
def test_k_outside_the_catalog_is_refused(k: int) -> None:
    with pytest.raises(InputError, match=r"k must lie in 1\.\.23"):
        recommender(0).recommend([[1], [2]], k=k)


def test_unknown_items_warn_once_or_are_an_error(caplog: pytest.LogCaptureFixture) -> None:
    model = recommender(0, item_ids=[f"i{n}" for n in range(NUM_ITEMS)])
    asked = [["i1", "nope"], ["i2"], ["gone", "i3", "gone"]]
    with caplog.at_level(logging.WARNING):
        found = model.recommend(asked, k=3)
    assert found == model.recommend([["i1"], ["i2"], ["i3"]], k=3)
    assert len(caplog.records) == 1
    assert "3 unknown item(s) in 2 of 3 histories; the first is 'nope' in history 0" in caplog.text
    with pytest.raises(InputError, match="history 0 names item 'nope'"):
        model.recommend(asked, k=3, strict=True)
    for name in ("allow", "deny"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            model.recommend([["i1"], ["i2"]], k=3, **{name: ["i4", "nope"]})
        assert f"{name}: skipped 1 unknown item(s), the first is 'nope'" in caplog.text
        with pytest.raises(InputError, match=f"{name} names item 'nope'"):
            model.recommend([["i1"], ["i2"]], k=3, strict=True, **{name: ["nope"]})


@pytest.mark.parametrize("name", ["allow", "deny"])
def test_one_bare_id_is_no_list_of_its_letters(name: str) -> None:
    with unchecked(), pytest.raises(InputTypeError, match=f"{name} must be a list of item ids, got '12'"):
        recommender(0).recommend([[1, 2]], k=3, **{name: "12"})


@pytest.mark.parametrize("flat", [["i1", "i2"], [1, 2], "i1"])
def test_one_flat_history_is_refused(flat: Any) -> None:
    with unchecked(), pytest.raises(InputTypeError, match="list of histories"):
        recommender(0).recommend(flat, k=3)


def test_numbers_out_of_the_catalog_are_refused() -> None:
    with pytest.raises(InputError, match="found 24 in row 1"):
        recommender(0).recommend(torch.tensor([[0, 1], [24, 2]]), k=3)
    with unchecked(), pytest.raises(InputError, match=r"\(B, L\) whole numbers"):
        recommender(0).recommend(torch.tensor([1, 2]), k=3)


def test_nan_scores_are_an_error() -> None:
    model = recommender(0)
    with torch.no_grad():
        model.item_table.weight[5] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        model.recommend([[1], [2]], k=3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_precision_changes_nothing(dtype: torch.dtype) -> None:
    model = recommender(3)
    expected = model.recommend([[1, 2], [3]], k=3)
    torch.set_default_dtype(dtype)
    try:
        found = model.recommend([[1, 2], [3]], k=3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (found.items, found.scores) == (expected.items, expected.scores)


def test_pairs_of_other_rows_and_items_leave_nothing_out() -> None:
    row, item = torch.tensor([-1, 0, 0, 1, 5]), torch.tensor([2, 0, 4, 3, 1])
    assert top_k(torch.ones(2, 1), torch.arange(3.0)[:, None], 3, exclude=(row, item))[1][0].tolist() == [3, 2, 1]
    assert top_k(torch.ones(2, 1), torch.arange(3.0)[:, None], 2, exclude=(row, item))[1][1].tolist() == [2, 1]


def test_recommend_gives_every_part_its_mode_back() -> None:
    model = recommender(0).train()
    model.encoder.pre_block.eval()
    before = [m.training for m in model.modules()]
    model.recommend([[1], [2]], k=3)
    assert [m.training for m in model.modules()] == before
    assert not all(before)


def test_allow_and_deny_are_lists_of_ids() -> None:
    for name in ("allow", "deny"):
        with unchecked(), pytest.raises(InputTypeError, match=f"^{name} must be a list of item ids, got 5$"):
            recommender(0).recommend([[1]], k=2, **{name: 5})
