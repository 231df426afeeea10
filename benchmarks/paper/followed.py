"""Models with counts of followers added to their scores, beside themselves and beside each other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import torch

from benchmarks.paper.grids import EXPERIMENTS
from benchmarks.paper.matching import Found, find, seeds_of
from benchmarks.paper.stored import Line, gains
from benchmarks.paper.tables import head_of, line_of, mean_of, relative_of, training_of
from latentloop.significance import paired_t

__all__ = ["followed", "followers_table"]


def followed(lines: Mapping[str, Line]) -> dict[str, Line]:
    """The lines that hold it, as those of the models with followers: their metrics and ranks in place of the model's own."""
    return {key: line | line["followed"] | {"alone": line} for key, line in lines.items() if "followed" in line}


def followers_table(data: str, lines: Mapping[str, Line]) -> list[str]:
    """Rows of the study with followers, against themselves without and against the study's baseline with them; empty
    where no line tells.

    Args:
        data: of the data set.
        lines: finished cells by key.
    """
    found = find(EXPERIMENTS["study"](data), followed(lines))
    text = []
    for each in found:
        if each.repeats(found):
            continue
        weights = ", ".join(f"{weight:g}" for weight in sorted({line["weight"] for line in each.lines}))
        numbers = [
            mean_of([line["alone"]["test"]["ndcg@10"] for line in each.lines]),
            mean_of([line["validation"]["ndcg@10"] for line in each.lines]),
            mean_of([line["test"]["ndcg@10"] for line in each.lines]),
        ]
        against, p = relative_of(each.against(found))
        seeds = ", ".join(map(str, sorted(seeds_of(each.lines))))
        told = [each.row.label, training_of(each.lines[0]["cell"]), seeds, numbers[0], weights, *numbers[1:]]
        text.append(line_of([*told, _gain(each), against, p]))
    alone = [each for each in find(EXPERIMENTS["table1"](data), lines) if each.row.label == "Followers"]
    if not text:
        return []
    for each in alone:
        validation, test = (
            statistics.mean(line[part]["ndcg@10"] for line in each.lines) for part in ("validation", "test")
        )
        text.insert(0, line_of(["Followers alone", "", "", "", "", f"{validation:.4f}", f"{test:.4f}", "", "", ""]))
    about = (
        "What a count of the training part adds: weight * log(1 + how often the item followed those of the history), see",
        "`latentloop.followers`, the weight chosen on each model's validation. Alone is the model's own test; gain is what",
        "followers add to it, with the 95 % interval of a paired test over users; against is the same with followers on",
        "both sides.",
    )
    head = ["row", "training", "seeds", "alone: test NDCG@10", "weight", "validation NDCG@10", "test NDCG@10", "gain", "against", "p"]  # fmt: skip
    return [f"### With followers, {data}", "", *about, "", *head_of(head), *text, ""]


def _gain(found: Found) -> str:
    seeds = seeds_of(found.lines)
    alone = sum(gains(line["alone"]) for line in found.lines) / len(found.lines)
    mean, (low, high), _ = paired_t(torch.from_numpy(found.gains(seeds) - alone))
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
