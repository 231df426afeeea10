"""Each interaction file of the project's data folder loads by its path alone, with the counts of its README."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentloop.data import DataCard, leave_one_out, load_interactions

pytestmark = pytest.mark.realdata

COUNTS = {
    "lastfm.txt.gz": (1_090, 3_646, 52_551),
    "amazon2018-scientific.txt.gz": (8_317, 4_344, 58_492),
    "beauty.txt.gz": (22_363, 12_101, 198_502),
    "sports.txt.gz": (35_598, 18_357, 296_337),
    "ml-1m.txt.gz": (6_040, 3_416, 999_611),
    "amazon2018-game.txt.gz": (50_597, 16_874, 453_637),
    "amazon2018-game.csv.gz": (50_597, 16_874, 453_637),
    "amazon2014-home.txt.gz": (66_519, 28_237, 551_682),
    "ml-100k.inter.gz": (943, 1_682, 100_000),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_of_the_readme(real_data: Path, name: str) -> None:
    if not (real_data / name).exists():
        pytest.skip(f"{name} is not in the folder of real data")
    card = DataCard.of(load_interactions(real_data / name))
    assert (card.users, card.items, card.actions) == COUNTS[name]


def test_the_log_and_the_lines_of_one_source_hold_the_same_actions(real_data: Path) -> None:
    if not (real_data / "amazon2018-game.csv.gz").exists():
        pytest.skip("amazon2018-game is not in the folder of real data")
    log, lines = (load_interactions(real_data / f"amazon2018-game.{kind}.gz") for kind in ("csv", "txt"))
    lengths = [torch.bincount(table.user).sort().values for table in (log, lines)]
    popularity = [torch.bincount(table.item)[1:].sort().values for table in (log, lines)]
    assert torch.equal(*lengths) and torch.equal(*popularity)
    assert len(leave_one_out(log).test) == len(leave_one_out(lines).test) == 50_597
