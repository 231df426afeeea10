"""Studies of the recipe, one change at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.paper.cell import Cell
from benchmarks.paper.rows import Row

__all__ = ["study", "study_rpt"]


_GOES_ON = "pre-training goes on"
"""Post-training's rival: as many epochs more at the same learning rate."""


def study(data: str) -> list[Row]:
    """Pre-training's recipe, one change at a time; choose on validation."""
    center = Cell(data)
    changes: dict[str, dict[str, Any]] = {
        "post norm": {"norm": "post"},
        "mean depth 1": {"mean_depth": 1},
        "fixed depth": {"depth": "fixed"},
        "no alignment": {"alpha": 0.0, "gamma": 0.0},
        "alpha .3": {"alpha": 0.3},
        "gamma 0": {"gamma": 0.0},
        "tau .1": {"temperature": 0.1},
        "tau 1": {"temperature": 1.0},
        "dot, tau 1": {"similarity": "dot", "temperature": 1.0},
        "positives self": {"positives": "self"},
        "false negatives kept": {"keep_false_negatives": True},
        "aggregate mean": {"aggregate": "mean"},
        "aggregate concat": {"aggregate": "concat"},
        "aggregate gate": {"aggregate": "gate"},
        "state std .1": {"state_std": 0.1},
        "zero state": {"inference_state": "zero"},
        "fresh state": {"inference_state": "fresh"},
        "weight decay .1": {"weight_decay": 0.1},
        "1 + 1 layers": {"pre_layers": 1, "core_layers": 1},
        "tied layers": {"tied": True},
    }
    # these fields are the command line's elsewhere
    own: dict[str, dict[str, Any]] = {
        "learning rate 3e-4": {"learning_rate": 3e-4},
        "learning rate 1e-3": {"learning_rate": 1e-3},
        "learning rate 3e-3": {"learning_rate": 3e-3},
        "batch 64": {"batch_size": 64},
        "batch 256": {"batch_size": 256},
        "batch 1024": {"batch_size": 1024},
        "dropout .3": {"dropout": 0.3},
        "cosine schedule": {"schedule": "cosine"},
    }
    rows = [
        Row("Base", replace(center, kind="plain", alpha=0.0)),
        Row("Base, aligned", replace(center, kind="plain"), "Base"),
        Row("SPT", center, "Base"),
        Row("Base, equal FLOPs", replace(center, kind="plain-deep", alpha=0.0), "Base"),
        Row("Base, 2 + 4 layers", replace(center, kind="plain", alpha=0.0, core_layers=2 * center.core_layers), "Base"),
        Row("Base, cosine scores", replace(center, kind="plain", alpha=0.0, scorer="cosine"), "Base"),
        Row("Base, aligned, cosine scores", replace(center, kind="plain", scorer="cosine"), "Base, cosine scores"),
        Row("SPT, cosine scores", replace(center, scorer="cosine"), "Base, cosine scores"),
        Row(
            "no alignment, cosine scores", replace(center, alpha=0.0, gamma=0.0, scorer="cosine"), "Base, cosine scores"
        ),
    ]
    # what a model could need not to answer with what the history is made of: a way out of the items' own space
    rows += [
        Row("Base, mapped scores", replace(center, kind="plain", alpha=0.0, scorer="mapped"), "Base"),
        Row(
            "no alignment, mapped scores", replace(center, alpha=0.0, gamma=0.0, scorer="mapped"), "Base, mapped scores"
        ),
        Row(
            "no alignment, aggregate concat",
            replace(center, alpha=0.0, gamma=0.0, aggregate="concat"),
            "Base, mapped scores",
        ),
    ]
    # what a loop could need beside its weights: to know how far it goes, and which thought it makes
    alone = replace(center, alpha=0.0, gamma=0.0)
    fixed = replace(alone, depth="fixed")
    rows += [
        Row("no alignment, fixed depth", fixed, "Base"),
        Row("no alignment, own norms", replace(alone, own="norms"), "Base"),
        Row("no alignment, fixed depth, own norms", replace(fixed, own="norms"), "Base"),
        Row("no alignment, fixed depth, own norms and ranks", replace(fixed, own="ranks"), "Base"),
        Row("no alignment, fixed depth, own layers", replace(fixed, own="layers"), "Base"),
    ]
    # what else could pay, for plain models and the loop alike: knowing the items' texts, and width
    wide = 2 * center.dim
    for label, change in {"items from texts": {"items": "texts"}, f"d {wide}": {"dim": wide}}.items():
        plain = Row(f"Base, {label}", replace(rows[0].cell, **change), "Base")
        rows += [
            plain,
            Row(f"Base, equal FLOPs, {label}", replace(plain.cell, kind="plain-deep"), plain.label),
            Row(f"no alignment, {label}", replace(plain.cell, kind="loop", gamma=0.0), plain.label),
            Row(f"SPT, {label}", replace(center, **change), plain.label),
        ]
    own_norms = "no alignment, fixed depth, own norms, items from texts"
    rows.append(Row(own_norms, replace(fixed, own="norms", items="texts"), "Base, items from texts"))
    rows.append(
        Row("Base, items from shuffled texts", replace(rows[0].cell, items="shuffled texts"), "Base, items from texts")
    )
    rows += [Row(label, replace(center, **change), "SPT") for label, change in changes.items()]
    return rows + [Row(label, replace(center, **change), "SPT", tuple(change)) for label, change in own.items()]


def study_rpt(data: str) -> list[Row]:
    """Post-training's recipe, from the same pre-trained model."""
    center = Cell(data, rpt=True, rpt_epochs=5, rpt_learning_rate=1e-4)
    changes: dict[str, dict[str, Any]] = {
        "target policy": {},
        "hybrid policy": {"policy": "hybrid"},
        "top policy": {"policy": "top"},
        "hybrid, lr 3e-4": {"policy": "hybrid", "rpt_learning_rate": 3e-4},
        "hybrid, lr 1e-5": {"policy": "hybrid", "rpt_learning_rate": 1e-5},
        "hybrid, clipped at 1": {"policy": "hybrid", "clip_norm": 1.0},
        "hybrid, dropout": {"policy": "hybrid", "rollout_dropout": True},
        "hybrid, own depth": {"policy": "hybrid", "own_depth": True},
        "hybrid, dropout and own depth": {"policy": "hybrid", "rollout_dropout": True, "own_depth": True},
        "hybrid, Recall@5": {"policy": "hybrid", "reward": "recall@5"},
        "hybrid, Recall@20": {"policy": "hybrid", "reward": "recall@20"},
        "hybrid, NDCG@10": {"policy": "hybrid", "reward": "ndcg@10"},
        "hybrid, NDCG@100": {"policy": "hybrid", "reward": "ndcg@100"},
        "target, NDCG@10": {"reward": "ndcg@10"},
        "hybrid, NDCG@10, dropout": {"policy": "hybrid", "reward": "ndcg@10", "rollout_dropout": True},
        "hybrid, KL on the target": {"policy": "hybrid", "kl": "target"},
        "hybrid, beta .1": {"policy": "hybrid", "kl_weight": 0.1},
        "hybrid, ratio by step": {"policy": "hybrid", "ratio": "step"},
    }
    rows = [Row("LR+SPT", center.pretrained), Row(_GOES_ON, replace(center, policy="none"), "LR+SPT")]
    rows += [Row(label, replace(center, **change), _GOES_ON) for label, change in changes.items()]
    # what a model has learned by heart rewards nearly every rollout: here it has not seen what it is rewarded for
    apart, start = replace(center, held_out=True), "LR+SPT, newest held out"
    rival = f"newest held out: {_GOES_ON}"
    rows += [Row(start, apart.pretrained, "LR+SPT"), Row(rival, replace(apart, policy="none"), start)]
    held: dict[str, dict[str, Any]] = {
        "pre-training goes on, lr 3e-4": {"policy": "none", "rpt_learning_rate": 3e-4},
        "target policy": {},
        "hybrid policy": {"policy": "hybrid"},
        "hybrid, NDCG@10": {"policy": "hybrid", "reward": "ndcg@10"},
        "hybrid, NDCG@10, lr 3e-4": {"policy": "hybrid", "reward": "ndcg@10", "rpt_learning_rate": 3e-4},
    }
    return rows + [Row(f"newest held out: {label}", replace(apart, **change), rival) for label, change in held.items()]
