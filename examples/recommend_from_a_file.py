"""From a file of interactions to recommendations for a new history, in Python.

python examples/recommend_from_a_file.py FILE
"""

from __future__ import annotations

import sys

from latentloop import Recommender, k_core, load_interactions, two_stage
from latentloop.backbones.sasrec import SASRec
from latentloop.items.ids import ItemId
from latentloop.recipes import build_recommender


def main(source: str, epochs: int = 50, folder: str | None = None) -> list[ItemId]:
    """Train on a file and return five items for the first user."""
    data = k_core(load_interactions(source), 5)
    model = build_recommender(SASRec(dropout=0.2), data.num_items, dropout=0.2)
    two_stage(model, data, epochs=epochs, rpt_epochs=1, batch_size=128, learning_rate=3e-3)
    if folder is not None:
        model.save_pretrained(folder)
        model = Recommender.from_pretrained(folder)
    found = model.recommend(users=[data.user_ids[0]], data=data, k=5)
    for item, score in zip(found.items[0], found.scores[0], strict=True):
        print(item, round(score, 3))
    return found.items[0]


if __name__ == "__main__":
    main(sys.argv[1])
