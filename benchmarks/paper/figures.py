"""Figures of what is finished: each row's seeds, mean and 95 % interval, cut to where the numbers lie."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.cell import UNTRAINED
from benchmarks.paper.costs import counted_flops
from benchmarks.paper.grids import EXPERIMENTS
from benchmarks.paper.matching import Found, find, most_common
from benchmarks.paper.stored import Line
from benchmarks.paper.tables import training_of

__all__ = ["draw"]

_COLOURS = ("C0", "C1", "C2", "C3", "C4")
_EXPLAINED = (
    "black: seeds; circle: their mean; bar: 95 % interval of the difference to the baseline, over users, on the seeds\n"
    "of both, counted from the baseline's mean (dashed), so that the line lies outside it where p < .05"
)
_APART = " (curves are drawn a little apart)"


def draw(name: str, data: str, lines: Mapping[str, Line], folder: Path) -> Path | None:
    """The figure of an experiment on one data set; None, and none stays, where there is nothing to compare."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    every = find(EXPERIMENTS[name](data), lines)
    found = [each for each in most_common(every) if not each.repeats(every)]
    drawings = {"figure3": _curves, "figure4": _epochs, "figure5": _curves, "table4": _by_flops}
    points = [each for each in found if each.row.cell.kind not in UNTRAINED]
    of_curves = sum(each.row.label[-1].isdigit() for each in points) if drawings.get(name) is _curves else len(points)
    path = folder / f"{name}-{data.replace(':', '-')}.png"
    if of_curves < 2:
        path.unlink(missing_ok=True)
        return None
    wide = max(6.0, 0.42 * len(points)) if name not in drawings else 6.0
    figure, axes = plt.subplots(figsize=(wide, 4.5), layout="constrained")
    drawings.get(name, _columns)(axes, points)
    training = textwrap.fill(training_of(points[0].lines[0]["cell"]), 70)
    axes.set_title(f"{name}, {data}\n{training}", fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _point(axes: Any, place: float, found: Found, others: Sequence[Found], colour: str) -> float:
    """A row's mean with the interval of its difference, and its seeds; returns the mean."""
    values = [line["test"]["ndcg@10"] for line in found.lines]
    mean, difference, rival = statistics.mean(values), found.against(others), found.rival(others)
    if difference is not None and rival is not None:
        whole = statistics.mean(line["test"]["ndcg@10"] for line in rival.lines)
        ends = (whole + end - difference.mean for end in difference.interval)
        axes.vlines(place, *ends, color=colour, alpha=0.4, linewidth=3)
    axes.plot([place], [mean], "o", color=colour, markersize=7)
    axes.plot([place] * len(values), values, ".", color="k", markersize=4, zorder=3)
    return mean


def _across(axes: Any, found: Sequence[Found]) -> None:
    """A dashed line at each of these rows' means."""
    for each in found:
        mean = statistics.mean(line["test"]["ndcg@10"] for line in each.lines)
        axes.axhline(mean, color="0.5", linestyle="--", linewidth=1, zorder=0)
        where = {"xy": (1, mean), "xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        axes.annotate(each.row.label, fontsize=7, color="0.4", **where)


def _finish(axes: Any) -> None:
    axes.set_ylabel("test NDCG@10")
    axes.margins(y=0.1)
    axes.figure.supxlabel(_EXPLAINED, fontsize=7, color="0.3")
    axes.grid(axis="y", alpha=0.3)


def _columns(axes: Any, found: Sequence[Found]) -> None:
    """A column a row; backbones apart and in colours of their own where labels name them before a colon."""
    groups = list(dict.fromkeys(_group(each) for each in found))
    place, ticks = -1.0, []
    for number, group in enumerate(groups):
        place += 0.6 if number else 0.0
        for each in found:
            if _group(each) == group:
                place += 1
                _point(axes, place, each, found, _COLOURS[number % len(_COLOURS)])
                ticks.append((place, each.row.label))
    axes.set_xticks([at for at, _ in ticks], [label for _, label in ticks], rotation=45, ha="right", fontsize=8)
    if len(groups) == 1:
        named = {each.row.baseline for each in found}
        _across(axes, [each for each in found if each.row.label in named])
    _finish(axes)


def _group(found: Found) -> str:
    name, colon, _ = found.row.label.partition(": ")
    return name if colon else ""


def _curves(axes: Any, found: Sequence[Found]) -> None:
    """A curve for each name before a number, "alpha 0.3" or "k-bar 2", and a dashed line for each row without one."""
    curves: dict[str, list[tuple[float, Found]]] = {}
    for each in found:
        name, _, number = each.row.label.rpartition(" ")
        if number.replace(".", "").isdigit():
            curves.setdefault(name, []).append((float(number), each))
    _draw_curves(axes, curves, found)
    _across(axes, [each for each in found if not each.row.label[-1].isdigit()])
    axes.set_xlabel(" or ".join(curves) + _APART * (len(curves) > 1))


def _by_flops(axes: Any, found: Sequence[Found]) -> None:
    """Quality over operations, a curve for each family of models, and the deepest loop stopped at fewer thoughts."""
    families: dict[str, list[tuple[float, Found]]] = {}
    for each in found:
        name = each.row.label.split(", ")[0] + (", aligned" if each.row.label.endswith(", aligned") else "")
        families.setdefault(name, []).append((counted_flops(each.row.cell) / 1e6, each))
    _draw_curves(axes, families, found)
    loops = {row.label: row.cell for row in EXPERIMENTS["table4"]("") if row.label.startswith("LR+SPT")}
    for each in found:
        if each.row.label == "LR+SPT, depth 4":
            depths = range(1, 5)
            places = [counted_flops(loops[f"LR+SPT, depth {depth}"]) / 1e6 for depth in depths]
            means = [statistics.mean(line["by_depth"][str(depth)] for line in each.lines) for depth in depths]
            axes.plot(places, means, ":", color="0.5", label="LR+SPT, depth 4, at fewer thoughts")
            axes.legend(fontsize=8)
    axes.set_xlabel("MFLOPs of the encoder a history" + _APART * (len(families) > 1))


def _draw_curves(axes: Any, curves: Mapping[str, Sequence[tuple[float, Found]]], found: Sequence[Found]) -> None:
    places = [place for points in curves.values() for place, _ in points]
    # points of one place stand beside each other
    step = 0.012 * (max(places, default=0) - min(places, default=0))
    for number, (name, points) in enumerate(curves.items()):
        colour, aside = _COLOURS[number % len(_COLOURS)], step * number
        means = [_point(axes, place + aside, each, found, colour) for place, each in points]
        axes.plot([place + aside for place, _ in points], means, color=colour, label=name)
    if len(curves) > 1:
        axes.legend(fontsize=8)
    _finish(axes)


def _epochs(axes: Any, found: Sequence[Found]) -> None:
    """The policies' validation by epoch, and dotted their reward on training samples."""
    twin = axes.twinx()
    for colour, each in zip(_COLOURS, (each for each in found if each.row.cell.rpt), strict=False):
        for number, line in enumerate(each.lines):
            label = each.row.label if number == 0 else None
            history = line["history"]
            axes.plot([e["epoch"] for e in history], [e["ndcg@10"] for e in history], color=colour, label=label)
            rewarded = [e for e in history if "reward_mean" in e]
            twin.plot([e["epoch"] for e in rewarded], [e["reward_mean"] for e in rewarded], ":", color=colour)
    axes.set(xlabel="epoch of post-training (0: as it came)", ylabel="validation NDCG@10")
    twin.set_ylabel("mean reward on training samples (dotted)")
    axes.legend(fontsize=8)
