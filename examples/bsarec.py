"""BSARec's mix in the loop: both stages, the plain backbone beside it, and items for one user.

python examples/bsarec.py [FILE]      # a file of interactions; a synthetic log when not given
"""

from __future__ import annotations

import sys

from latentloop import k_core, load_interactions, two_stage
from latentloop.backbones.bsarec import BSARec
from latentloop.data.synthetic import synthetic_log
from latentloop.recipes import build_recommender
from latentloop.two_stage import TwoStage


def main(source: str | None = None, epochs: int = 6) -> TwoStage:
    """Train, print the test metrics of each row and five items for the first user."""
    data = k_core(load_interactions(source), 5) if source else synthetic_log(num_users=400, num_items=120)
    backbone = BSARec(pre_layers=1, core_layers=1, dropout=0.2)
    model = build_recommender(backbone, data.num_items, dropout=0.2)
    base = build_recommender(backbone, data.num_items, dropout=0.2, loop=False)
    result = two_stage(model, data, base=base, epochs=epochs, rpt_epochs=1, batch_size=128, learning_rate=3e-3)
    for row, metrics in result.metrics.items():
        print(f"{row:12}", {name: round(metrics[name], 4) for name in ("recall@10", "ndcg@10")})
    user = data.user_ids[0]
    print(user, "->", *result.model.recommend(users=[user], data=data, k=5).items[0])
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
