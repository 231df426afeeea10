"""Wrap encoders that know nothing of latentloop: three lines each, then one call trains both stages.

python examples/wrap_your_encoder.py [FILE]      # a file of interactions; a synthetic log when not given
"""

from __future__ import annotations

import sys

from torch import Tensor, nn

from latentloop import Recommender, RecurrentDepth, k_core, load_interactions, two_stage
from latentloop.data.synthetic import synthetic_log


class Smoother(nn.Sequential):
    """A module of one's own: each position meets the mean of those before it."""

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """(B, L, d) and (B, L), True = padding -> (B, L, d)."""
        real = (~padding_mask).unsqueeze(-1).to(x.dtype)
        return x + super().forward((x * real).cumsum(1) / real.cumsum(1).clamp_min(1))


def main(source: str | None = None, epochs: int = 6) -> dict[str, dict[str, float]]:
    """Train both encoders and return the validation NDCG@10 of each row of their tables."""
    data = k_core(load_interactions(source), 5) if source else synthetic_log(num_users=800, num_items=200)
    found, own = {}, lambda: Smoother(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
    for name, block in (("GRU", lambda: nn.GRU(64, 64, batch_first=True)), ("Smoother", own)):
        encoder = RecurrentDepth(block(), block(), aggregate="add")
        model = Recommender(num_items=data.num_items, encoder=encoder, dim=64, max_length=20, dropout=0.2)
        result = two_stage(model, data, epochs=epochs, rpt_epochs=1, batch_size=256, learning_rate=3e-3)
        found[name] = {row: outcome.validation.metrics["ndcg@10"] for row, outcome in result.outcomes.items()}
        print(name, {row: round(value, 4) for row, value in found[name].items()})
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
