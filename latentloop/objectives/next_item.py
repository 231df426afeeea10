"""The recommendation loss (LARES eq. 7): over all items, or over sampled ones for huge catalogs."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

from latentloop.checks import at_least
from latentloop.data.batch import Batch
from latentloop.errors import InputError
from latentloop.items.softmax import cross_entropy
from latentloop.objectives.compose import Composable
from latentloop.objectives.contract import Terms
from latentloop.objectives.shown import shown
from latentloop.objectives.views import Views
from latentloop.randomness import fold, generator

__all__ = ["NextItem", "SampledNextItem"]


class NextItem(Composable):
    """L_rec = -log softmax(p E^T)[target] over items 1..N; padding is never scored."""

    views = ("anchor",)

    def __call__(self, views: Views, batch: Batch) -> tuple[Tensor, Terms]:
        """The mean over the batch; term `next_item`."""
        model = views.model
        loss = cross_entropy(model.queries(views["anchor"].final), model.keys(), batch.target)
        return loss, {"next_item": loss.detach()}

    def __repr__(self) -> str:
        return "NextItem()"


class SampledNextItem(Composable):
    """`NextItem` with the softmax's denominator estimated from negatives that the whole batch shares.

    Negatives v are drawn with replacement from a proposal q; each counts exp(s_v) / (M q(v)) (the logQ correction), the
    target counts exp(s_target), and draws that hit the row's own target count nothing. The expectation of this sum is
    the full denominator, so the loss tends to `NextItem` as M grows.

    Args:
        num_negatives: M, draws a step.
        item_counts: (N,) how often each of items 1..N occurs; q is then proportional to max(count, 1) ** power.
            None draws uniformly.
        power: 0 is uniform, 1 the items' frequency.

    Raises:
        InputError: for a value out of range.
    """

    views = ("anchor",)
    touches_few_items = True

    def __init__(
        self, num_negatives: int = 1024, *, item_counts: Int[Tensor, " N"] | None = None, power: float = 0.75
    ) -> None:
        self.num_negatives = at_least("num_negatives", num_negatives, 1)
        if not math.isfinite(power):
            raise InputError(f"power must be finite, got {power!r}")
        self.power = float(power)
        self._cumulative: Tensor | None = None
        if item_counts is not None:
            if item_counts.ndim != 1 or not len(item_counts) or bool((item_counts < 0).any()):
                raise InputError("item_counts must be one count of at least 0 for each of items 1..N")
            weights = item_counts.cpu().double().clamp_min(1) ** self.power
            self._cumulative = (weights / weights.sum()).cumsum(0)
            self._log_proposal = (weights / weights.sum()).log()

    def __call__(self, views: Views, batch: Batch) -> tuple[Tensor, Terms]:
        """The mean over the batch; term `next_item`."""
        model = views.model
        negatives, log_expected = self.draw(model.num_items, batch.key)
        negatives, log_expected = negatives.to(batch.target.device), log_expected.to(batch.target.device)
        queries = model.queries(views["anchor"].final).float()
        with torch.autocast(device_type=queries.device.type, enabled=False):
            ids, where = torch.unique(torch.cat([batch.target, negatives]), return_inverse=True)
            keys = model.scorer.keys(model.item_table(ids)).float()[where]
            own = (queries * keys[: len(queries)]).sum(1, keepdim=True)
            others = queries @ keys[len(queries) :].T - log_expected
            others = others.masked_fill(negatives == batch.target[:, None], -torch.inf)
            loss = (torch.cat([own, others], 1).logsumexp(1) - own[:, 0]).mean()
        return loss, {"next_item": loss.detach()}

    def draw(self, num_items: int, key: int) -> tuple[Tensor, Tensor]:
        """M item ids, drawn by `key`, and log(M q) of each, float32.

        Raises:
            InputError: where `item_counts` are not for `num_items` items.
        """
        draw = generator(fold(key, "negatives"))
        if self._cumulative is None:
            negatives = torch.randint(1, num_items + 1, (self.num_negatives,), generator=draw)
            return negatives, torch.full((self.num_negatives,), math.log(self.num_negatives / num_items))
        if len(self._cumulative) != num_items:
            raise InputError(f"item_counts must be {num_items} counts, one an item, got {len(self._cumulative)}")
        uniform = torch.rand(self.num_negatives, generator=draw, dtype=torch.float64)
        columns = torch.searchsorted(self._cumulative, uniform, right=True).clamp_max(num_items - 1)
        return columns + 1, (self._log_proposal[columns] + math.log(self.num_negatives)).float()

    def __repr__(self) -> str:
        counted = "" if self._cumulative is None else f", item_counts=<{len(self._cumulative)} counts>"
        return shown(self)[:-1] + counted + ")"
