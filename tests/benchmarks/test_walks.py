"""Two steps of counting against loops over a small log."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper import walks
from latentloop.baselines import followers_ranks
from latentloop.followers import Followers
from tests.evaluation.worlds import naive_counts, pasts, random_split


@given(seed=st.integers(0, 2**20))
def test_ranks_equal_a_loop_over_two_steps(seed: int) -> None:
    split = random_split(seed)
    counts = Followers.of(split, window=2, decay=0.5, newest=3, fade=0.5)
    after: dict[int, dict[int, float]] = {}
    for past, _ in pasts(split, 2):
        for place, item in enumerate(past):
            for distance, later in enumerate(past[place + 1 : place + 3]):
                row = after.setdefault(item, {})
                row[later] = row.get(later, 0.0) + 0.5**distance
    found = walks.ranks_by_share(counts, split.test)
    for share in walks.SHARES:
        for place, (past, target) in enumerate(pasts(split, 1)):
            scores = [0.0] * split.num_items
            for age, item in enumerate(past[::-1][:3]):
                for middle, count in after.get(item, {}).items():
                    scores[middle - 1] += 0.5**age * count
                    to_middle = count / sum(after[item].values())
                    for last, more in after.get(middle, {}).items():
                        scores[last - 1] += share * 0.5**age * to_middle * more / sum(after[middle].values())
            # sums in another order: what is closer than a float32 tells apart is a tie here and there
            rounded = torch.tensor(scores, dtype=torch.float64).float()
            greater, ties = naive_counts(rounded.tolist(), target, [])
            near = ((rounded - rounded[target - 1]).abs() < 1e-5).sum() - 1
            assert abs(int(found[share].greater[place]) - greater) <= int(near)
            assert int(found[share].ties[place]) <= int(near) and ties <= int(near)


@given(seed=st.integers(0, 2**20))
def test_without_a_second_step_they_are_followers(seed: int) -> None:
    split = random_split(seed)
    counts = Followers.of(split)
    found, wanted = walks.ranks_by_share(counts, split.test)[0.0], followers_ranks(split.test, counts)
    assert torch.equal(found.greater, wanted.greater) and torch.equal(found.ties, wanted.ties)


def test_the_share_is_chosen_on_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[user, *(1 + (user * step) % 7 for step in range(1, 7))] for user in range(1, 30)]
    (tmp_path / "tiny.txt.gz").write_bytes(gzip.compress("\n".join(" ".join(map(str, row)) for row in rows).encode()))
    walks.main(walks.Options(("tiny",), folder=tmp_path))
    said = capsys.readouterr().out
    first, second = (float(word) for word in said.split("NDCG@10 ")[1].split(" (")[0].split(" -> "))
    assert said.startswith("tiny: validation") and second >= first > 0
