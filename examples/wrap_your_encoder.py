"""Wrap encoders that know nothing of latentloop: three lines each, then one call trains both stages.

python examples/wrap_your_encoder.py [FILE]      # a file of interactions; a synthetic log when not given
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from latentloop import Recommender, RecurrentDepth, k_core, load_interactions, two_stage
from latentloop.data.synthetic import synthetic_log


class Smoother(nn.Module):
    """A module of one's own: each position meets a decaying sum of the older ones."""

    def __init__(self, dim: int, decay: float = 0.7) -> None:
        super().__init__()
        self.mix, self.norm, self.decay = nn.Linear(2 * dim, dim), nn.LayerNorm(dim), decay

    def forward(self, x: Tensor, padding_mask: Tensor) -> Tensor:
        """(B, L, d) and (B, L), True = padding -> (B, L, d)."""
        x = x.masked_fill(padding_mask[..., None], 0.0)
        past, rows = torch.zeros_like(x[:, 0]), []
        for position in x.unbind(1):
            rows.append(self.norm(position + self.mix(torch.cat([position, past], dim=-1)).tanh()))
            past = self.decay * past + position
        return torch.stack(rows, dim=1)


def main(source: str | None = None, epochs: int = 6) -> dict[str, dict[str, float]]:
    """Train both encoders and return the validation NDCG@10 of each row of their tables."""
    data = k_core(load_interactions(source), 5) if source else synthetic_log(num_users=800, num_items=200)
    found = {}
    for name, block in (("GRU", lambda: nn.GRU(64, 64, batch_first=True)), ("Smoother", lambda: Smoother(64))):
        encoder = RecurrentDepth(block(), block(), aggregate="add")
        model = Recommender(num_items=data.num_items, encoder=encoder, dim=64, max_length=20, dropout=0.2)
        result = two_stage(model, data, epochs=epochs, rpt_epochs=1, batch_size=256, learning_rate=3e-3)
        found[name] = {row: outcome.validation.metrics["ndcg@10"] for row, outcome in result.outcomes.items()}
        print(name, {row: round(value, 4) for row, value in found[name].items()})
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
