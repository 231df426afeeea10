"""What the speed benchmarks run on: random ids in the shape of a real log, and models in the paper's size."""

from __future__ import annotations

import numpy as np
import torch

from latentloop.backbones.sasrec import SASRec, SASRecBlock
from latentloop.data.interactions import Interactions
from latentloop.data.splits import Split, leave_one_out
from latentloop.depth import LogNormalPoisson
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth

__all__ = ["DIM", "LENGTH", "loop", "padded_twin", "random_log", "random_split"]

DIM, LENGTH = 64, 20
_SHORTEST = 5


def random_log(num_users: int, num_items: int, average_length: float, seed: int = 0) -> Interactions:
    """Users of geometric length (at least 5) who take items at random."""
    rng = np.random.default_rng(seed)
    lengths = _SHORTEST + rng.geometric(1 / (average_length - _SHORTEST + 1), num_users) - 1
    user = np.repeat(np.arange(num_users), lengths)
    item = rng.integers(1, num_items + 1, len(user))
    item[:num_items] = rng.permutation(num_items) + 1  # every item occurs
    return Interactions.from_numbers(user, item, None, list(range(num_users)), list(range(num_items)))


def random_split(num_users: int, num_items: int, average_length: float) -> Split:
    """`random_log` split leave-one-out; the averages of Amazon's Musical Instruments are 57,439, 24,587 and 8.9."""
    return leave_one_out(random_log(num_users, num_items, average_length), LENGTH)


def loop(num_items: int, seed: int = 0) -> Recommender:
    """2 + 2 layers of SASRec, k-bar 3."""
    torch.manual_seed(seed)
    return build_recommender(SASRec(), num_items, dim=DIM, max_length=LENGTH, depth_law=LogNormalPoisson(3))


class _PaddedBlock(SASRecBlock):
    packed = False


def padded_twin(num_items: int, seed: int = 0) -> Recommender:
    """The same model kept to (B, L, d) rows."""
    torch.manual_seed(seed)
    blocks = (_PaddedBlock(DIM, layers=2), _PaddedBlock(DIM, layers=2))
    return Recommender(num_items, RecurrentDepth(*blocks, depth_law=LogNormalPoisson(3)), DIM, LENGTH)
