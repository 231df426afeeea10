"""What a second step of counting knows that the first does not: is there anything to think about?

    python -m benchmarks.paper.walks --data amazon2018-scientific beauty     # prints a line a data set

An item is scored by how often it followed those of the history (`latentloop.followers`), plus `share` of the chance that
two steps of a walk along the same counts end at it, fading with age alike. The share is chosen on validation; at 0 this
is Followers. Nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from benchmarks.paper.cell import Cell
from benchmarks.paper.data import load_split
from benchmarks.told import told
from latentloop.data.sequences import Samples
from latentloop.followers import Followers
from latentloop.measures.metrics import Ranks, ndcg
from latentloop.measures.significance import paired_t

__all__ = ["SHARES", "Options", "main", "ranks_by_share"]

SHARES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
_ROWS = 512


@dataclass(frozen=True)
class Options:
    """Which data."""

    data: tuple[str, ...] = ("amazon2018-scientific",)
    """Names of data sets."""
    folder: Path = Path("../shared/data")
    """Where their files lie."""


def ranks_by_share(counts: Followers, samples: Samples) -> dict[float, Ranks]:
    """The targets' ranks for each of `SHARES`, full ranking with the history kept.

    Args:
        counts: of the training part.
        samples: with targets.
    """
    size, many = counts.num_items + 1, counts.offsets.diff()
    origin = torch.repeat_interleave(many)
    total = torch.zeros(size, dtype=torch.float64).index_add_(0, origin, counts.counts.double())
    chance = counts.counts.double() / total[origin]
    step = torch.sparse_coo_tensor(torch.stack([counts.items, origin]), chance, (size, size), check_invariants=False)
    found: dict[float, list[Tensor]] = {share: [] for share in SHARES}
    for index in torch.split(torch.arange(len(samples)), _ROWS):
        history = samples.whole(index, counts.newest)
        row, item, count = counts.counted(history)
        known = torch.zeros(len(index), size, dtype=torch.float64)
        known[row, item] = count.double()
        read = history.flip(1)
        weight = torch.pow(counts.fade, torch.arange(read.shape[1], dtype=torch.float64))
        start = torch.zeros(len(index), size, dtype=torch.float64)
        start.scatter_add_(1, read, weight.expand(len(index), -1))
        start[:, 0] = 0
        walked = torch.sparse.mm(step, torch.sparse.mm(step, start.T)).T
        for share in SHARES:
            scores = (known + share * walked)[:, 1:].float()
            own = scores.gather(1, samples.target(index)[:, None] - 1)
            found[share].append(torch.stack([(scores > own).sum(1), (scores == own).sum(1) - 1]))
    return {share: Ranks(*torch.cat(parts, 1)) for share, parts in found.items()}


def main(options: Options) -> None:
    """Choose the share on validation and print what it adds on test."""
    for data in options.data:
        split = load_split(data, options.folder, Cell.max_length)
        counts = Followers.of(split)
        validation, test = (ranks_by_share(counts, part) for part in (split.validation, split.test))
        gains = {share: float(ndcg(ranks, 10).mean()) for share, ranks in validation.items()}
        best = max(gains, key=lambda share: gains[share])
        first, second = (ndcg(test[share], 10) for share in (0.0, best))
        mean, (low, high), p = paired_t(second - first)
        print(
            f"{data}: validation NDCG@10 {gains[0.0]:.4f} -> {gains[best]:.4f} (share {best:g}), test "
            f"{first.mean():.4f} -> {second.mean():.4f} ({mean:+.4f} [{low:+.4f}, {high:+.4f}], p = {p:.2g})",
            flush=True,
        )


if __name__ == "__main__":
    with told():
        main(tyro.cli(Options, description=__doc__))
