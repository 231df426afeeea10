"""The embedded log has what it promises: structure a short chain sees some of, skew, and a fixed content per seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentloop.data import DataCard, Samples, k_core, leave_one_out, synthetic_log
from latentloop.errors import InputError
from tests.inputs.worlds import unchecked


def ndcg_at_10(scores: torch.Tensor, target: torch.Tensor) -> float:
    """Mean NDCG@10 of (B, N) scores, ties broken against the target."""
    own = scores.gather(1, target[:, None] - 1)
    rank = (scores >= own).sum(1) - 1
    return float(torch.where(rank < 10, 1.0 / torch.log2(rank.double() + 2), 0.0).mean())


def newest_and_target(samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.arange(len(samples))
    return samples.history(index)[:, -1], samples.target(index)


def test_a_first_order_chain_beats_popularity_and_chance() -> None:
    split = leave_one_out(synthetic_log())
    newest, target = newest_and_target(split.train)
    popularity = split.item_counts[1:].double() / split.item_counts.sum()
    chain = torch.zeros(split.num_items + 1, split.num_items, dtype=torch.float64)
    chain.index_put_((newest, target - 1), torch.ones(len(target), dtype=torch.float64), accumulate=True)
    newest, target = newest_and_target(split.test)
    by_popularity = ndcg_at_10(popularity.expand(len(target), -1), target)
    by_chain = ndcg_at_10(chain[newest] + popularity, target)
    by_chance = sum(1.0 / torch.log2(torch.tensor(r + 2.0)).item() for r in range(10)) / split.num_items
    assert by_popularity > 3 * by_chance
    assert by_chain > 1.3 * by_popularity
    assert by_chain < 0.2  # most of what follows takes more than the newest item


def test_defaults_have_the_promised_size() -> None:
    log = synthetic_log()
    card = DataCard.of(log)
    assert card.users >= 2000 and 500 <= card.items <= 1000 and 9 <= card.average_length <= 11
    counts = torch.bincount(log.item)[1:].sort(descending=True).values
    assert int(counts[: len(counts) // 10].sum()) > 0.3 * len(log)  # a tenth of the items takes over 30 %
    assert k_core(log, 5).num_users >= 2000 * 0.9


@settings(max_examples=8)
@given(seed=st.integers(0, 2**40), users=st.integers(2, 30))
def test_the_seed_fixes_the_log_and_users_do_not_depend_on_each_other(seed: int, users: int) -> None:
    def histories(num_users: int) -> dict[object, list[object]]:
        log = synthetic_log(num_users, 60, seed, num_categories=6)
        found: dict[object, list[object]] = {}
        for u, i in zip(log.user.tolist(), log.item.tolist(), strict=True):
            found.setdefault(log.user_ids[u], []).append(log.item_ids[i - 1])
        return found

    few, many = histories(users), histories(users + 9)
    assert all(many[user] == few[user] for user in few)
    assert len(few) == users and min(map(len, few.values())) >= 5
    other = synthetic_log(users, 60, seed + 1, num_categories=6)
    assert DataCard.of(other).hash != DataCard.of(synthetic_log(users, 60, seed, num_categories=6)).hash


def test_counts_out_of_range_are_named() -> None:
    with pytest.raises(InputError, match="^num_users must be a whole number of at least 1, got 0$"):
        synthetic_log(0)
    with pytest.raises(InputError, match=r"num_categories: 16, expected 1\.\.12, the number"):
        synthetic_log(10, 12)
    with pytest.raises(InputError, match="average_length: 5"):
        synthetic_log(average_length=5.0)


@pytest.mark.parametrize("wrong", [2.5, True, "20", None, 0])
@pytest.mark.parametrize("name", ["num_users", "num_items", "num_categories"])
def test_counts_are_whole_numbers(name: str, wrong: Any) -> None:
    with unchecked(), pytest.raises(InputError, match=f"^{name} must be a whole number of at least 1, got {wrong!r}$"):
        synthetic_log(**{name: wrong})


@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), "10", None, True])
def test_an_average_is_a_finite_number(wrong: Any) -> None:
    with unchecked(), pytest.raises(InputError, match="^average_length must be a finite number above 0"):
        synthetic_log(20, 20, average_length=wrong)


def test_numpys_numbers_make_the_same_log() -> None:
    with unchecked():
        numpys = synthetic_log(np.int64(9), np.int32(30), np.int64(1), num_categories=np.int64(5), average_length=8)
    ours = synthetic_log(9, 30, 1, num_categories=5, average_length=8.0)
    assert DataCard.of(numpys).hash == DataCard.of(ours).hash
