"""The same models ranked in other ways: with counts of followers added to their scores, and without the history."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from benchmarks.paper.grids import EXPERIMENTS
from benchmarks.paper.matching import Found, find, seeds_of
from benchmarks.paper.stored import Line
from benchmarks.paper.tables import head_of, line_of, mean_of, relative_of, training_of
from latentloop.measures.significance import paired_t

__all__ = ["followers_table", "ranked"]

_PARTS = ("validation", "test", "ranks", "gains", "weight")


def ranked(
    lines: Mapping[str, Line], *, exclude_history: bool = False, with_followers: bool = False
) -> dict[str, Line]:
    """The lines that hold such a ranking, its metrics and ranks in place of the usual ones.

    Args:
        lines: finished cells by key.
        exclude_history: whether items of the history were no candidates.
        with_followers: whether counts of followers were added to the scores.
    """
    found = {}
    for key, line in lines.items():
        held = line.get("excluded") if exclude_history else line
        held = held.get("followed") if held and with_followers else held
        if held:
            others = {name: value for name, value in line.items() if name not in _PARTS}
            found[key] = others | {name: held[name] for name in _PARTS if name in held}
    return found


def followers_table(data: str, lines: Mapping[str, Line], *, exclude_history: bool = False) -> list[str]:
    """Rows of the study alone and with followers, against their baseline either way; empty where no line tells.

    Args:
        data: of the data set.
        lines: finished cells by key.
        exclude_history: whether items of the history are no candidates.
    """
    more = ranked(lines, exclude_history=exclude_history, with_followers=True)
    plain = ranked({key: lines[key] for key in more}, exclude_history=exclude_history)
    study = EXPERIMENTS["study"](data)
    alone, followed = find(study, plain), find(study, more)
    if not alone:
        return []
    text = []
    untrained = ranked(lines, exclude_history=exclude_history)
    for each in find([row for row in EXPERIMENTS["table1"](data) if row.cell.kind == "followers"], untrained):
        told = training_of(each.lines[0]["cell"])
        text.append(line_of(["Followers alone", told, "", "", "", "", "", "", *_means(each), "", "", ""]))
    for own, its in zip(alone, followed, strict=True):
        if own.repeats(alone):
            continue
        weights = ", ".join(f"{weight:g}" for weight in sorted({line["weight"] for line in its.lines}))
        seeds = ", ".join(map(str, sorted(seeds_of(own.lines))))
        told = [own.row.label, training_of(own.lines[0]["cell"]), seeds, *_means(own), *relative_of(own.against(alone))]
        text.append(line_of([*told, weights, *_means(its), _gain(its, own), *relative_of(its.against(followed))]))
    title = f"### With followers, {data}" + (", the history left out" if exclude_history else "")
    about = (
        "The same models alone, then with what a count of the training part adds to their scores: weight * log(1 + how",
        "often the item followed those of the history), `latentloop.followers`, the weight chosen on each model's",
        "validation. Gain is what that adds, with the 95 % interval of a paired test over users; against and p are to the",
        "named row in the same ranking."
        + (
            " Items of the history are no candidates here; epochs were chosen with them where training says nothing else."
            if exclude_history
            else ""
        ),
    )
    head = ["row", "training", "seeds", "validation NDCG@10", "test NDCG@10", "against", "p", "weight"]
    head += ["with followers: validation", "test", "gain", "against", "p"]
    return [title, "", *about, "", *head_of(head), *text, ""]


def _means(found: Found) -> list[str]:
    return [mean_of([line[part]["ndcg@10"] for line in found.lines]) for part in ("validation", "test")]


def _gain(followed: Found, alone: Found) -> str:
    seeds = seeds_of(alone.lines)
    mean, (low, high), _ = paired_t(torch.from_numpy(followed.gains(seeds) - alone.gains(seeds)))
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
