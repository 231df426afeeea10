"""Tables and figures from the finished cells; nothing is trained.

python -m benchmarks.paper.report      # writes benchmarks/results/paper.md and one figure an experiment
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paper.cell import Cell, unpack_ranks
from benchmarks.paper.grids import EXPERIMENTS, TRAINING, Row
from benchmarks.paper.runner import CELLS, finished
from latentloop.significance import paired_t

__all__ = ["experiment_table", "matching", "write_report"]

OUT = Path("benchmarks/results")
PUBLISHED = {
    "amazon-2023:Musical_Instruments": {"sasrec": 0.0277, "fmlprec": 0.0300, "bsarec": 0.0295, "LARES": 0.0336},
    "amazon-2023:Industrial_and_Scientific": {"sasrec": 0.0194, "fmlprec": 0.0206, "bsarec": 0.0209, "LARES": 0.0245},
}
"""Test NDCG@10 in the paper's Table 1, where the data are the same."""

Line = dict[str, Any]


def matching(row: Row, lines: Mapping[str, Line]) -> list[list[Line]]:
    """The finished lines of a row, one list for each choice of training settings (epochs, learning rate ...) found."""
    wanted = {name: value for name, value in vars(row.cell).items() if name not in ("seed", *TRAINING)}
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines.values():
        cell = Cell(**line["cell"])
        if all(getattr(cell, name) == value for name, value in wanted.items()):
            settings = () if cell.kind in ("chance", "popularity") else tuple(getattr(cell, name) for name in TRAINING)
            groups.setdefault(settings, []).append(line)
    return [sorted(group, key=lambda line: line["cell"]["seed"]) for group in groups.values()]


def experiment_table(name: str, data: str, lines: Mapping[str, Line]) -> list[str]:
    """A Markdown table of an experiment on one data set; empty where no cell of it is finished."""
    rows = EXPERIMENTS[name](data)
    found = {row.label: matching(row, lines) for row in rows}
    if not any(found.values()):
        return []
    table = [
        f"### {name}, {data}",
        "",
        "| row | training | seeds | validation NDCG@10 | test NDCG@10 | test Recall@10 | against | p | paper |",
        "|---|---|---|---:|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        for group in found[row.label]:
            rivals = [other for other in found.get(row.baseline or "", []) if _same_settings(other[0], group[0])]
            against, p = _against(group, rivals[0], row.baseline) if rivals else ("", "")
            seeds = ", ".join(str(line["cell"]["seed"]) for line in group)
            numbers = [_mean([line[part][metric] for line in group]) for part, metric in _COLUMNS]
            paper = PUBLISHED.get(data, {}).get(row.label, "")
            cells = [row.label, _training(group[0]["cell"]), seeds, *numbers, against, p, str(paper)]
            table.append(f"| {' | '.join(cells)} |")
    return [*table, ""]


_COLUMNS = (("validation", "ndcg@10"), ("test", "ndcg@10"), ("test", "recall@10"))


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _training(cell: dict[str, Any]) -> str:
    if cell["kind"] in ("chance", "popularity"):
        return ""
    epochs = f"up to {cell['epochs']}{' + ' + str(cell['rpt_epochs']) if cell['rpt'] else ''} epochs"
    return f"{epochs}, {cell['positions']} positions, batch {cell['batch_size']}, lr {cell['learning_rate']:g}"


def _same_settings(one: Line, other: Line) -> bool:
    return all(one["cell"][name] == other["cell"][name] for name in TRAINING if name != "rpt_epochs")


def _against(group: Sequence[Line], rivals: Sequence[Line], name: str | None) -> tuple[str, str]:
    """The relative difference of the means over common seeds, and a paired t-test over users of the seeds' means."""
    seeds = {line["cell"]["seed"] for line in group} & {line["cell"]["seed"] for line in rivals}
    if not seeds:
        return "", ""
    first, second = (
        np.mean([_ndcg(line) for line in lines if line["cell"]["seed"] in seeds], axis=0) for lines in (group, rivals)
    )
    _, _, p = paired_t(torch.from_numpy(first - second))
    return f"{name}: {first.mean() / second.mean() - 1:+.1%}", f"{p:.2g}"


def _ndcg(line: Line) -> np.ndarray:
    ranks = unpack_ranks(line["ranks"]).astype(np.float64)
    gains: np.ndarray = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)
    return gains


def draw(name: str, data: str, lines: Mapping[str, Line], folder: Path) -> Path | None:
    """The figure of an experiment on one data set: test NDCG@10 by row, or curves by epoch for the policies."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    rows = [(row, group) for row in EXPERIMENTS[name](data) for group in matching(row, lines)[:1]]
    if len(rows) < 2:  # nothing to compare
        return None
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    if name == "figure4":
        twin = axes.twinx()
        for row, group in rows:
            history = [entry for entry in group[0]["history"] if "reward_mean" in entry]
            epochs = [entry["epoch"] for entry in history]
            axes.plot(epochs, [entry["ndcg@10"] for entry in history], label=row.label)
            twin.plot(epochs, [entry["reward_mean"] for entry in history], linestyle=":")
        axes.set(xlabel="RPT epoch", ylabel="validation NDCG@10")
        twin.set_ylabel("training reward (dotted)")
        axes.legend()
    else:
        means = [[line["test"]["ndcg@10"] for line in group] for _, group in rows]
        places = range(len(rows))
        axes.bar(places, [statistics.mean(values) for values in means], color="0.7")
        for place, values in zip(places, means, strict=True):
            axes.plot([place] * len(values), values, "k.", markersize=4)
        axes.set_xticks(list(places), [row.label for row, _ in rows], rotation=45, ha="right")
        axes.set_ylabel("test NDCG@10 (dots: seeds)")
    path = folder / f"{name}-{data.replace(':', '-')}.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def write_report(cells: Path = CELLS, out: Path = OUT) -> str:
    """Write `paper.md` and the figures, and return the text."""
    lines = finished(cells)
    names = sorted({line["cell"]["data"] for line in lines.values()})
    text = ["# The paper's experiments, as far as they have been run", "", *_PREAMBLE, ""]
    out.mkdir(parents=True, exist_ok=True)
    for name in EXPERIMENTS:
        for data in names:
            table = experiment_table(name, data, lines)
            path = draw(name, data, lines, out) if table else None
            text += table + ([f"![{name} on {data}]({path.name})", ""] if path else [])
    written = "\n".join(text)
    (out / "paper.md").write_text(written)
    return written


_PREAMBLE = (
    "Leave-one-out, full ranking of all items, history kept, chosen on validation NDCG@10, tested once. Means over seeds",
    "with their standard deviation; p is a paired t-test over users of the seeds' mean NDCG@10. Written by `make paper`",
    "from `benchmarks/results/cells/`, whose lines hold each cell's whole configuration.",
)


if __name__ == "__main__":
    print(write_report())
