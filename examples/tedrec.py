"""TedRec's fusion of ids and texts in the loop: both stages, the plain backbone beside it, and items for one user.

python examples/tedrec.py [FILE TEXTS]    # interactions and a file of item ids and texts; synthetic ones when not given
"""

from __future__ import annotations

import sys

from latentloop import k_core, load_interactions, two_stage
from latentloop.backbones.tedrec import TedRec
from latentloop.data.hashing_encoder import HashingEncoder
from latentloop.data.item_text import load_item_text
from latentloop.data.synthetic import synthetic_log
from latentloop.data.text_encoders import encode_item_text
from latentloop.recipes import build_recommender
from latentloop.two_stage import TwoStage


def main(source: str | None = None, texts: str | None = None, epochs: int = 6) -> TwoStage:
    """Train, print the test metrics of each row and five items for the first user."""
    if source and not texts:
        raise SystemExit("TedRec reads item texts: give a file of item ids and texts too")
    data = k_core(load_interactions(source), 5) if source else synthetic_log(num_users=400, num_items=120)
    known = load_item_text(texts) if texts else {i: f"category {int(str(i)[5:]) % 16}" for i in data.item_ids}
    text = encode_item_text(data.item_ids, known, HashingEncoder(dim=128))
    backbone = TedRec(text=text, pre_layers=1, core_layers=1, dropout=0.2)
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
