"""What the speed benchmarks run on: random ids in the shape of a real log, and models in the paper's size."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.options import Device
from latentloop.backbones.sasrec import SASRec, SASRecBlock
from latentloop.data.interactions import Interactions
from latentloop.data.splits import Split, leave_one_out
from latentloop.depth import LogNormalPoisson
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.recurrence import RecurrentDepth

__all__ = ["DIM", "LENGTH", "base", "loop", "padded_twin", "random_split", "write_log"]

DIM, LENGTH = 64, 20
_SHORTEST, _SPREAD = 5, 0.58


@lru_cache(maxsize=2)
def random_split(num_users: int, num_items: int, average_length: float, seed: int = 0) -> Split:
    """Users of at least 5 items, a few of them of many, who take items at random, split leave-one-out.

    The spread of lengths gives a history of 5.8 items in an average training sample at 8.9 items a user.
    """
    rng = np.random.default_rng(seed)
    more = (average_length - _SHORTEST) / _SPREAD
    lengths = _SHORTEST + rng.poisson(rng.gamma(_SPREAD, more, num_users))
    user = np.repeat(np.arange(num_users), lengths)
    item = rng.integers(1, num_items + 1, len(user))
    item[:num_items] = rng.permutation(num_items)[: len(item)] + 1  # every item occurs where there are rows for it
    log = Interactions.from_numbers(user, item, None, list(range(num_users)), list(range(num_items)))
    return leave_one_out(log, LENGTH)


def write_log(path: Path, rows: int, *, text: bool = False, seed: int = 0) -> None:
    """A Parquet file of about so many rows in random order, in which a 5-core drops users and items.

    Users are of geometric length, 10 on average, and take items of very different popularity.

    Args:
        path: the file.
        rows: about how many.
        text: whether ids are text as in Amazon's files instead of integers.
        seed: of everything random.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(rows // 10), rng.geometric(0.1, rows // 10))
    rng.shuffle(user)
    item = (rng.random(len(user)) ** 4 * (rows // 20)).astype(np.int64)
    time = rng.integers(1_500_000_000, 1_700_000_000, len(user))
    columns = {"user": pa.array(user), "item": pa.array(item), "timestamp": pa.array(time)}
    if text:
        for name, letter in (("user", "A"), ("item", "B")):
            numbers = pa.compute.utf8_lpad(columns[name].cast(pa.string()), 12, "0")
            columns[name] = pa.compute.binary_join_element_wise(letter, numbers, "")
    pq.write_table(pa.table(columns), path)


def loop(num_items: int, seed: int = 0, device: Device = "cpu") -> Recommender:
    """2 + 2 layers of SASRec, k-bar 3."""
    torch.manual_seed(seed)
    model = build_recommender(SASRec(), num_items, dim=DIM, max_length=LENGTH, depth_law=LogNormalPoisson(3))
    return model.to(device)


def base(num_items: int, layers: int, seed: int = 0, device: Device = "cpu") -> Recommender:
    """So many layers of SASRec without a loop."""
    torch.manual_seed(seed)
    backbone = SASRec(pre_layers=layers - layers // 2, core_layers=layers // 2)
    return build_recommender(backbone, num_items, dim=DIM, max_length=LENGTH, loop=False).to(device)


class _PaddedBlock(SASRecBlock):
    packed = False


def padded_twin(num_items: int, seed: int = 0, device: Device = "cpu") -> Recommender:
    """The same model as `loop`, kept to (B, L, d) rows."""
    torch.manual_seed(seed)
    blocks = (_PaddedBlock(DIM, layers=2), _PaddedBlock(DIM, layers=2))
    return Recommender(num_items, RecurrentDepth(*blocks, depth_law=LogNormalPoisson(3)), DIM, LENGTH).to(device)
