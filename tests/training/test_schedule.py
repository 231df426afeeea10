"""The learning rate follows its schedule, step by step, and a run that is continued follows it on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from latentloop.backbones.sasrec import SASRec
from latentloop.cli import main
from latentloop.data.splits import Split, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError, InputTypeError
from latentloop.fitting import stage as training_stage
from latentloop.fitting.schedule import Constant, Cosine, build_schedule
from latentloop.objectives import RPT, SPT
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.runs.directory import RunDirectory
from latentloop.training import fit, make_accelerator
from latentloop.two_stage import two_stage
from tests.inputs.worlds import unchecked


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic_log(num_users=60, num_items=40, seed=2), 8)


def fresh(split: Split) -> Recommender:
    torch.manual_seed(0)
    backbone = SASRec(pre_layers=1, core_layers=1, inner=16, dropout=0.1)
    return build_recommender(backbone, split.num_items, dim=8, max_length=8, dropout=0.1)


def train(split: Split, **settings: Any) -> dict[str, torch.Tensor]:
    model = fresh(split)
    settings = {"epochs": 3, "batch_size": 128, "accelerator": make_accelerator(device="cpu")} | settings
    fit(model, split.train, split.validation, settings.pop("objective", SPT()), **settings)
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_cosine_by_hand() -> None:
    """Ten steps, two of which rise."""
    found = [Cosine(warmup=0.2)(step, 10) for step in range(10)]
    assert found[:3] == [0.5, 1.0, 1.0]
    assert found[6] == pytest.approx(0.5)  # half way down
    assert found[9] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)
    assert found[2:] == sorted(found[2:], reverse=True)
    assert Cosine(warmup=0.0)(0, 1) == 1.0
    assert {Constant()(step, 10) for step in range(10)} == {1.0}


def test_names_and_functions() -> None:
    assert build_schedule("constant") == Constant() and build_schedule("cosine") == Cosine()

    def halved(step: int, total_steps: int) -> float:
        return 0.5

    assert build_schedule(halved) is halved
    with unchecked():
        with pytest.raises(InputError, match=r"schedule must be one of 'constant', 'cosine', got 'linear'"):
            build_schedule("linear")  # type: ignore[arg-type]
        with pytest.raises(InputTypeError, match="schedule must be a name or a function"):
            build_schedule(0.5)  # type: ignore[arg-type]
    for share in (1.0, -0.1, math.nan):
        with pytest.raises(InputError, match="warmup"):
            Cosine(warmup=share)


def test_every_step_gets_its_own_rate(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two updates a batch too; AdamW is told 1e-2 times what the schedule says of that step."""
    rates: list[float] = []
    asked: list[tuple[int, int]] = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: Any, **named: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        assert len({group["lr"] for group in self.param_groups}) == 1
        return real(self, *arguments, **named)

    def schedule(step: int, total_steps: int) -> float:
        asked.append((step, total_steps))
        return 1 / (1 + step)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(split, objective=RPT(rollouts=2, updates=2), epochs=2, learning_rate=1e-2, schedule=schedule)
    total = 2 * 2 * math.ceil(len(split.train) / 128)
    assert rates == [pytest.approx(1e-2 / (1 + number)) for number in range(total)]
    assert set(asked) == {(number, total) for number in range(total)}


def test_no_schedule_is_a_factor_of_one_and_a_cosine_is_something_else(split: Split) -> None:
    plain = train(split)
    assert same(plain, train(split, schedule="constant"))
    assert same(plain, train(split, schedule=lambda step, total_steps: 1.0))
    assert not same(plain, train(split, schedule="cosine"))


@pytest.mark.parametrize("factor", [math.nan, -1.0, math.inf, "half"])
def test_a_factor_that_is_none_is_one_line(split: Split, factor: Any) -> None:
    with pytest.raises(InputError, match="the schedule's factor at step 0 must be a finite number") as caught:
        with unchecked():
            train(split, schedule=lambda step, total_steps: factor)
    assert "\n" not in str(caught.value)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("saves", [2, 4])  # within pre-training, and after post-training's first validation
def test_a_killed_run_goes_on_along_its_curve(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    def recipe(run: RunDirectory | None) -> dict[str, torch.Tensor]:
        result = two_stage(
            fresh(split), split, rpt=RPT(rollouts=2), epochs=3, rpt_epochs=2, batch_size=128, rpt_batch_size=64,
            schedule="cosine", device="cpu", cut=30, run=run,
        )  # fmt: skip
        return result.model.state_dict()

    real, count = training_stage.save_state, 0

    def save_and_die(*arguments: Any) -> None:
        nonlocal count
        count += 1
        real(*arguments)
        if count == saves:
            raise Killed

    run = RunDirectory.create(tmp_path / "run", {"seed": 0})
    monkeypatch.setattr(training_stage, "save_state", save_and_die)
    with pytest.raises(Killed):
        recipe(run)
    monkeypatch.setattr(training_stage, "save_state", real)
    assert same(recipe(RunDirectory.create(run.path, {"seed": 0}, resume=True)), recipe(None))


def test_a_curve_over_other_steps_is_refused_and_a_constant_rate_goes_on(split: Split, tmp_path: Path) -> None:
    for schedule, more in (("constant", True), ("cosine", False)):
        run = RunDirectory.create(tmp_path / schedule, {})
        train(split, schedule=schedule, run=run, epochs=1)
        if more:
            train(split, schedule=schedule, run=run, epochs=2)
            assert [line["epoch"] for line in run.lines.read()] == [1, 2]
        else:
            steps = math.ceil(len(split.train) / 128)
            with pytest.raises(InputError, match=f"was over {steps} steps and is now over {2 * steps} steps"):
                train(split, schedule=schedule, run=run, epochs=2)
            with pytest.raises(
                InputError, match=r"^schedule is Constant\(\), and .* was trained with Cosine\(warmup=0.05\)"
            ):
                train(split, run=run, epochs=1)


def small_run(folder: Path) -> tuple[list[str], Path]:
    """A command without its epochs, and the run directory that it makes."""
    log = synthetic_log(num_users=60, num_items=40, seed=2)
    source, out = folder / "log.csv", folder / "run"
    pairs = zip(log.user.tolist(), log.item.tolist(), strict=True)
    source.write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in pairs))
    sizes = ["--dim", "8", "--inner", "16", "--pre-layers", "1", "--core-layers", "1", "--rpt-epochs", "0"]
    return ["train", str(source), "--out", str(out), *sizes, "--device", "cpu"], out


def test_the_command_line_keeps_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, out = small_run(tmp_path)
    assert main([*arguments, "--epochs", "1", "--schedule", "cosine"]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["training"]["schedule"] == "cosine"
    assert main([*arguments, "--epochs", "2", "--schedule", "cosine", "--resume"]) == 2
    assert "epochs was 1" in capsys.readouterr().err
    assert json.loads((out / "config.json").read_text()) == config
    assert main([*arguments, "--epochs", "1", "--schedule", "constant", "--resume"]) == 2
    assert "schedule was 'cosine'" in capsys.readouterr().err


def test_a_run_that_is_older_than_the_option_goes_on(tmp_path: Path) -> None:
    arguments, out = small_run(tmp_path)
    assert main([*arguments, "--epochs", "1"]) == 0
    config = json.loads((out / "config.json").read_text())
    del config["training"]["schedule"]
    (out / "config.json").write_text(json.dumps(config))
    assert main([*arguments, "--epochs", "2", "--resume"]) == 0
    assert [line["epoch"] for line in RunDirectory.open(out).lines.read()] == [1, 2]
