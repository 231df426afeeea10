"""Items whose key is, bit for bit, an earlier item's: they score alike, which a matrix product alone does not promise.

Shapes: N items, d latent size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentloop.items.scores import ACCELERATOR_BUDGET

__all__ = ["same_keys"]


def same_keys(keys: Float[Tensor, "N d"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Columns whose key equals an earlier one, bit for bit, and for each the first such column."""
    keys = keys.to(torch.promote_types(keys.dtype, torch.float32))
    # most often no two keys begin alike, and then no more than their beginnings need be read
    alike = _repeated(_hashes(keys[:, :2]))
    if not alike.numel():
        return alike, alike
    hashes = _hashes(keys[alike])
    values, order = hashes.sort(stable=True)
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    leader = order[first][first.cumsum(0) - 1]
    copies, originals = alike[order[~first]], alike[leader[~first]]
    equal = (keys[copies] == keys[originals]).all(1)  # two keys of one hash that differ keep their own scores
    return copies[equal], originals[equal]


def _hashes(keys: Tensor) -> Tensor:
    """A hash of each key's bits, (N,) int64."""
    width = torch.int64 if keys.dtype == torch.float64 else torch.int32
    mixer = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (keys.shape[1],), generator=mixer).to(keys.device) * 2 + 1
    hashes = torch.empty(keys.shape[0], dtype=torch.int64, device=keys.device)
    step = max(1, ACCELERATOR_BUDGET // max(1, keys.shape[1]))
    for start in range(0, keys.shape[0], step):
        bits = (keys[start : start + step] + 0.0).view(width).long() * weights  # + 0.0: minus zero becomes zero
        hashes[start : start + step] = ((bits ^ (bits >> 29)) * weights).sum(1)
    return hashes


def _repeated(values: Tensor) -> Tensor:
    """Places, rising, of values that occur more than once."""
    ordered, order = values.sort(stable=True)
    same = ordered[1:] == ordered[:-1]
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[1:] = same
    repeated[:-1] |= same
    return order[repeated].sort().values
