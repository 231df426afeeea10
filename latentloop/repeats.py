"""How many of a model's answers are items that the user already has, beside how many of the items asked for are.

Where items hardly come again, a ranking that keeps the history is lost at each of these places: of two models one may be
ahead there only because it repeats less, see `benchmarks/findings/readout.md`.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from latentloop.across_ranks import ALONE, Processes
from latentloop.checks import as_deep, at_least
from latentloop.data.sequences import Samples
from latentloop.evaluation import Thinker
from latentloop.items.top_k import top_k
from latentloop.modes.dropout import evaluating
from latentloop.thought_batches import check_asked, thought_batches

__all__ = ["Repeats", "repeats"]


@dataclass(frozen=True)
class Repeats:
    """What of the answers to S samples is of the user's own past, however long, with the history kept in the ranking.

    Args:
        first: share of samples whose best item is.
        of_best: mean number of the `k` best items that are.
        k: how many answers were looked at.
        asked: share of samples whose target is.
        samples: S.
    """

    first: float
    of_best: float
    k: int
    asked: float
    samples: int

    def to_dict(self) -> dict[str, float]:
        """Plain values, ready for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __str__(self) -> str:
        return (
            f"the first answer is an item that the user already has for {self.first:.1%} of {self.samples:,} samples, "
            f"{self.of_best:.2f} of the {self.k} best are, and {self.asked:.1%} of the items asked for"
        )


@torch.no_grad()
def repeats(
    model: Thinker,
    samples: Samples,
    *,
    k: int = 10,
    depth: int | None = None,
    batch_size: int = 1024,
    processes: Processes = ALONE,
) -> Repeats:
    """Count the answers that repeat the past, all items being candidates; these are of the thoughts that `evaluate` ranks.

    The best items are those of `recommend`: scores are float32, and ties go to the smaller item number. Naive equivalent:
    `ranked = model.score(history).argsort(descending=True) + 1; ranked[0] in past, len(past & set(ranked[:k])), target in
    past` for each sample, and their means.

    Args:
        model: what answers; it runs on its own device, in eval mode, and gets its mode back.
        samples: with targets, such as `split.test`; on any device.
        k: how many answers are looked at; at most N are.
        depth: thoughts before the answer; None is the model's inference depth.
        batch_size: samples at a time.
        processes: see `evaluate`.

    Raises:
        InputError: for no samples, samples without targets, a number out of range, or a catalog unlike the model's.
        InputTypeError: for what does not think, or what are no samples.
    """
    check_asked(model, samples)
    k, batch_size = min(at_least("k", k, 1), samples.num_items), at_least("batch_size", batch_size, 1)
    depth = model.inference_depth if depth is None else as_deep("depth", depth)
    with evaluating(model) if isinstance(model, nn.Module) else nullcontext():
        keys = model.keys()
        samples, size = samples.to(keys.device), samples.num_items + 1
        found = torch.zeros(3, dtype=torch.int64, device=keys.device)
        for index, steps in thought_batches(
            model, samples, depth=depth, dim=keys.shape[1], batch_size=batch_size, processes=processes
        ):
            _, best = top_k(model.queries(steps[-1]), keys, k)
            items, offsets = samples.past(index)
            row = torch.arange(len(index), device=samples.device)
            past = torch.repeat_interleave(row, offsets.diff()) * size + items
            own = torch.isin(row[:, None] * size + best, past)
            found += torch.stack(
                [own[:, 0].sum(), own.sum(), torch.isin(row * size + samples.target(index), past).sum()]
            )
        first, of_best, asked = (count / len(samples) for count in processes.add_up(found).tolist())
    return Repeats(first, of_best, k, asked, len(samples))
