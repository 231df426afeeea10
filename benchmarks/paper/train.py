"""A cell is trained where it stands, tested once, and becomes a line."""

from __future__ import annotations

import base64
import dataclasses
import zlib
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.cell import UNTRAINED, Cell
from benchmarks.paper.data import load_split
from benchmarks.paper.gradients import gradient_norms
from benchmarks.paper.models import build, pre_training, reads_texts, text_hash, text_path, texts
from benchmarks.paper.thinking import thinking
from latentloop.baselines import chance, followers, popularity
from latentloop.data.card import content_hash
from latentloop.data.sequences import Samples
from latentloop.data.splits import Split
from latentloop.evaluation import evaluate
from latentloop.fitting.accelerator import make_accelerator
from latentloop.followers import Followers
from latentloop.measures.metrics import Ranks, ndcg
from latentloop.measures.results import Evaluation
from latentloop.objectives import RPT, NDCGReward, RecallReward, select
from latentloop.randomness import dropout_seed, fold
from latentloop.recommender import Recommender
from latentloop.repeats import Repeats, repeats
from latentloop.runs.directory import RunDirectory
from latentloop.training import Fitted, fit

__all__ = ["parts_of_training", "run_cell"]

_LARGEST = 254  # a rank beyond it adds nothing to any metric that is reported


def run_cell(cell: Cell, folder: Path, work: Path, device: str | None = None) -> dict[str, Any]:
    """Train a cell where it stands in `work`, test once, and return its line."""
    split = load_split(cell.data, folder, cell.max_length)
    if cell.kind in UNTRAINED:
        make = {"chance": chance, "popularity": popularity, "followers": followers}[cell.kind]
        found = {name: make(split, part, name=name) for name, part in _parts(split)}
        line = _line(cell, split, found)
        apart = {name: make(split, part, name=name, exclude_history=True) for name, part in _parts(split)}
        line["excluded"] = {name: dict(evaluation.metrics) for name, evaluation in apart.items()}
        line["excluded"] |= _by_user(apart["test"].ranks)
        return line
    model = build(cell, split.num_items, texts(cell, split, folder))
    accelerator = make_accelerator(device=device)
    pre = cell.pretrained
    settings: dict[str, Any] = {
        "patience": cell.patience, "seed": cell.seed, "accelerator": accelerator,
        "exclude_history": cell.choose_without_history,
    }  # fmt: skip
    run = RunDirectory.create(
        work / pre.key, dataclasses.asdict(pre), resume=(work / pre.key / "config.json").is_file(),
        defaults=dataclasses.asdict(Cell(cell.data)),
    )  # fmt: skip
    objective = pre_training(cell)
    first, later = parts_of_training(split.train.to(accelerator.device), cell.held_out)
    norms = {"as it came": gradient_norms(model.to(accelerator.device), objective, first, cell.batch_size, cell.seed)}
    fitted = fit(
        model, first, split.validation, objective, run=run, epochs=cell.epochs, batch_size=cell.batch_size,
        learning_rate=cell.learning_rate, weight_decay=cell.weight_decay, schedule=cell.schedule, **settings,
    )  # fmt: skip
    norms["best"] = gradient_norms(model, objective, first, cell.batch_size, cell.seed)
    if cell.rpt:
        fitted = _post_train(cell, model, later, split.validation, run, settings)
    depths = [1, 2, 3, 4, 6, 8] if cell.kind == "loop" else None
    with dropout_seed(fold(cell.seed, "evaluation"), model.device):  # of answers from a fresh T_0
        evaluations = {
            name: evaluate(model, part, split=name, stage=cell.kind, depths=depths, seeds=(cell.seed,))
            for name, part in _parts(split)
        }
        line = _line(cell, split, evaluations)
        if cell.kind == "loop":
            line["thinking"] = thinking(model, split.validation.to(accelerator.device), seed=cell.seed)
        line["repeats"] = _repeats(cell, model, split).to_dict()
        if depths is not None:
            line["repeats_by_depth"] = {str(depth): _repeats(cell, model, split, depth).first for depth in depths}
        counts = Followers.of(split)
        line["followed"] = _measured(model, split, counts.tuned(model, split.validation))
        line["excluded"] = _measured(model, split, exclude_history=True)
        bonus = counts.tuned(model, split.validation, exclude_history=True)
        line["excluded"]["followed"] = _measured(model, split, bonus, exclude_history=True)
    kept = ("epoch", "loss", "ndcg@10", "reward_mean", "zero_variance", "kl")
    if reads_texts(cell):
        line["text_hash"] = text_hash(text_path(cell, folder))
    return line | {
        "parameters": sum(p.numel() for p in model.encoder.parameters()),
        "best_epoch": fitted.best_epoch,
        "epochs": fitted.epochs,
        "history": [{name: entry[name] for name in kept if name in entry} for entry in fitted.history],
        # of all its epochs, in whichever session, and of neither validation nor tests
        "train_seconds": round(sum(entry.get("train_seconds", 0.0) for entry in fitted.history), 1),
        "made_with": {"torch": torch.__version__, "device": _name(accelerator.device)},
        "gradient_norms": norms,
    }


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def parts_of_training(train: Samples, held_out: bool) -> tuple[Samples, Samples]:
    """What pre-training and what post-training learn from: all samples both, or (`held_out`) all but each user's newest
    the one, and those the other."""
    if not held_out:
        return train, train
    newest = torch.zeros(train.sequences.num_users, dtype=torch.int64, device=train.device)
    newest.scatter_reduce_(0, train.user, train.end, "amax")
    held = train.end == newest[train.user]
    places = torch.arange(len(train), device=train.device)
    return train.select(places[~held]), train.select(places[held])


def _post_train(
    cell: Cell, model: Recommender, train: Samples, validation: Samples, run: RunDirectory, settings: dict[str, Any]
) -> Fitted:
    settings = settings | {
        "stage": f"rpt-{cell.key}", "run": run, "epochs": cell.rpt_epochs, "learning_rate": cell.rpt_learning_rate,
        "clip_norm": cell.clip_norm, "validate_first": True,
    }  # fmt: skip
    if cell.policy == "none":
        return fit(
            model,
            train,
            validation,
            pre_training(cell),
            batch_size=cell.batch_size,
            weight_decay=cell.weight_decay,
            **settings,
        )
    number = int(cell.reward.partition("@")[2])
    reward = RecallReward(number) if cell.reward.startswith("recall") else NDCGReward(number)
    samples = select(model, train, key=fold(cell.seed, "selection"))
    policy = RPT(
        policy=cell.policy, reward=reward, kl=cell.kl, kl_weight=cell.kl_weight, dropout=cell.rollout_dropout,
        ratio=cell.ratio, updates=cell.updates, own_depth=cell.own_depth,
    )  # fmt: skip
    return fit(model, samples, validation, policy, batch_size=256, **settings)


def _repeats(cell: Cell, model: Recommender, split: Split, depth: int | None = None) -> Repeats:
    """From a start of its own, a fresh T_0's too: what is measured after it is not moved."""
    with dropout_seed(fold(cell.seed, "evaluation"), model.device):
        return repeats(model, split.test, depth=depth)


def _measured(
    model: Recommender, split: Split, bonus: Followers | None = None, *, exclude_history: bool = False
) -> dict[str, Any]:
    """What a line holds of another ranking by the same model: with followers on its scores, or without the history."""
    found = {name: evaluate(model, part, bonus=bonus, exclude_history=exclude_history) for name, part in _parts(split)}
    told = {} if bonus is None else {"weight": bonus.weight}
    return told | {
        "validation": dict(found["validation"].metrics),
        "test": dict(found["test"].metrics),
        **_by_user(found["test"].ranks),
    }


def _parts(split: Split) -> list[tuple[str, Any]]:
    return [("validation", split.validation), ("test", split.test)]


def _line(cell: Cell, split: Split, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    """What every cell's line holds, as plain values."""
    test = evaluations["test"]
    return {
        "key": cell.key,
        "cell": dataclasses.asdict(cell),
        "data_hash": content_hash(split.interactions),
        "protocol": str(test.protocol),
        "validation": dict(evaluations["validation"].metrics),
        "test": dict(test.metrics),
        "by_depth": {str(depth): metrics["ndcg@10"] for depth, metrics in test.per_depth.items()},
        **_by_user(test.ranks),
    }


def _by_user(ranks: Ranks) -> dict[str, str]:
    """Each user's test rank and, where any score tied, NDCG@10: a rank among equals says too much."""
    held = {"ranks": ranks.greater.clamp(max=_LARGEST + 1).to(torch.uint8)}
    if bool((ranks.ties > 0).any()):
        held["gains"] = ndcg(ranks, 10).float()
    return {name: base64.b85encode(zlib.compress(value.numpy().tobytes(), 9)).decode() for name, value in held.items()}
