"""The report on the paper's experiments: published numbers, costs, tuning and gradients, from lines alone."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import zlib
from pathlib import Path

import pytest
import torch

from benchmarks.paper import costs, runner
from benchmarks.paper.cell import UNTRAINED, Cell
from benchmarks.paper.figures import draw
from benchmarks.paper.gradients import gradient_norms
from benchmarks.paper.grids import EXPERIMENTS
from benchmarks.paper.matching import Difference, find, most_common
from benchmarks.paper.models import build, pre_training
from benchmarks.paper.published import PUBLISHED, PUBLISHED_COSTS
from benchmarks.paper.report import write_report
from benchmarks.paper.stored import Line
from benchmarks.paper.tables import experiment_table, gradient_table, relative_of, thinking_table, tuning_tables
from benchmarks.paper.tuning import GRID, choices, models, tuned
from benchmarks.speed.clock import choose
from latentloop.data.amazon import PUBLISHED_COUNTS
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log


def stored(*cells: Cell, ndcg: float = 0.05, validation: float | None = None) -> dict[str, Line]:
    """Lines of cells that nobody trained: three users, whose targets come first, second and nowhere."""
    ranks = base64.b85encode(zlib.compress(bytes([0, 1, 255]))).decode()
    metrics = {"ndcg@10": ndcg, "recall@10": 2 * ndcg}
    chosen_by = metrics if validation is None else {"ndcg@10": validation}
    return {
        cell.key: {
            "key": cell.key, "cell": dataclasses.asdict(cell), "ranks": ranks, "validation": chosen_by,
            "test": metrics,
            "by_depth": {str(depth): ndcg for depth in (1, 2, 3, 4)}, "history": [],
        }
        for cell in cells
    }  # fmt: skip


def test_the_papers_numbers_belong_to_rows_of_ours() -> None:
    for name, experiments in PUBLISHED.items():
        assert name.removeprefix("amazon-2023:") in PUBLISHED_COUNTS
        for experiment, numbers in experiments.items():
            assert set(numbers) <= {row.label for row in EXPERIMENTS[experiment](name)}, experiment
            assert all(0.01 < ndcg < recall < 0.1 for ndcg, recall in numbers.values())
    assert set(PUBLISHED_COSTS) <= {row.label for row in EXPERIMENTS["table4"]("tiny")}
    (line,) = [
        line
        for line in experiment_table("table1", "amazon-2023:Baby_Products", stored(Cell("amazon-2023:Baby_Products")))
        if line.startswith("| bsarec |")
    ]
    assert "0.0193, 0.0374" in line


@pytest.mark.parametrize("depth", [1, 4])
def test_operations_and_parameters_by_hand(depth: int) -> None:
    """Of 2 + 2 x depth layers over 20 positions; the last layer computes keys and values of all, the rest of one."""
    d, inner, length, layers = 64, 256, 20, 2 + 2 * depth
    linear = 2 * (4 * d * d + 2 * d * inner)  # of a position: query, key, value, output, and up and down
    whole = length * linear + 2 * 2 * length * length * d
    last = length * 2 * 2 * d * d + 2 * 2 * d * d + 2 * 2 * d * inner + 2 * 2 * length * d
    rows = {row.label: row.cell for row in EXPERIMENTS["table4"]("tiny")}
    loop, plain = rows[f"LR+SPT, depth {depth}"], rows[f"sasrec, {layers} layers"]
    assert costs.counted_flops(loop) == costs.counted_flops(plain) == (layers - 1) * whole + last
    norms_and_biases = 4 * d + 4 * d + inner + d  # two norms; query, key, value and output; up and down
    of_layer = 4 * d * d + 2 * d * inner + norms_and_biases
    # layers that normalise their input leave one norm to the end of each block, and the loop one before the core
    assert costs.counted_parameters(plain) == layers * of_layer + 2 * d
    assert costs.counted_parameters(loop) == 4 * of_layer + 3 * 2 * d
    assert costs.counted_parameters(dataclasses.replace(loop, tied=True)) == 2 * of_layer + 2 * 2 * d


def test_measured_costs_stand_in_table_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small stand-ins for the measurement; the last line of a row counts."""
    split = leave_one_out(synthetic_log(num_users=60, num_items=40, seed=2), 20)
    monkeypatch.setattr(costs, "load_split", lambda name, folder, length: split)
    monkeypatch.setattr(costs, "run_alone", lambda *given, module: costs.measure(lambda: None))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        for _ in range(2):
            costs.main(costs.Options("tiny", depths=(1,), repeats=3, threads=1))
    finally:
        torch.set_num_threads(threads)
        choose("wall")
    written = [json.loads(line) for line in costs.COSTS.read_text().splitlines()]
    assert [set(line["rows"]) for line in written] == [{"sasrec, 4 layers", "LARES, depth 1"}] * 2
    assert written[0]["histories"] == 60 and written[0]["turns"] == 3
    found = costs.stored_costs()
    assert found["tiny", "LARES, depth 1"] == written[1]["rows"]["LARES, depth 1"]
    low, middle, high = (found["tiny", "LARES, depth 1"][name] for name in ("ratio_low", "ratio", "ratio_high"))
    assert 0 < low <= middle <= high
    found["tiny", "LARES, depth 1"] |= {"ms": 123.0, "mib": 456.0, "ratio": 1.5, "ratio_low": 1.25, "ratio_high": 1.75}
    (line,) = [line for line in experiment_table("table4", "tiny", {}, found) if line.startswith("| LR+SPT, depth 1 |")]
    assert [cell.strip() for cell in line.split("|")][-7:-2] == ["200,320", "6.6", "123", "1.50 (1.25-1.75)", "456"]
    assert "### table4, tiny" in write_report()  # measured, though nothing is trained


def test_every_model_has_the_same_grid() -> None:
    cells: dict[str, set[tuple[float, float, float]]] = {}
    for row in EXPERIMENTS["tuning"]("tiny"):
        name = row.label.partition(":")[0]
        cells.setdefault(name, set()).add((row.cell.learning_rate, row.cell.dropout, row.cell.weight_decay))
    assert set(cells) == set(models("tiny")) and len(cells) == 6
    wanted = {(rate, dropout, decay) for rate in (1e-3, 3e-3) for dropout in (0.3, 0.5) for decay in (0.0, 0.1)}
    assert all(points == wanted for points in cells.values())
    run = runner.Options("tuning", data=("tiny",), seeds=(0, 1, 2), learning_rate=1.0).cells()
    assert len(run) == 48 and {cell.seed for cell in run} == {0}
    aligned = [cell for cell in run if cell.alpha > 0]
    assert {(cell.similarity, cell.temperature) for cell in aligned} == {("cosine", 1.0)} and len(aligned) == 24


def test_what_won_on_validation_is_run_on_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base: all eight points, the fourth best; LR+SPT: two, the second best; another budget and seed do not count."""
    budget = {"batch_size": 256}
    lines: dict[str, Line] = {}
    for number, point in enumerate(GRID):
        cell = dataclasses.replace(models("tiny")["Base"], **point, **budget)
        lines |= stored(cell, validation=0.08 if number == 3 else 0.07, ndcg=0.01 if number == 3 else 0.09)
    loop = models("tiny")["LR+SPT"]
    for number, value in ((0, 0.05), (1, 0.06)):
        lines |= stored(dataclasses.replace(loop, **GRID[number], **budget), validation=value)
    lines |= stored(dataclasses.replace(loop, **GRID[5], **budget, seed=1), validation=0.5)
    for number, value in ((6, 0.5), (7, 0.4)):
        lines |= stored(dataclasses.replace(loop, **GRID[number]), validation=value)
    lines |= stored(dataclasses.replace(loop, **GRID[6], batch_size=64), validation=0.5)
    found = {choice.model: choice for choice in choices("tiny", lines, budget)}
    assert [len(found[name].values) for name in ("Base", "LR+SPT", "Base, aligned")] == [8, 2, 0]
    assert found["Base"].complete and not found["LR+SPT"].complete
    rows = {row.label: row for row in tuned("tiny", lines, budget)}
    assert set(rows) == {"Base", "LR+SPT"} and rows["LR+SPT"].baseline == "Base"
    best = rows["Base"].cell
    assert (best.learning_rate, best.dropout, best.weight_decay, best.batch_size) == (1e-3, 0.5, 0.1, 256)
    assert (rows["LR+SPT"].cell.dropout, rows["LR+SPT"].cell.weight_decay) == (0.3, 0.1)

    monkeypatch.setattr(runner, "finished", lambda: lines)
    options = runner.Options("tuned", data=("tiny",), seeds=(0, 1, 2), batch_size=256)
    assert [(cell.kind, cell.seed) for cell in options.cells()] == [
        (kind, seed) for seed in (0, 1, 2) for kind in ("plain", "loop")
    ]
    assert {cell.batch_size for cell in options.cells()} == {256}
    with pytest.raises(SystemExit, match="--learning-rate"):
        dataclasses.replace(options, learning_rate=1e-3).cells()
    with pytest.raises(SystemExit, match="--dropout"):
        dataclasses.replace(options, dropout=0.2).cells()

    text = tuning_tables("tiny", lines)
    # one a budget, the fuller one first; one point tells nothing
    assert sum(line.startswith("### tuning, tiny") for line in text) == 2
    base = next(line for line in text if line.startswith("| Base |"))
    assert "| 8 of 8 | lr 0.001, dropout 0.5, weight decay 0.1 | 0 | 0.0800 | 0.0100 |" in base
    assert "| 2 of 8, incomplete |" in next(line for line in text if line.startswith("| LR+SPT |"))
    assert any("no fair choice yet" in line for line in text)


def test_gradients_are_those_of_the_weighted_terms() -> None:
    """One batch of everything: the next-item norm beside autograd's own, and alpha as a factor of its term."""
    split = leave_one_out(synthetic_log(num_users=60, num_items=40, seed=2), 8)
    cell = Cell("tiny", dim=8, pre_layers=1, core_layers=1, max_length=8, dropout=0.0, depth="fixed")
    model = build(cell, split.num_items)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norms = {
        alpha: gradient_norms(model, pre_training(dataclasses.replace(cell, alpha=alpha)), split.train, 10_000, 0)
        for alpha in (0.1, 0.2)
    }
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    first, second = norms[0.1], norms[0.2]
    assert first["next item"] == second["next item"] and first["step"] == second["step"]
    for place in ("encoder", "items"):
        assert second["trajectory"][place] == pytest.approx(2 * first["trajectory"][place], rel=1e-2)
    alone = gradient_norms(model, pre_training(dataclasses.replace(cell, alpha=0.0, gamma=0.0)), split.train, 10_000, 0)
    assert set(alone) == {"next item"} and alone["next item"] == pytest.approx(first["next item"], rel=1e-3)


def test_a_table_of_gradients_says_shares() -> None:
    """Two seeds; a line that was stored before gradients were measured has no part in it."""
    cells = [Cell("tiny", seed=seed) for seed in range(3)]
    lines = stored(*cells)
    assert gradient_table("tiny", lines) == []
    for cell, first in zip(cells[:2], (1.0, 3.0), strict=True):
        place = {"encoder": first, "items": 2 * first}
        share = {"encoder": 0.5, "items": 0.1}
        norms = {"next item": place, "trajectory": share, "step": share}
        lines[cell.key]["gradient_norms"] = {"as it came": norms, "best": norms}
    # more rows are the same cells: at the learning rate and the batch size that are the default
    (came, best) = [line for line in gradient_table("tiny", lines) if " | 0, 1 | " in line]
    training = "up to 200 epochs, newest positions, batch 1024, lr 0.001"
    assert came == f"| SPT | {training} | 0, 1 | as it came | 2.0000 | 25.0% | 25.0% | 4.0000 | 2.5% | 2.5% |"
    assert best.split("|")[5:] == came.split("|")[5:]


def test_a_difference_by_hand() -> None:
    """Gains 1, .63, 0 against .63, .63, 0: one user of three differs, so t is 1 and p = 1 - 1 / sqrt(3)."""
    rows = [row for row in EXPERIMENTS["study"]("tiny") if row.label in ("Base", "SPT")]
    lines = stored(*(row.cell for row in rows))
    lines[rows[0].cell.key]["ranks"] = base64.b85encode(zlib.compress(bytes([1, 1, 200]))).decode()
    (found,) = [each for each in find(rows, lines) if each.row.label == "SPT"]
    difference = found.against(find(rows, lines))
    assert difference is not None
    second = math.log(2) / math.log(3)
    assert difference.mean == pytest.approx(2 * second / 3)
    assert difference.relative == pytest.approx((1 + second) / (2 * second) - 1)
    assert difference.p == pytest.approx(1 - 1 / math.sqrt(3))
    low, high = difference.interval
    assert (low + high) / 2 == pytest.approx((1 + second) / 3)  # around the row's own mean


def test_a_baseline_that_hits_nobody_has_no_ratio() -> None:
    assert relative_of(Difference("Base", math.nan, 0.0, (0.0, 0.1), 0.03)) == ("Base: from 0", "0.03")
    assert relative_of(Difference("Base", 0.1, 0.5, (0.5, 0.6), 0.5)) == ("Base: +10.0% [+0.0%, +20.0%]", "0.5")


def test_rows_that_cannot_learn_from_every_position_are_drawn_beside_those_that_do(tmp_path: Path) -> None:
    cells = [
        dataclasses.replace(row.cell, positions="all" if row.cell.backbone == "sasrec" else "newest")
        for row in EXPERIMENTS["figure2"]("tiny")
    ]
    found = find(EXPERIMENTS["figure2"]("tiny"), stored(*cells))
    assert len(most_common(found)) == len(found) == len(cells)


@pytest.mark.parametrize("name", ["table1", "table4", "figure2", "figure3", "figure4", "figure5", "figure6", "study"])
def test_figures_are_cut_to_the_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every seed is a point; all lie within a thousandth of each other, so an axis from 0 would hide what differs."""
    plt = pytest.importorskip("matplotlib.pyplot")
    lines: dict[str, Line] = {}
    rows = [row for row in EXPERIMENTS[name]("tiny") if row.cell.kind not in UNTRAINED]
    for number, row in enumerate(rows):
        for seed in (0, 1):
            value = (1 + math.log(2) / math.log(3)) / 3 + 0.001 * number / len(rows) + 0.0001 * seed
            lines |= stored(dataclasses.replace(row.cell, seed=seed), ndcg=value)
    for line in lines.values():
        line["history"] = [{"epoch": epoch, "ndcg@10": 0.05 + epoch / 1e4, "reward_mean": 0.5} for epoch in range(3)]
    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    path = draw(name, "tiny", lines, tmp_path)
    assert path is not None and path.read_bytes().startswith(b"\x89PNG")
    axes = drawn[0].axes[0]
    if name == "figure4":
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "target policy", "hybrid policy", "top policy",
        ]  # fmt: skip
        assert len(axes.lines) == 6
        return
    low, high = axes.get_ylim()
    assert 0.54 < low < high < 0.55
    points = [line for line in axes.lines if line.get_marker() == "."]
    across = [line for line in axes.lines if line.get_linestyle() == "--"]
    on_curves = {"figure3": 6, "figure5": 10, "study": len(rows) - 2}.get(name, len(rows))  # two are SPT again
    assert sum(len(line.get_ydata()) for line in points) == 2 * on_curves
    assert len(across) == {"table1": 2, "table4": 0, "figure2": 0, "figure5": 2, "study": 6}.get(name, 1)
    if name in ("figure3", "figure5"):
        curves = [line for line in axes.lines if line.get_linestyle() == "-"]
        wanted = {"figure3": [[1, 2, 3, 4, 6, 8]], "figure5": [[0, 0.1, 0.2, 0.3, 0.5], [0, 0.1, 0.3, 0.5, 0.7]]}
        assert [list(line.get_xdata()) for line in curves] == [
            pytest.approx(places, abs=0.02) for places in wanted[name]
        ]


def test_a_bar_lies_to_the_dashed_line_as_the_difference_does_to_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline has a seed more, far below the others, and the row's difference is told on the seeds of both."""
    plt = pytest.importorskip("matplotlib.pyplot")
    first, second = EXPERIMENTS["figure6"]("tiny")[:2]
    lines: dict[str, Line] = {}
    for row, seed, value in ((first, 0, 0.5), (first, 1, 0.1), (second, 0, 0.5)):
        lines |= stored(dataclasses.replace(row.cell, seed=seed), ndcg=value)
    key = dataclasses.replace(second.cell, seed=0).key
    lines[key]["ranks"] = base64.b85encode(zlib.compress(bytes([0, 0, 0]))).decode()
    gained = torch.tensor([0, 1 - 1 / math.log2(3), 1], dtype=torch.float64)
    wide = 4.303 * float(gained.std()) / math.sqrt(3)  # t of two degrees of freedom
    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    draw("figure6", "tiny", lines, tmp_path)
    (bar,) = drawn[0].axes[0].collections
    ((_, low), (_, high)) = bar.get_segments()[0]
    mean = float(gained.mean())
    assert (low - 0.3, high - 0.3) == pytest.approx((mean - wide, mean + wide), rel=1e-3)


def test_a_curve_of_one_point_is_not_drawn_and_an_older_one_goes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    base, _, third = EXPERIMENTS["figure5"]("tiny")[:3]
    older = tmp_path / "figure5-tiny.png"
    older.touch()
    assert draw("figure5", "tiny", stored(base.cell, third.cell), tmp_path) is None
    assert not older.exists()


def test_what_is_only_counted_is_told_once_for_each_length() -> None:
    chance, followers = Cell("tiny", kind="chance"), Cell("tiny", kind="followers")
    again = [dataclasses.replace(chance, seed=1), dataclasses.replace(chance, epochs=5)]  # as older releases stored it
    lines = stored(chance, *again, followers, dataclasses.replace(followers, max_length=50), ndcg=0.1)
    written = [line.split(" | ")[:4] for line in experiment_table("table1", "tiny", lines)[4:-1]]
    assert written == [
        ["| chance", "", "0", "0.1000"],
        ["| Followers", "", "0", "0.1000"],
        ["| Followers", "max length 50", "0", "0.1000"],
    ]


def test_a_row_is_held_against_rows_of_the_same_settings_and_not_against_itself() -> None:
    rows = EXPERIMENTS["study"]("tiny")
    labels = {row.label: row for row in rows}
    spt, slow = labels["SPT"].cell, labels["learning rate 3e-4"].cell
    softer = labels["tau 1"].cell
    lines = stored(*(dataclasses.replace(cell, batch_size=256) for cell in (slow, spt, softer)))
    lines |= stored(dataclasses.replace(slow, batch_size=512))
    found = find(rows, lines)
    told = {(each.row.label, each.settings.get("batch_size")): each.against(found) for each in found}
    held = told["learning rate 3e-4", 256]
    assert held is not None and held.baseline == "SPT" and held.relative == 0
    assert told["tau 1", 256] is not None
    assert told["learning rate 3e-4", 512] is None  # SPT was never trained so
    assert told["learning rate 1e-3", 256] is None  # which is SPT's own
    written = [row.split(" | ")[0] for row in experiment_table("study", "tiny", lines)]
    assert written.count("| learning rate 3e-4") == 1  # where it is SPT's only one, SPT's row tells it
    assert "| learning rate 1e-3" not in written and "| batch 256" not in written  # SPT again
    assert "| tau 1" in written and "| SPT" in written


def test_thoughts_are_told_as_means_over_the_seeds_that_tell() -> None:
    cells = [Cell("tiny", seed=seed) for seed in (0, 1, 2)]
    lines = stored(*cells)
    assert thinking_table("tiny", lines) == []
    for seed, moved in ((0, 0.1), (2, 0.3)):
        lines[cells[seed].key]["thinking"] = {
            "moves": [moved, 0.05, 0.01, 0, 0, 0, 0.002], "spread": 0.5, "undecided": moved,
            "ndcg@10": {"saved state": 0.05, "mean of 8 draws": 0.06, "zero state": 0.07},
        }  # fmt: skip
    training = "up to 200 epochs, newest positions, batch 1024, lr 0.001"
    row = f"| SPT | {training} | 0, 2 | 20.0% | 5.0% | 1.0% | 0.2% | 50.0% | 20.0% | 0.0500 | 0.0600 | 0.0700 |"
    assert row in thinking_table("tiny", lines)
