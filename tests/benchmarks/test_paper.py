"""The paper's experiments: cells are run once, continue, and are reported from their lines alone."""

from __future__ import annotations

import dataclasses
import gzip
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.paper import data, runner, train
from benchmarks.paper.cell import UNTRAINED, Cell
from benchmarks.paper.grids import EXPERIMENTS
from benchmarks.paper.matching import find
from benchmarks.paper.models import TEXT_STD, build
from benchmarks.paper.report import write_report
from benchmarks.paper.rows import Row
from benchmarks.paper.stored import CELLS, finished, gains, keep, unpack_ranks
from benchmarks.paper.tables import experiment_table, training_of
from benchmarks.paper.train import run_cell
from latentloop.backbones.bsarec import BSARecLayer
from latentloop.backbones.sasrec import SASRecLayer
from latentloop.data.amazon import PUBLISHED_COUNTS
from latentloop.data.interactions import Interactions
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.data.windows import Windows
from latentloop.followers import WEIGHTS
from latentloop.items.text_features import TextFeatures
from latentloop.runs.directory import RunDirectory
from latentloop.runs.lock import held
from latentloop.scoring import Cosine, Dot

ROOT = Path(__file__).parents[2]
TINY = {"epochs": 1, "rpt_epochs": 1, "dim": 8, "pre_layers": 1, "core_layers": 1, "batch_size": 256}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a few users."""
    folder = tmp_path_factory.mktemp("data")
    log = synthetic_log(num_users=60, num_items=40, seed=2)
    users: dict[int, list[str]] = {}
    for user, item in zip(log.user.tolist(), log.item.tolist(), strict=True):
        users.setdefault(user, [str(user + 1)]).append(str(item))
    (folder / "tiny.txt.gz").write_bytes(gzip.compress("\n".join(map(" ".join, users.values())).encode()))
    return folder


def test_every_experiment_has_rows_of_their_own() -> None:
    for name, rows in EXPERIMENTS.items():
        made = rows("tiny")
        assert len({row.label for row in made}) == len(made), name
        assert {row.baseline for row in made} - {None} <= {row.label for row in made}, name


def test_a_key_is_the_configuration() -> None:
    cell = Cell("tiny")
    assert cell.key == Cell("tiny").key != Cell("tiny", seed=1).key
    others = [{"tied": True}, {"schedule": "cosine"}, {"own_depth": True}, {"scorer": "cosine"}]
    assert len({cell.key, *(Cell("tiny", **other).key for other in others)}) == 5  # type: ignore[arg-type]
    assert Cell("tiny", rpt=True, policy="hybrid", reward="ndcg@5").pretrained == cell


def test_cells_that_were_stored_before_a_field_was_there_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their keys are those of the releases that stored them, and the command finds nothing left of two of them."""
    lines = finished(ROOT / CELLS)
    older = [line for line in lines.values() if "tied" not in line["cell"]]
    assert len(older) >= 10
    assert all(Cell(**line["cell"]).key == line["key"] for line in lines.values())
    monkeypatch.chdir(ROOT)
    options = runner.Options(
        "study", data=("amazon2018-scientific",), seeds=(0,), positions="all", batch_size=256, learning_rate=3e-3,
        epochs=60, only=("Base", "SPT"),
    )  # fmt: skip
    assert [cell.key in lines for cell in options.cells()] == [True, True]


def test_a_row_keeps_the_fields_that_it_is_about(tmp_path: Path) -> None:
    (tmp_path / "tiny.text.npy").touch()
    options = runner.Options("study", data=("tiny",), folder=tmp_path, seeds=(0,), learning_rate=3e-3, batch_size=256)
    cells = {row.label: cell for row, cell in zip(EXPERIMENTS["study"]("tiny"), _with_repeats(options), strict=True)}
    assert (cells["SPT"].learning_rate, cells["SPT"].batch_size) == (3e-3, 256)
    slow, small = cells["learning rate 3e-4"], cells["batch 64"]
    assert (slow.learning_rate, slow.batch_size) == (3e-4, 256)
    assert (small.learning_rate, small.batch_size) == (3e-3, 64)
    assert cells["learning rate 3e-3"] == cells["batch 256"] == cells["SPT"]


def test_dropout_schedule_and_length_are_the_command_lines_but_for_the_rows_about_them(tmp_path: Path) -> None:
    (tmp_path / "tiny.text.npy").touch()
    options = runner.Options(
        "study", data=("tiny",), folder=tmp_path, seeds=(0,), dropout=0.2, schedule="cosine", max_length=50,
        choose_without_history=True,
    )  # fmt: skip
    cells = {row.label: cell for row, cell in zip(EXPERIMENTS["study"]("tiny"), _with_repeats(options), strict=True)}
    assert (cells["Base"].dropout, cells["Base"].schedule, cells["Base"].max_length) == (0.2, "cosine", 50)
    assert (cells["dropout .3"].dropout, cells["dropout .3"].max_length) == (0.3, 50)
    assert cells["cosine schedule"] == cells["SPT"] and cells["Base"].choose_without_history
    grid = runner.Options("tuning", data=("tiny",), dropout=0.2, max_length=50).cells()
    assert {(cell.dropout, cell.max_length) for cell in grid} == {(0.3, 50), (0.5, 50)}


def test_what_post_training_costs_is_no_part_of_a_pre_trained_cell() -> None:
    options = runner.Options("study_rpt", data=("tiny",), seeds=(0,), rpt_epochs=2)
    pre = next(cell for cell in options.cells() if not cell.rpt and not cell.held_out)
    assert pre == Cell("tiny") and {cell.rpt_epochs for cell in options.cells() if cell.rpt} == {2}


def test_post_training_is_held_against_pre_training_that_goes_on() -> None:
    rows = {row.label: row for row in EXPERIMENTS["study_rpt"]("tiny")}
    for start in ("", "newest held out: "):
        rival = rows[f"{start}pre-training goes on"]
        assert rival.cell.policy == "none"
        for label, row in rows.items():
            if row.cell.rpt and row is not rival and row.cell.held_out == bool(start):
                assert row.baseline == rival.label, label
                assert dataclasses.replace(row.cell, policy="none").pretrained == rival.cell.pretrained


def test_what_is_only_counted_is_one_cell() -> None:
    options = runner.Options("table1", data=("tiny",), seeds=(1, 2), epochs=5, max_length=50, only=("Popularity",))
    assert options.cells() == [Cell("tiny", kind="popularity", max_length=50)]


def test_a_row_whose_texts_are_not_there_is_an_error_where_it_was_asked_for(tmp_path: Path) -> None:
    options = runner.Options("study", data=("tiny",), folder=tmp_path, only=("Base", "Base, items from texts"))
    with pytest.raises(
        SystemExit, match="--only: 'Base, items from texts' reads the items' texts, and there is no .*tiny.text"
    ):
        options.cells()


def test_what_cannot_be_run_is_refused_before_anything_is(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"no other.txt.gz in {folder}: set --folder"):
        runner.main(runner.Options("table1", data=("tiny", "other"), folder=folder))
    with pytest.raises(SystemExit, match="tuned: no cell of `tuning` is finished for tiny"):
        runner.Options("tuned", data=("tiny",), only=("Base",)).cells()


def test_a_row_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SystemExit, match="--only: table1 has no row 'LARS'; it has 'chance', 'Popularity', "):
        runner.Options("table1", data=("tiny",), only=("LARES", "LARS")).cells()


def test_an_item_table_starts_from_texts_alike_in_the_loop_and_its_rivals() -> None:
    """Principal components: uncorrelated columns of falling variance that keep two dimensions' distances."""
    rng = np.random.default_rng(0)
    features = np.zeros((41, 6), dtype=np.float32)
    features[1:] = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 6)) + 3.0
    text = TextFeatures(torch.from_numpy(features), torch.zeros(41, dtype=torch.bool))
    small = {"dim": 4, "pre_layers": 1, "core_layers": 1}
    loop, plain, deep = (
        build(Cell("tiny", kind=kind, items="texts", **small), 40, text).item_table.weight.detach()
        for kind in ("loop", "plain", "plain-deep")
    )
    assert torch.equal(loop, plain) and torch.equal(loop, deep) and not loop[0].any()
    found, given = loop[1:].double(), text.features[1:].double()
    assert float(found.square().mean().sqrt()) == pytest.approx(TEXT_STD, rel=1e-5)
    covariance = found.T @ found
    variance = covariance.diagonal()
    assert bool((variance.diff() <= 1e-9).all()) and float((covariance - variance.diag()).abs().max()) < 1e-6
    ratio = torch.cdist(found, found) / torch.cdist(given, given).fill_diagonal_(1.0)
    assert float(ratio[0, 1:].std() / ratio[0, 1:].mean()) < 1e-4
    random, shuffled = (
        build(Cell("tiny", kind="plain", items=items, **small), 40, text).item_table.weight.detach()
        for items in ("random", "shuffled texts")
    )
    assert not torch.equal(random, plain) and not torch.equal(shuffled, plain)
    assert sorted(shuffled.tolist()) == sorted(plain.tolist()) and not shuffled[0].any()


def test_models_that_see_later_items_keep_to_prefix_samples() -> None:
    cells = runner.Options("table1", data=("tiny",), seeds=(0,), positions="all").cells()
    assert {cell.backbone: cell.positions for cell in cells} == {
        "sasrec": "all",
        "fmlprec": "newest",
        "bsarec": "newest",
    }


def test_who_reads_texts_needs_texts(tmp_path: Path) -> None:
    options = runner.Options("figure2", data=("tiny",), folder=tmp_path, seeds=(0,))
    assert {cell.backbone for cell in options.cells()} == {"sasrec", "fmlprec", "bsarec"}
    study = dataclasses.replace(options, experiment="study")
    assert {cell.items for cell in study.cells()} == {"random"}
    (tmp_path / "tiny.text.npy").touch()
    assert {cell.backbone for cell in options.cells()} == {"sasrec", "fmlprec", "bsarec", "tedrec"}
    assert {cell.items for cell in study.cells()} == {"random", "texts", "shuffled texts"}


def test_a_cells_scorer_is_the_models_and_else_the_backbones_own() -> None:
    for name in ("sasrec", "bsarec"):
        for kind in ("plain", "loop"):
            cell = Cell("tiny", kind=kind, backbone=name, **TINY)  # type: ignore[arg-type]
            assert build(cell, 40).scorer == Dot()
            assert build(dataclasses.replace(cell, scorer="cosine"), 40).scorer == Cosine()
            mapped = build(dataclasses.replace(cell, scorer="mapped"), 40)
            thoughts, linear = torch.randn(3, cell.dim), dict(mapped.named_modules())["scorer.linear"]
            torch.testing.assert_close(mapped.queries(thoughts), thoughts @ linear.weight.T + linear.bias)
            assert torch.equal(mapped.keys(), mapped.item_table.weight[1:])


def test_a_tied_block_is_the_backbones_own_and_is_used_twice() -> None:
    for name in ("sasrec", "bsarec"):
        separate, tied = (
            build(Cell("tiny", backbone=name, tied=tied, **TINY), 40).encoder  # type: ignore[arg-type]
            for tied in (False, True)
        )
        assert tied.pre_block.module is tied.core_block.module
        assert type(tied.core_block.module) is type(separate.core_block.module)


def test_what_is_each_thoughts_own_is_what_the_cell_says() -> None:
    for name, layer in {"sasrec": SASRecLayer, "bsarec": BSARecLayer}.items():
        cell = Cell("tiny", backbone=name, mean_depth=2, **TINY)  # type: ignore[arg-type]
        shared, norms, layers = (
            build(dataclasses.replace(cell, own=own), 40).encoder for own in ("nothing", "norms", "layers")
        )
        first = list(shared.core_block.module.parameters())
        for encoder, own in ((norms, nn.LayerNorm), (layers, layer)):
            steps = [block.module for block in encoder.core_block.module.blocks]
            assert len(steps) == 3  # k-bar + 1
            apart = {id(p) for part in steps[0].modules() if isinstance(part, own) for p in part.parameters()}
            for step in steps:  # all begin as the shared block does, and share what is not their own
                for one, other, begun in zip(step.parameters(), steps[0].parameters(), first, strict=True):
                    assert torch.equal(one, begun)
                    assert (one is other) == (step is steps[0] or id(other) not in apart)


def _with_repeats(options: runner.Options) -> list[Cell]:
    """The cell of every row, where `cells` lists each once."""
    return [
        dataclasses.replace(options, only=(row.label,)).cells()[0]
        for row in EXPERIMENTS[options.experiment](options.data[0])
    ]


def test_the_counts_of_the_papers_table_3() -> None:
    assert PUBLISHED_COUNTS == {
        "Musical_Instruments": (57_439, 24_587, 511_836),
        "Industrial_and_Scientific": (50_985, 25_848, 412_947),
        "Video_Games": (94_762, 25_612, 814_586),
        "Baby_Products": (150_777, 36_013, 1_241_083),
    }


@pytest.mark.parametrize("found", [(57_439, 24_587, 511_836), (57_438, 24_587, 511_830)])
def test_amazon_2023_has_the_papers_counts_or_is_refused(
    monkeypatch: pytest.MonkeyPatch, found: tuple[int, int, int]
) -> None:
    users, items, actions = found
    user = np.arange(actions) % users
    item = np.arange(actions) % items + 1
    log = Interactions.from_numbers(user, item, None, list(range(users)), list(range(items)))
    monkeypatch.setattr(data, "load_interactions", lambda name: log)
    name = "amazon-2023:Musical_Instruments"
    if users == 57_439:
        assert data.load_split(name, Path("nowhere"), 20).num_items == 24_587
        return
    with pytest.raises(SystemExit) as caught:
        data.load_split(name, Path("nowhere"), 20)
    assert str(caught.value) == (
        f"{name} has 57,438 users, 24,587 items and 511,830 actions, where the paper's has 57,439 users, 24,587 items "
        "and 511,836 actions"
    )
    assert len(data.load_split("amazon-2023:Software", Path("nowhere"), 20).test) == users  # of which nothing is known


@pytest.mark.parametrize(
    "cell",
    [
        Cell("tiny", kind="chance"),
        Cell("tiny", kind="followers"),
        Cell("tiny", kind="plain", alpha=0.1, **TINY),  # type: ignore[arg-type]
        Cell("tiny", kind="plain-deep", alpha=0.0, **TINY),  # type: ignore[arg-type]
        Cell("tiny", **(TINY | {"pre_layers": 0})),  # type: ignore[arg-type]
        Cell("tiny", rpt=True, reward="ndcg@5", own_depth=True, backbone="bsarec", **TINY),  # type: ignore[arg-type]
        Cell("tiny", positions="all", norm="post", similarity="dot", temperature=1.0, **TINY),  # type: ignore[arg-type]
        Cell("tiny", rpt=True, policy="none", **TINY),  # type: ignore[arg-type]
        Cell("tiny", rpt=True, held_out=True, positions="all", **TINY),  # type: ignore[arg-type]
        Cell("tiny", tied=True, schedule="cosine", scorer="mapped", **TINY),  # type: ignore[arg-type]
        Cell("tiny", positions="all", mean_depth=0, depth="fixed", **(TINY | {"pre_layers": 0})),  # type: ignore[arg-type]
    ],
    ids=[
        "chance",
        "followers",
        "plain aligned",
        "plain deep",
        "no pre-block",
        "post-trained",
        "all positions",
        "pre-trained further",
        "post-trained on what it has not seen",
        "tied",
        "all positions, no pre-block, one thought",
    ],
)
def test_a_cell_is_run_and_tested(cell: Cell, folder: Path, tmp_path: Path) -> None:
    line = run_cell(cell, folder, tmp_path, "cpu")
    assert Cell(**line["cell"]) == cell
    ranks = unpack_ranks(line["ranks"])
    assert len(ranks) == 60
    mean = gains(line).mean()  # of rivals too, which give many items one score
    assert mean == pytest.approx(line["test"]["ndcg@10"], rel=1e-6) and len(gains(line)) == 60
    assert ("gains" in line) == (cell.kind in UNTRAINED)
    if cell.kind not in UNTRAINED:
        for alone in (line, line["excluded"]):
            more = alone["followed"]
            assert more["weight"] in WEIGHTS and more["validation"]["ndcg@10"] >= alone["validation"]["ndcg@10"]
            assert gains(line | more).mean() == pytest.approx(more["test"]["ndcg@10"], rel=1e-6)
        assert 0 <= line["repeats"]["first"] <= min(1, line["repeats"]["of_best"]) <= line["repeats"]["k"] == 10
        assert list(line.get("repeats_by_depth", ())) == ["1", "2", "3", "4", "6", "8"] * (cell.kind == "loop")
        terms = {"next item", *["trajectory"] * (cell.alpha > 0), *["step"] * (cell.kind == "loop")}
        assert {moment: set(norms) for moment, norms in line["gradient_norms"].items()} == {
            "as it came": terms, "best": terms,
        }  # fmt: skip
    assert line["excluded"]["test"]["ndcg@10"] >= line["test"]["ndcg@10"] > 0


@pytest.mark.parametrize("without", [False, True])
def test_the_epoch_is_chosen_by_the_ranking_that_the_cell_names(folder: Path, tmp_path: Path, without: bool) -> None:
    cell = Cell("tiny", choose_without_history=without, **(TINY | {"epochs": 3}))  # type: ignore[arg-type]
    line = run_cell(cell, folder, tmp_path, "cpu")
    best = line["history"][line["best_epoch"] - 1]["ndcg@10"]
    assert best == max(entry["ndcg@10"] for entry in line["history"])
    chosen, other = (line["excluded"], line) if without else (line, line["excluded"])
    assert best == pytest.approx(chosen["validation"]["ndcg@10"]) != pytest.approx(other["validation"]["ndcg@10"])
    assert ("epoch chosen without the history" in training_of(line["cell"])) == without


def test_each_users_newest_target_is_kept_for_post_training() -> None:
    split = leave_one_out(synthetic_log(num_users=60, num_items=40, seed=2), 20)
    both = train.parts_of_training(split.train, held_out=False)
    assert both == (split.train, split.train)
    first, later = train.parts_of_training(split.train, held_out=True)
    for user in range(60):
        items = split.interactions.item[split.interactions.user == user].tolist()
        learned = first.target(torch.nonzero(first.user == user).flatten()).tolist()
        held = later.target(torch.nonzero(later.user == user).flatten()).tolist()
        assert (learned, held) == (items[1:-3], items[-3:-2])  # the last two are validation's and the test's
    windows = Windows.of(first)
    targets = windows.targets(torch.arange(len(windows)))
    assert int((targets > 0).sum()) == len(first)


def test_measuring_gradients_changes_no_bit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("tiny", **TINY)  # type: ignore[arg-type]
    measured = run_cell(cell, folder, tmp_path / "one", "cpu")
    monkeypatch.setattr(train, "gradient_norms", lambda *given: {})
    plain = run_cell(cell, folder, tmp_path / "other", "cpu")
    for name in ("validation", "test", "by_depth", "ranks", "history"):
        assert measured[name] == plain[name], name


def test_a_cell_that_an_older_harness_began_goes_on(folder: Path, tmp_path: Path) -> None:
    """Its run directory says nothing of fields that were made later."""
    cell = Cell("tiny", **TINY)  # type: ignore[arg-type]
    older = {name: value for name, value in dataclasses.asdict(cell).items() if name not in ("tied", "schedule")}
    RunDirectory.create(tmp_path / cell.key, older)
    assert run_cell(cell, folder, tmp_path, "cpu")["key"] == cell.key


def test_what_another_command_trains_is_tried_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, free = (Cell("tiny", kind="plain", alpha=0.0, dropout=p, **TINY) for p in (0.1, 0.2))  # type: ignore[arg-type]
    monkeypatch.setitem(EXPERIMENTS, "figure3", lambda data: [Row("taken", taken), Row("free", free)])
    monkeypatch.chdir(tmp_path)
    options = runner.Options("figure3", data=("tiny",), folder=folder, work=tmp_path / "runs", seeds=(0,), device="cpu")
    with held(options.work / taken.pretrained.key):
        assert runner.main(dataclasses.replace(options, budget="1m")) == 1
    assert set(finished()) == {free.key}
    release = ExitStack()
    release.enter_context(held(options.work / taken.pretrained.key))
    monkeypatch.setattr(runner, "AGAIN", 0.1)
    monkeypatch.setattr(
        runner.time, "sleep", lambda seconds: release.close()
    )  # the other command ends while this one waits
    assert runner.main(options) == 0 and set(finished()) == {taken.key, free.key}


def test_a_cell_that_fails_ends_no_other(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Cell("tiny", kind="plain", alpha=0.0, dropout=p, **TINY) for p in (0.1, 0.2))  # type: ignore[arg-type]
    monkeypatch.setitem(EXPERIMENTS, "figure3", lambda data: [Row("first", first), Row("second", second)])
    monkeypatch.chdir(tmp_path)
    options = runner.Options("figure3", data=("tiny",), folder=folder, work=tmp_path / "runs", seeds=(0,), device="cpu")
    options.work.mkdir()
    (options.work / first.pretrained.key).touch()  # where its run belongs
    with pytest.raises(SystemExit, match="^1 cells failed"):
        runner.main(options)
    assert set(finished()) == {second.key}


def test_other_data_of_the_name_of_finished_cells_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = runner.Options("table1", data=("tiny",), folder=folder, seeds=(0,), only=("chance",))
    assert runner.main(options) == 0
    (line,) = finished().values()
    other = tmp_path / "other"
    other.mkdir()
    text = gzip.decompress((folder / "tiny.txt.gz").read_bytes())
    (other / "tiny.txt.gz").write_bytes(gzip.compress(text.rpartition(b"\n")[0]))
    with pytest.raises(SystemExit, match=f"^tiny in {other} is not what the finished cells were trained on"):
        runner.main(dataclasses.replace(options, folder=other))
    cell = Cell(**line["cell"])
    keep("table1", line | {"key": "made of other data", "data_hash": "0"})
    with pytest.raises(SystemExit, match=f"table1.jsonl, line 2: {cell.data} is not what it was in .*line 1"):
        finished()


def test_other_texts_than_those_of_finished_cells_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with_texts = tmp_path / "with_texts"
    with_texts.mkdir()
    (with_texts / "tiny.txt.gz").write_bytes((folder / "tiny.txt.gz").read_bytes())
    np.save(with_texts / "tiny.text.npy", np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    cell = Cell("tiny", kind="plain", alpha=0.0, items="texts", **TINY)  # type: ignore[arg-type]
    keep("study", run_cell(cell, with_texts, tmp_path / "runs", "cpu"))
    options = runner.Options("study", data=("tiny",), folder=with_texts, seeds=(0,), only=("Base, items from texts",))
    assert runner.main(dataclasses.replace(options, budget="0")) == 1
    np.save(with_texts / "tiny.text.npy", np.zeros((40, 8), dtype=np.float32))
    with pytest.raises(SystemExit, match="tiny.text.npy is not what the finished cells were trained on"):
        runner.main(options)


def test_a_line_without_an_end_is_passed_over_and_written_over(tmp_path: Path) -> None:
    cell = {"data": "tiny"}
    keep("study", {"key": "first", "cell": cell}, tmp_path)
    path = tmp_path / "study.jsonl"
    path.write_text(path.read_text() + '{"key": "second", "ce')  # its process was killed
    assert set(finished(tmp_path)) == {"first"}
    keep("study", {"key": "third", "cell": cell}, tmp_path)
    assert set(finished(tmp_path)) == {"first", "third"} and len(path.read_text().splitlines()) == 2
    path.write_text(path.read_text().rstrip("\n"))  # an editor took the end of a whole line
    assert set(finished(tmp_path)) == {"first", "third"}
    keep("study", {"key": "fourth", "cell": cell}, tmp_path)
    assert set(finished(tmp_path)) == {"first", "third", "fourth"}
    path.write_text(path.read_text() + "spoilt\n")
    with pytest.raises(SystemExit, match="study.jsonl, line 4: this is no finished cell"):
        finished(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the operating system")
def test_of_a_line_that_does_not_fit_nothing_is_left(tmp_path: Path) -> None:
    code = (
        "import resource, signal\nfrom pathlib import Path\nfrom benchmarks.paper.stored import keep\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "keep('study', {'key': 'first', 'cell': {'data': 'tiny'}}, Path())\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "try:\n    keep('study', {'key': 'second', 'cell': {'data': 'tiny'}, 'ranks': 'x' * 1000}, Path())\n"
        "except OSError:\n    print('refused')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout == "refused\n" and set(finished(tmp_path)) == {"first"}
    assert (tmp_path / "study.jsonl").read_text().endswith("}\n")


def test_readers_and_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Four threads write; whoever reads meanwhile finds whole lines only, and in the end all."""
    cell, wide = {"data": "tiny"}, "x" * 200_000

    def write(writer: int) -> None:
        for number in range(10):
            keep("study", {"key": f"{writer} {number}", "cell": cell, "ranks": wide}, tmp_path)

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, writer) for writer in range(4)]
        while not all(future.done() for future in writing):
            assert all(line["ranks"] == wide for line in finished(tmp_path).values())
    assert [future.result() for future in writing] == [None] * 4
    assert len(finished(tmp_path)) == 40


def test_what_is_done_is_not_run_again_and_is_reported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, loop = Cell("tiny", kind="plain", alpha=0.0, **TINY), Cell("tiny", **TINY)  # type: ignore[arg-type]
    rows = [Row("Base", plain), Row("LR+SPT", loop, "Base")]
    monkeypatch.setitem(EXPERIMENTS, "figure6", lambda data: rows)
    monkeypatch.chdir(tmp_path)
    options = runner.Options("figure6", data=("tiny",), folder=folder, seeds=(0, 1), device="cpu")
    lines = {cell.key: run_cell(cell, folder, tmp_path / "runs", "cpu") for cell in options.cells()}
    for line in lines.values():
        keep("figure6", line)
    assert finished() == lines
    assert runner.main(options) == 0  # no process starts: there is nothing to do
    (group,) = [found.lines for found in find(rows, lines) if found.row is rows[0]]
    assert [line["cell"]["seed"] for line in group] == [0, 1]
    table = experiment_table("figure6", "tiny", lines)
    assert len(table) == 7 and "Base: " in table[5]
    assert table[5].startswith("| LR+SPT | up to 1 epochs, newest positions, batch 256, lr 0.001 | 0, 1 |")
    assert "figure6-tiny.png" in write_report()
    assert (tmp_path / "benchmarks/results/figure6-tiny.png").is_file()


def test_the_command_runs_cells_in_processes_of_their_own(folder: Path, tmp_path: Path) -> None:
    arguments = ["table1", "--data", "tiny", "--only", "chance", "Popularity", "--seeds", "0", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.paper", *arguments, "--folder", str(folder)],
        cwd=tmp_path, env=environment, check=True, timeout=300,
    )  # fmt: skip
    lines = finished(tmp_path / CELLS)
    assert sorted(line["cell"]["kind"] for line in lines.values()) == ["chance", "popularity"]
    left = subprocess.run(
        [sys.executable, "-m", "benchmarks.paper", "table1", "--data", "tiny", "--folder", str(folder), "--budget", "0"],
        cwd=tmp_path, env=environment, check=False, timeout=300,
    )  # fmt: skip
    assert left.returncode == 3


@pytest.mark.parametrize(("budget", "expected"), [("9m", 540.0), ("2h", 7200.0), ("30", 30.0), (None, float("inf"))])
def test_budgets(budget: str | None, expected: float) -> None:
    assert runner.seconds(budget) == expected


def test_a_budget_in_other_words_is_refused() -> None:
    with pytest.raises(SystemExit, match="9m, got 'soon'"):
        runner.seconds("soon")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_ends_with_its_parent() -> None:
    code = (
        "import os\nfrom benchmarks.paper.runner import end_with\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0:\n    end_with(parent)"
    )
    # the child has the other end of the pipe too, which closes once both are gone
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 0
