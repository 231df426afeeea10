"""Plain backbones under their published settings on a public file, to hold against the published numbers.

    python -m benchmarks.fidelity beauty.txt.gz --backbone bsarec --padding keep --out RUN
    python -m benchmarks.fidelity ml-1m.txt.gz --backbone tedrec --item-embeddings ml-1m.text.npy --dim 300 \\
        --learning-rate 1e-3 --batch-size 2048 --keep-history --out RUN

Published for Beauty (Amazon 2014, 22,363 users, 12,101 items), full ranking with the history left out: BSARec test
NDCG@10 .0611 with d 64, 2 layers, 1 head, L 50, batch 256, learning rate 5e-4, dropout .5, alpha .7, c 5. For ML-1M
(6,040 users, 3,416 items), the history kept: TedRec .1445 with d 300, L 50 and texts encoded by BERT (TedRec, Table 3).
The epoch is chosen by the same kind of ranking. Continues where it was stopped when it is started again.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from benchmarks.paper.models import text_hash
from benchmarks.told import told
from latentloop.backbones.bsarec import BSARec
from latentloop.backbones.fmlprec import FMLPRec
from latentloop.backbones.sasrec import SASRec
from latentloop.backbones.tedrec import TedRec
from latentloop.data.readers import load_interactions
from latentloop.data.sequences import Samples
from latentloop.data.splits import leave_one_out
from latentloop.data.text_encoders import load_text_features
from latentloop.evaluation import evaluate
from latentloop.followers import Followers
from latentloop.objectives import NextItem
from latentloop.recipes import build_recommender
from latentloop.runs.directory import RunDirectory
from latentloop.training import fit


@dataclass(frozen=True)
class Options:
    """Which backbone, and how it is trained."""

    source: tyro.conf.Positional[str]
    """A file of interactions, filtered already."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Where the run is kept; the same options continue it."""
    backbone: Literal["sasrec", "fmlprec", "bsarec", "tedrec"] = "bsarec"
    """Two layers of it, post-norm as published."""
    padding: Literal["zero", "keep"] = "zero"
    """What filters see at padded positions; zeros let packed tokens do."""
    alpha: float = BSARec.alpha
    """Of BSARec: weight of the frequency rescaler."""
    cutoff: int = BSARec.cutoff
    """Of BSARec: c of the rescaler's low pass."""
    heads: int = BSARec.heads
    """Of BSARec: attention heads."""
    item_embeddings: Path | None = None
    """Texts of the items for TedRec, a row each."""
    dim: int = 64
    """d."""
    keep_history: bool = False
    """Rank the items of a user's past as well when choosing the epoch."""
    epochs: int = 200
    """At most."""
    patience: int = 10
    """Epochs without a better validation NDCG@10."""
    batch_size: int = 256
    """Samples of a step."""
    learning_rate: float = 5e-4
    """AdamW's."""
    init_std: float = 0.02
    """Matrices begin as N(0, init_std^2), as published, and biases as zeros."""
    first_items: bool = False
    """Also learn each user's first item, after an empty history."""
    seed: int = 0
    """Of everything random."""


def _with_first_items(samples: Samples) -> Samples:
    first = samples.sequences.offsets[:-1]
    user, end = torch.cat([samples.user, torch.arange(len(first))]), torch.cat([samples.end, first])
    return Samples(samples.sequences, user, end, samples.max_length)


def main(options: Options) -> dict[str, Any]:
    """Train, and report the test metrics with and without the history in the ranking, and with counts of followers."""
    split = leave_one_out(load_interactions(options.source), 50)
    common: dict[str, Any] = {"pre_layers": 1, "core_layers": 1, "norm": "post"}
    backbone = {
        "sasrec": lambda: SASRec(**common),
        "fmlprec": lambda: FMLPRec(**common, padding=options.padding),
        "bsarec": lambda: BSARec(
            **common, padding=options.padding, alpha=options.alpha, cutoff=options.cutoff, heads=options.heads
        ),
        "tedrec": lambda: TedRec(
            **common, text=load_text_features(split.item_ids, item_embeddings=options.item_embeddings)
        ),
    }[options.backbone]()
    torch.manual_seed(options.seed)
    model = build_recommender(backbone, split.num_items, dim=options.dim, max_length=50, loop=False)
    for module in model.modules():
        # gates and experts of TedRec's texts begin as its paper has them
        if isinstance(module, torch.nn.Linear) and options.backbone != "tedrec":
            torch.nn.init.normal_(module.weight, std=options.init_std)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    settings = {
        "epochs": options.epochs,
        "patience": options.patience,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "exclude_history": not options.keep_history,
        "seed": options.seed,
    }
    config = {"source": options.source, "backbone": options.backbone, "padding": options.padding, "dim": options.dim}
    config |= {"alpha": options.alpha, "cutoff": options.cutoff, "heads": options.heads}
    config |= {"init_std": options.init_std, "first_items": options.first_items, **settings}
    if options.item_embeddings is not None:
        config["item_embeddings"] = text_hash(options.item_embeddings)
    train = _with_first_items(split.train) if options.first_items else split.train
    resume = (options.out / "config.json").is_file()
    run = RunDirectory.create(options.out, config, resume=resume, defaults=config)  # older runs do not name all of it
    fitted = fit(model, train, split.validation, NextItem(), stage="base", run=run, **settings)
    found: dict[str, Any] = {"validation": fitted.best, "epoch": fitted.best_epoch, "epochs": fitted.epochs}
    for name, excluded in (("history excluded", True), ("history kept", False)):
        ranking: dict[str, Any] = {"exclude_history": excluded, "stage": "base"}
        found[name] = dict(evaluate(model, split.test, **ranking).metrics)
        bonus = Followers.of(split).tuned(model, split.validation, exclude_history=excluded)
        found[f"{name}, plus {bonus}"] = dict(evaluate(model, split.test, bonus=bonus, **ranking).metrics)
    print(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with told():
        main(tyro.cli(Options))
