"""How hard each term of pre-training pulls: the norm of its gradient, beside that of the next-item loss."""

from __future__ import annotations

import math
from itertools import islice

import torch
from torch import Tensor

from latentloop.data.batch import batches
from latentloop.data.positives import SameTarget
from latentloop.data.sequences import Samples
from latentloop.data.windows import Windows
from latentloop.objectives import SPT, views_of
from latentloop.objectives.contract import call
from latentloop.objectives.views import encode_views
from latentloop.randomness import dropout_seed, fold
from latentloop.recommender import Recommender

__all__ = ["gradient_norms"]

BATCHES = 4


def gradient_norms(
    model: Recommender, objective: SPT, samples: Samples, batch_size: int, seed: int
) -> dict[str, dict[str, float]]:
    """By term ("next item", "trajectory", "step"), the norms of its weighted gradient, means over a few batches.

    The batches, their depths, T_0 and dropout depend on the seed alone, so two models see the same. Nothing of the
    model changes.

    Args:
        model: whose gradients.
        objective: the weighted terms.
        samples: training samples, on the model's device.
        batch_size: rows of a batch, as in training.
        seed: of the batches.

    Returns:
        For each term "encoder" (its parameters, all as one vector) and "items" (the item table).
    """
    names = views_of(objective)
    rows = Windows.of(samples) if "everywhere" in names else samples
    positives = SameTarget(samples) if "same_target" in names else False
    loop = batches(rows, batch_size, key=fold(seed, "gradients"), epoch=1, same_target=positives)
    encoder, table = list(model.encoder.parameters()), model.item_table.weight
    found: dict[str, dict[str, list[float]]] = {}
    training = model.training
    model.train()
    for batch in islice(loop, BATCHES):
        with dropout_seed(fold(batch.key, "dropout"), model.device):
            views = encode_views(model, batch, names)
            for part in objective.parts:
                loss, terms = call(part, views, batch)
                gradients = torch.autograd.grad(loss, [*encoder, table], retain_graph=True, allow_unused=True)
                norms = found.setdefault(next(iter(terms)).replace("_", " "), {"encoder": [], "items": []})
                norms["encoder"].append(_norm(gradients[:-1]))
                norms["items"].append(_norm(gradients[-1:]))
    model.train(training)
    return {
        term: {name: float(f"{sum(values) / len(values):.4g}") for name, values in norms.items()}
        for term, norms in found.items()
    }


def _norm(gradients: tuple[Tensor | None, ...]) -> float:
    """Of all of them as one vector; what a loss does not reach counts as 0."""
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients if gradient is not None))
