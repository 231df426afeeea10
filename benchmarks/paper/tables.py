"""Markdown tables of what is finished: experiments, what tuning chose, and how hard each term of a loss pulls."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.paper.cell import UNTRAINED, Cell
from benchmarks.paper.costs import counted_flops, counted_parameters
from benchmarks.paper.grids import EXPERIMENTS
from benchmarks.paper.matching import Difference, Found, find, seeds_of
from benchmarks.paper.published import PUBLISHED, PUBLISHED_COSTS
from benchmarks.paper.rows import Row
from benchmarks.paper.steps import CLASSES, classes_of
from benchmarks.paper.stored import Line
from benchmarks.paper.tuning import GRID, SEED, budgets, choices, settings_text, tuned

__all__ = [
    "experiment_table", "gradient_table", "head_of", "line_of", "mean_of", "relative_of", "steps_table", "thinking_table",
    "training_of", "tuning_tables",
]  # fmt: skip

_HEAD = ("row", "training", "seeds", "validation NDCG@10", "test NDCG@10", "test Recall@10", "against", "p", "paper")
_COST_HEAD = ("parameters", "MFLOPs", "ms", "time, ratio", "MiB", "paper: parameters, FLOPs, memory, time")
_WORDS = (
    "row",
    "training",
    "seeds",
    "against",
    "settings",
    "model",
    "chosen",
    "weights",
    "points finished",
    _COST_HEAD[-1],
)

_FOLLOWED = (2, 3, 4, 8)
_BY_STEPS = {
    "Base": None,
    "Base, aligned": "Base",
    "Base, equal FLOPs": "Base",
    "no alignment": "Base",
    "no alignment, fixed depth": "Base",
    "no alignment, fixed depth, own norms": "Base",
    "SPT": "Base",
    "Base, items from texts": "Base",
    "no alignment, items from texts": "Base, items from texts",
    "Base, equal FLOPs, items from texts": "Base, items from texts",
}
"""Rows that are told by steps, and what each is held against."""
Costs = Mapping[tuple[str, str], Mapping[str, float]]
Steps = Mapping[tuple[str, int], Line]


def experiment_table(name: str, data: str, lines: Mapping[str, Line], costs: Costs | None = None) -> list[str]:
    """An experiment on one data set; empty where no cell of it is finished and no cost of it measured.

    Args:
        name: of the experiment.
        data: of the data set.
        lines: finished cells by key.
        costs: measured costs of Table 4's rows, see `costs.stored_costs`.
    """
    rows = EXPERIMENTS[name](data)
    found = find(rows, lines)
    costly = name == "table4"
    measured = costly and any((data, row.label) in (costs or {}) for row in rows)
    if not found and not measured:
        return []
    text = [f"### {name}, {data}", "", *head_of([*_HEAD, *(_COST_HEAD if costly else ())])]
    for row in rows:
        own = [each for each in found if each.row is row and not each.repeats(found)]
        paper = PUBLISHED.get(data, {}).get(name, {}).get(row.label)
        extra = _cost_cells(row, data, costs or {}) if costly else []
        if not own and (measured or paper):
            blank = [row.label, "", "", "", "", "", "", "", _pair(paper)]
            text.append(line_of([*blank, *extra]))
        for each in own:
            text.append(line_of([*_cells(each, found), _pair(paper), *extra]))
    return [*text, ""]


def tuning_tables(data: str, lines: Mapping[str, Line]) -> list[str]:
    """For each budget of training: validation at every point of the grid, then what was chosen and how it tested."""
    text: list[str] = []
    for budget in budgets(data, lines):
        found = choices(data, lines, budget)
        if all(len(choice.values) < 2 for choice in found):
            continue  # one point chooses nothing
        told = ", ".join(f"{name} {value}" for name, value in budget.items())
        text += [f"### tuning, {data} ({told})", "", f"Validation NDCG@10 of seed {SEED}.", ""]
        text += head_of(["settings", *(choice.model for choice in found)])
        for number, point in enumerate(GRID):
            values = [choice.values.get(number) for choice in found]
            text.append(line_of([settings_text(point), *("" if v is None else f"{v:.4f}" for v in values)]))
        text += ["", f"### tuned, {data}: chosen on validation", ""]
        text += head_of(["model", "points finished", "chosen", *_HEAD[2:-1]])
        rows = find(tuned(data, lines, budget), lines)
        for choice in found:
            own = [each for each in rows if each.row.label == choice.model]
            finished = f"{len(choice.values)} of {len(GRID)}" + ("" if choice.complete else ", incomplete")
            chosen = "" if choice.cell is None else settings_text(vars(choice.cell))
            for each in own:
                text.append(line_of([choice.model, finished, chosen, *_cells(each, rows)[2:]]))
            if not own:
                text.append(line_of([choice.model, finished, *[""] * 7]))
        if not all(choice.complete for choice in found):
            text += [
                "",
                "Where the grid is incomplete a model was tried less often than its rivals: no fair choice yet.",
            ]
        text.append("")
    return text


def gradient_table(data: str, lines: Mapping[str, Line]) -> list[str]:
    """Norms of the gradients of the study's rows; empty where no line holds any."""
    found = find(EXPERIMENTS["study"](data), lines)
    text: list[str] = []
    for each in found:
        held = [line for line in each.lines if "gradient_norms" in line and not each.repeats(found)]
        for moment in ("as it came", "best") if held else ():
            of_encoder = [_norms([line["gradient_norms"][moment] for line in held], "encoder")]
            of_items = [_norms([line["gradient_norms"][moment] for line in held], "items")]
            seeds = ", ".join(str(line["cell"]["seed"]) for line in held)
            told = training_of(held[0]["cell"])
            text.append(line_of([each.row.label, told, seeds, moment, *of_encoder[0], *of_items[0]]))
    if not text:
        return []
    head = ["row", "training", "seeds", "weights"]
    for place in ("encoder", "item table"):
        head += [f"{place}: next item", "trajectory by it", "step by it"]
    told = (
        "Norms of each weighted term's gradient, means over a few training batches and the seeds; of the alignments as",
        "shares of the next-item loss's.",
    )
    return [f"### Gradients of the terms, {data}", "", *told, "", *head_of(head), *text, ""]


def thinking_table(data: str, lines: Mapping[str, Line]) -> list[str]:
    """What the loops of the study do, see `thinking`; empty where no line tells."""
    text: list[str] = []
    found = find(EXPERIMENTS["study"](data), lines)
    for each in found:
        held = [line for line in each.lines if "thinking" in line and not each.repeats(found)]
        if not held:
            continue
        told = [line["thinking"] for line in held]
        moves = [f"{statistics.mean(one['moves'][depth - 2] for one in told):.1%}" for depth in _FOLLOWED]
        shares = [f"{statistics.mean(one[name] for one in told):.1%}" for name in ("spread", "undecided")]
        answers = [f"{statistics.mean(one['ndcg@10'][name] for one in told):.4f}" for name in told[0]["ndcg@10"]]
        seeds = ", ".join(str(line["cell"]["seed"]) for line in held)
        text.append(line_of([each.row.label, training_of(held[0]["cell"]), seeds, *moves, *shares, *answers]))
        names = list(told[0]["ndcg@10"])
    if not text:
        return []
    head = [
        "row",
        "training",
        "seeds",
        *(f"thought {depth} moves" for depth in _FOLLOWED),
        "T_0 left",
        "undecided users",
    ]
    about = (
        "How far a thought lies from the one before, relative to its length; how far the last thoughts of eight random",
        "start states lie from their mean, relative to their length; the share of users whose target is among the ten best",
        "from some of these start states only; validation NDCG@10 from the saved start state, from the mean of the eight",
        "last thoughts and from zeros. The first 2,048 users.",
    )
    return [f"### Thoughts, {data}", "", *about, "", *head_of([*head, *names]), *text, ""]


def steps_table(data: str, lines: Mapping[str, Line], steps: Steps) -> list[str]:
    """Rows of the study by how many steps lead to the target, see `steps`; empty where the data have no stored classes.

    Args:
        data: of the data set.
        lines: finished cells by key.
        steps: stored classes by data set and L.
    """
    told = {row.label: row for row in EXPERIMENTS["study"](data)}
    found = find([replace(told[label], baseline=baseline) for label, baseline in _BY_STEPS.items()], lines)
    text: list[str] = []
    for each in found:
        held = steps.get((data, each.lines[0]["cell"]["max_length"]))
        if held is None:
            continue
        classes, gains = classes_of(held), each.gains(seeds_of(each.lines))
        seeds = ", ".join(map(str, sorted(seeds_of(each.lines))))
        cells = [each.row.label, training_of(each.lines[0]["cell"]), seeds]
        for number in range(len(CLASSES)):
            users = classes == number
            difference = each.against(found, users) if users.sum() > 1 else None
            value = f"{gains[users].mean():.4f}" if users.any() else ""
            cells.append(value if difference is None else f"{value} {_change(difference)}")
        text.append(line_of(cells))
        shares = ", ".join(f"{name}: {(classes == number).mean():.1%}" for number, name in enumerate(CLASSES))
    if not text:
        return []
    about = (
        "Test NDCG@10 of the users whose target some user took, in the training part, directly after the newest item of",
        "their history, after an earlier item of it, after an item that came directly after one of it, and of all others;",
        "then the difference to Base, and of the others from texts to Base from texts, with its 95 % interval, over the",
        f"seeds of both. Told after the test was seen: nothing was chosen by it. Shares of users: {shares}.",
    )
    head = ["row", "training", "seeds", *CLASSES]
    return [f"### Steps, {data}", "", *about, "", *head_of(head), *text, ""]


def _change(difference: Difference) -> str:
    low, high = (end - difference.mean for end in difference.interval)
    return f"{(low + high) / 2:+.4f} [{low:+.4f}, {high:+.4f}]"


def _norms(held: Sequence[Mapping[str, Mapping[str, float]]], place: str) -> list[str]:
    means = {
        term: statistics.mean(norms[term][place] for norms in held) for term in held[0] if all(term in n for n in held)
    }
    first = means["next item"]
    shares = [f"{means[term] / first:.1%}" if term in means and first else "" for term in ("trajectory", "step")]
    return [f"{first:.4f}", *shares]


def _cells(found: Found, others: Sequence[Found]) -> list[str]:
    """A row's columns up to the paper's."""
    against, p = relative_of(found.against(others))
    seeds = ", ".join(map(str, sorted(seeds_of(found.lines))))
    columns = (("validation", "ndcg@10"), ("test", "ndcg@10"), ("test", "recall@10"))
    numbers = [mean_of([line[part][metric] for line in found.lines]) for part, metric in columns]
    return [found.row.label, training_of(found.lines[0]["cell"]), seeds, *numbers, against, p]


def relative_of(difference: Difference | None) -> tuple[str, str]:
    """A difference by its baseline, and p; empty without one."""
    if difference is None:
        return "", ""
    if not difference.mean:
        return f"{difference.baseline}: from 0", f"{difference.p:.2g}"
    low, high = (end / difference.mean - 1 for end in difference.interval)
    return f"{difference.baseline}: {difference.relative:+.1%} [{low:+.1%}, {high:+.1%}]", f"{difference.p:.2g}"


def _cost_cells(row: Row, data: str, costs: Costs) -> list[str]:
    label = row.label.removesuffix(", aligned").replace("LR+SPT", "LARES")  # neither losses nor weights cost anything
    found = costs.get((data, label), {})
    ratio = ""
    if "ratio" in found:
        ratio = f"{found['ratio']:.2f} ({found['ratio_low']:.2f}-{found['ratio_high']:.2f})"
    paper = PUBLISHED_COSTS.get(row.label)
    told = "" if paper is None else "{:g}M, {:g}M, {:g} GB, {:g} s".format(*paper)
    return [
        f"{counted_parameters(row.cell):,}",
        f"{counted_flops(row.cell) / 1e6:.1f}",
        f"{found['ms']:.0f}" if found else "",
        ratio,
        f"{found['mib']:.0f}" if found else "",
        told,
    ]


def mean_of(values: Sequence[float]) -> str:
    """The mean, with the standard deviation of several."""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _pair(paper: tuple[float, float] | None) -> str:
    return "" if paper is None else f"{paper[0]:.4f}, {paper[1]:.4f}"


def training_of(cell: Mapping[str, Any]) -> str:
    """How a cell was trained, in words."""
    if cell["kind"] in UNTRAINED:
        return "" if cell["max_length"] == Cell.max_length else f"max length {cell['max_length']}"
    epochs = f"up to {cell['epochs']}{' + ' + str(cell['rpt_epochs']) if cell['rpt'] else ''} epochs"
    told = f"{epochs}, {cell['positions']} positions, batch {cell['batch_size']}, lr {cell['learning_rate']:g}"
    default = vars(Cell(cell["data"]))
    own = default | dict(cell)  # stored before a field was there
    unusual = {name: own[name] for name in ("dropout", "schedule", "max_length") if own[name] != default[name]}
    told += "".join(f", {name.replace('_', ' ')} {value}" for name, value in unusual.items())
    return told + (", epoch chosen without the history" if own["choose_without_history"] else "")


def head_of(names: Sequence[str]) -> list[str]:
    """A table's first two lines."""
    return [line_of(names), "|" + "|".join("---" if name in _WORDS else "---:" for name in names) + "|"]


def line_of(cells: Sequence[str]) -> str:
    """A table's line."""
    return f"| {' | '.join(cells)} |"
