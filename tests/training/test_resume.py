"""A run that stopped and goes on ends with the same bits as one that never stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentloop.backbones.sasrec import SASRec
from latentloop.data.splits import Split, global_time, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError
from latentloop.objectives import RPT, SPT, NextItem, SampledNextItem, Weighted
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.runs.continuation import in_words
from latentloop.runs.directory import RunDirectory
from latentloop.training import fit, make_accelerator
from latentloop.two_stage import TwoStage, two_stage
from tests.inputs.worlds import unchecked

TIMES = ("train_seconds", "samples_per_second")


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic_log(num_users=120, num_items=50, seed=2), 8)


def fresh(split: Split) -> Recommender:
    torch.manual_seed(0)
    backbone = SASRec(pre_layers=1, core_layers=1, inner=32, dropout=0.2)
    return build_recommender(backbone, split.num_items, dim=16, max_length=8, dropout=0.2)


class Killed(BaseException):
    """Stands for the end of the process."""


def recipe(split: Split, run: RunDirectory) -> TwoStage:
    settings: dict[str, Any] = {"epochs": 3, "rpt_epochs": 2, "batch_size": 128, "rpt_batch_size": 64}
    return two_stage(fresh(split), split, spt=SPT(), rpt=RPT(rollouts=2), device="cpu", cut=40, run=run, **settings)


def lines(run: RunDirectory) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in TIMES} for line in run.lines.read()]


@pytest.fixture(scope="module")
def whole(split: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[TwoStage, RunDirectory]:
    run = RunDirectory.create(tmp_path_factory.mktemp("whole") / "run", {"seed": 0})
    return recipe(split, run), run


# saves: three pre-training epochs, the model as it came, two post-training epochs; tests/crash kills real processes
@pytest.mark.parametrize(("saves", "when"), [(2, "after"), (4, "after"), (6, "before")])
def test_killed_around_any_checkpoint(
    split: Split,
    whole: tuple[TwoStage, RunDirectory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saves: int,
    when: str,
) -> None:
    from latentloop.fitting import stage as training_stage

    run = RunDirectory.create(tmp_path / "run", {"seed": 0})
    real, count = training_stage.save_state, 0

    def save_and_die(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == saves and when == "before":
            raise Killed
        real(*arguments)
        if count == saves:
            raise Killed

    monkeypatch.setattr(training_stage, "save_state", save_and_die)
    with pytest.raises(Killed):
        recipe(split, run)
    monkeypatch.setattr(training_stage, "save_state", real)
    result = recipe(split, RunDirectory.create(run.path, {"seed": 0}, resume=True))
    expected, uninterrupted = whole
    same_weights(result.model.state_dict(), expected.model.state_dict())
    assert result.metrics == expected.metrics
    assert lines(run) == lines(uninterrupted)
    for stage in ("spt", "rpt"):
        one, other = result.outcomes[stage].fitted, expected.outcomes[stage].fitted
        assert one is not None and other is not None
        assert (one.best_epoch, one.best, one.epochs) == (other.best_epoch, other.best, other.epochs)


def same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_resuming_a_finished_run_changes_nothing(split: Split, whole: tuple[TwoStage, RunDirectory]) -> None:
    expected, run = whole
    before = (run.path / "metrics.jsonl").read_text()
    again = recipe(split, RunDirectory.create(run.path, {"seed": 0}, resume=True))
    same_weights(again.model.state_dict(), expected.model.state_dict())
    assert (run.path / "metrics.jsonl").read_text() == before


def test_a_run_is_never_continued_on_other_data(split: Split, whole: tuple[TwoStage, RunDirectory]) -> None:
    """Its numbers would be those of a model that was trained on something else."""
    items = split.interactions.item.clone()
    items[0] = items[0] % split.num_items + 1
    other = leave_one_out(replace(split.interactions, item=items), 8)
    by_time = global_time(split.interactions, 8)
    for changed in (other, by_time):
        with pytest.raises(InputError, match=r"state/spt\.safetensors is of other data"):
            recipe(changed, RunDirectory.create(whole[1].path, {"seed": 0}, resume=True))


def test_a_run_is_never_continued_on_histories_of_another_length(
    split: Split, whole: tuple[TwoStage, RunDirectory]
) -> None:
    with pytest.raises(InputError, match="^max_length of the samples is 4, and .* was trained with 8: "):
        recipe(leave_one_out(split.interactions, 4), RunDirectory.create(whole[1].path, {"seed": 0}, resume=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 7}, r"^seed is 7, and .*spt\.safetensors was trained with 0: "),
        ({"learning_rate": 0.05}, "^learning_rate is 0.05, and .* with 0.001: "),
        ({"batch_size": 64}, "^batch_size is 64, and .* with 128: "),
        ({"spt": SPT(gamma=0.5)}, r"^objective is .*0\.5 \* StepAlignment.*0\.1 \* StepAlignment"),
        ({"rpt": RPT(rollouts=2, kl_weight=0.5)}, r"^objective is RPT.*kl_weight=0\.5.*rpt\.safetensors"),
        ({"cut": 30}, r"^cut is 30, and .*rpt\.safetensors was trained with 40: "),
        ({"trials": 1}, r"^trials is 1, and .*rpt\.safetensors was trained with 3: "),
        ({"precision": "bf16"}, "^precision is bf16, and .* with fp32: "),
    ],
)
def test_a_run_is_never_continued_by_other_settings(
    split: Split, whole: tuple[TwoStage, RunDirectory], changed: dict[str, Any], message: str
) -> None:
    """What stands there would be told under another name."""
    _, run = whole
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    settings: dict[str, Any] = {
        "spt": SPT(),
        "rpt": RPT(rollouts=2),
        "batch_size": 128,
        "rpt_batch_size": 64,
        "cut": 40,
    }
    with pytest.raises(InputError, match=message):
        two_stage(fresh(split), split, epochs=3, rpt_epochs=2, device="cpu", run=run, **(settings | changed))
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scorer": "cosine"}, r"^scorer is Cosine\(temperature=0\.07\), and .* with Dot\(\): "),
        ({"inference_state": "zero"}, "^inference_state is zero, and .* with shared: "),
        ({"dropout": 0.3}, "^dropout of the input is 0.3, and .* with 0.2: "),
    ],
)
def test_a_run_is_never_continued_by_a_model_of_other_settings(
    split: Split, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    def train(epochs: int, **own: Any) -> None:
        backbone = SASRec(pre_layers=1, core_layers=1, inner=32, dropout=0.2)
        model = build_recommender(backbone, split.num_items, **({"dim": 16, "max_length": 8, "dropout": 0.2} | own))
        fit(
            model, split.train, split.validation, NextItem(), epochs=epochs, run=run,
            accelerator=make_accelerator(device="cpu"),
        )  # fmt: skip

    run = RunDirectory.create(tmp_path / "run", {})
    train(1)
    with pytest.raises(InputError, match=message):
        train(2, **changed)
    train(2)


def test_a_model_that_is_caught_up_with_knows_the_items_ids(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first epoch's state was saved and before its model was, then continued to no better one."""
    from latentloop.runs.best_weights import BestWeights

    def killed(*arguments: Any, **settings: Any) -> None:
        raise Killed

    run = RunDirectory.create(tmp_path / "run", {})
    accelerator = make_accelerator(device="cpu")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(BestWeights, "keep", killed)
        fit(fresh(split), split.train, split.validation, NextItem(), epochs=1, run=run, accelerator=accelerator)
    fit(fresh(split), split.train, split.validation, NextItem(), epochs=1, run=run, accelerator=accelerator)
    found = Recommender.from_pretrained(run.model_path("spt")).item_ids
    assert found is not None and found.ids == list(split.item_ids)


class Annealed:
    """An objective whose settings change while it is used."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, views: Any, batch: Any) -> Any:
        return NextItem()(views, batch)

    def __repr__(self) -> str:
        return f"Annealed({self.weight})"


def test_an_objective_in_words_is_the_same_in_every_process() -> None:
    assert in_words(Annealed(1.0)) == in_words(Annealed(0.5)) == "Annealed"
    assert in_words(0.25 * NextItem() + Annealed(1.0)) == "0.25 * NextItem() + Annealed"
    assert in_words(Weighted(NextItem() + Annealed(1.0), 2.0)) == "2.0 * (NextItem() + Annealed)"
    assert in_words(RPT(reward=lambda greater, ties: greater)).count("lambda") == 1
    assert "0x" not in in_words(RPT(reward=lambda greater, ties: greater)) + in_words(lambda views, batch: 0)
    counted = SampledNextItem(5, item_counts=torch.ones(9, dtype=torch.int64))
    assert in_words(counted) == "SampledNextItem(num_negatives=5, item_counts=<9 counts>)"


def test_a_run_of_an_earlier_release_keeps_its_settings_once_it_is_taken_up(
    split: Split, whole: tuple[TwoStage, RunDirectory], tmp_path: Path
) -> None:
    """Equal numbers of other types are equal settings; a refusal leaves the model as it came."""
    run, train = RunDirectory.create(tmp_path / "run", {}), (split.train, split.validation, NextItem())
    settings: dict[str, Any] = {"accelerator": make_accelerator(device="cpu"), "run": run, "batch_size": 128}
    with unchecked():
        fit(fresh(split), *train, epochs=1, clip_norm=1, **settings)
    path = run.state_path("spt")
    with safe_open(str(path), framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    progress = json.loads(metadata["progress"])
    del progress["settings"]
    save_file(tensors, str(path), metadata={"progress": json.dumps(progress)})
    with unchecked():
        fit(fresh(split), *train, epochs=2, clip_norm=1.0, weight_decay=0, exclude_history=False, **settings)
    model = fresh(split)
    with pytest.raises(InputError, match="^clip_norm is 2.0, and .* with 1.0"):
        fit(model, *train, epochs=3, clip_norm=2.0, **settings)
    same_weights(model.state_dict(), fresh(split).state_dict())
    assert model.item_ids is None


def test_models_of_a_run_load_anywhere(split: Split, whole: tuple[TwoStage, RunDirectory]) -> None:
    _, run = whole
    history = split.test.history(torch.arange(5))
    for stage in ("spt", "rpt"):
        model = Recommender.from_pretrained(run.model_path(stage))
        assert model.think(history).steps.shape == (4, 5, 16)
        assert model.item_ids is not None
    assert run.lines.best_stage() in ("spt", "rpt")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "flipped weight", "other model"])
def test_a_damaged_state_is_one_line(split: Split, tmp_path: Path, damage: str) -> None:
    run = RunDirectory.create(tmp_path / "run", {"seed": 0})
    recipe(split, run)
    path = run.state_path("spt")
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(bytes(content[: len(content) // 2]))
    elif damage == "flipped":
        content[3] ^= 0xFF  # in the header's length
        path.write_bytes(bytes(content))
    elif damage == "flipped weight":
        content[-1] ^= 1
        path.write_bytes(bytes(content))
    else:
        torch.manual_seed(0)
        wide = build_recommender(SASRec(inner=64), split.num_items, dim=16, max_length=8)
        with pytest.raises(InputError, match="state"):
            two_stage(wide, split, device="cpu", run=RunDirectory.open(run.path), epochs=4)
        return
    with pytest.raises(InputError) as caught:
        recipe(split, RunDirectory.open(run.path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value) and "--overwrite" in str(caught.value)


def test_an_existing_directory_is_refused(tmp_path: Path) -> None:
    config = {"seed": 0}
    path = tmp_path / "run"
    RunDirectory.create(path, config)
    with pytest.raises(InputError, match="--resume"):
        RunDirectory.create(path, config)
    with pytest.raises(InputError, match="seed was 0"):
        RunDirectory.create(path, {"seed": 1}, resume=True)
    (path / "notes.txt").write_text("mine")
    RunDirectory.create(path, {"seed": 2}, overwrite=True)
    assert json.loads((path / "config.json").read_text())["seed"] == 2
    assert (path / "notes.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    (other / "config.json").write_text('{"of": "another tool"}')
    for choice in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError):
            RunDirectory.create(other, config, **choice)
    assert (other / "thesis.tex").read_text() == "x"


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {})
    run.lines.add({"stage": "spt", "epoch": 1, "ndcg@10": 0.1})
    run.lines.add({"stage": "spt", "epoch": 2, "ndcg@10": 0.2})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "spt", "epo')
    run.lines.restore("spt", run.lines.read()[:1])
    assert [line["epoch"] for line in run.lines.read()] == [1]


def test_stages_that_go_on_in_turns_keep_their_lines_together(split: Split, tmp_path: Path) -> None:
    """As if more epochs had been asked for from the start: post-training need not start over, and base goes on first."""
    logged = []
    for name, budgets in (("whole", [(3, 2)]), ("more", [(1, 1), (3, 2)])):
        for epochs, rpt_epochs in budgets:
            run = RunDirectory.create(tmp_path / name, {"epochs": epochs}, resume=True)
            base = build_recommender(SASRec(inner=32), split.num_items, dim=16, max_length=8, loop=False)
            settings: dict[str, Any] = {"base": base, "epochs": epochs, "rpt_epochs": rpt_epochs, "learning_rate": 1e-9}
            two_stage(fresh(split), split, rpt=RPT(rollouts=2), device="cpu", cut=40, run=run, **settings)
        logged.append([(line["stage"], line["epoch"]) for line in run.lines.read()])
    assert logged[0] == logged[1]


def test_a_state_of_an_earlier_release_is_taken_up(split: Split, whole: tuple[TwoStage, RunDirectory]) -> None:
    expected, run = whole
    for stage in ("spt", "rpt"):
        path = run.state_path(stage)
        with safe_open(str(path), framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        del progress["began"], progress["data"]
        save_file(tensors, str(path), metadata={"progress": json.dumps(progress | {"finished": True})})
    again = recipe(split, RunDirectory.create(run.path, {"seed": 0}, resume=True))
    same_weights(again.model.state_dict(), expected.model.state_dict())


def test_the_best_stage_by_hand(tmp_path: Path) -> None:
    """Post-training wins by a larger best value only; other stages do not take part."""
    for spt, rpt, wanted in (([0.2, 0.3], [0.3], "spt"), ([0.2, 0.3], [0.1, 0.31], "rpt"), ([0.2], [], "spt")):
        run = RunDirectory.create(tmp_path / "run", {"seed": 0}, overwrite=True)
        for stage, values in (("base", [0.9]), ("spt", spt), ("rpt", rpt)):
            for epoch, value in enumerate(values, start=1):
                run.lines.add({"stage": stage, "epoch": epoch, "ndcg@10": value})
        assert run.lines.best_stage() == wanted
    for damaged in ({}, {"ndcg@10": None}, {"ndcg@10": "high"}):
        run = RunDirectory.create(tmp_path / "run", {"seed": 0}, overwrite=True)
        run.lines.add({"stage": "spt", "epoch": 1, **damaged})
        with pytest.raises(InputError, match=r"metrics\.jsonl is damaged: .*'spt'.* is no line of ours"):
            run.lines.best_stage()
