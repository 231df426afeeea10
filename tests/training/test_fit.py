"""`fit`: it learns, keeps the best epoch, stops early, says when numbers break, and repeats itself bit by bit."""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from latentloop.across_ranks import Processes
from latentloop.backbones.sasrec import SASRec
from latentloop.data.splits import Split, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError, InputTypeError
from latentloop.fitting.accelerator import warn_of_emulation
from latentloop.objectives import RPT, SPT, NextItem, NextItemEverywhere, Weighted
from latentloop.recipes import build_recommender
from latentloop.recommender import Recommender
from latentloop.runs.directory import RunDirectory
from latentloop.training import Fitted, NotFinite, fit, make_accelerator
from latentloop.two_stage import two_stage
from tests.inputs.worlds import unchecked


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic_log(num_users=150, num_items=60, seed=1), 10)


def small(split: Split, seed: int = 0, loop: bool = True) -> Recommender:
    torch.manual_seed(seed)
    backbone = SASRec(pre_layers=1, core_layers=1, inner=32, dropout=0.1)
    return build_recommender(backbone, split.num_items, dim=16, max_length=10, loop=loop, dropout=0.1)


def train(model: Recommender, split: Split, objective: Any = None, **settings: Any) -> Fitted:
    settings = {"epochs": 2, "batch_size": 128, "accelerator": make_accelerator(device="cpu")} | settings
    return fit(model, split.train, split.validation, objective or SPT(), **settings)


def weights(model: Recommender) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_no_epochs_measure_and_keep_the_model_as_it_came(split: Split, tmp_path: Path) -> None:
    model = small(split)
    before, run = weights(model), RunDirectory.create(tmp_path / "run", {})
    fitted = train(model, split, epochs=0, run=run)
    assert same(weights(model), before)
    assert same(weights(Recommender.from_pretrained(run.model_path("spt"))), before)
    assert (fitted.epochs, fitted.best_epoch) == (0, 0) and 0 < fitted.best < 1
    assert [line["epoch"] for line in run.lines.read()] == [0]


@pytest.mark.parametrize("objective", [SPT, NextItem, RPT])
def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before(
    split: Split, objective: Callable[[], Any]
) -> None:
    first, second = small(split), small(split)
    train(first, split, objective(), epochs=1)
    torch.rand(17)  # an earlier call must not shift anything
    train(second, split, objective(), epochs=1, progress_bar=True)
    assert same(weights(first), weights(second))


def test_another_seed_gives_other_weights(split: Split) -> None:
    first, second = small(split), small(split)
    train(first, split, epochs=1, seed=0)
    train(second, split, epochs=1, seed=1)
    assert not same(weights(first), weights(second))


def test_it_learns_and_leaves_the_best_epoch(split: Split) -> None:
    model = small(split)
    fitted = train(model, split, NextItem(), epochs=6, learning_rate=5e-3)
    losses = [line["loss"] for line in fitted.history]
    assert losses[-1] < losses[0] - 0.1
    values = {line["epoch"]: line["ndcg@10"] for line in fitted.history}
    assert fitted.best == max(values.values()) == values[fitted.best_epoch]
    from latentloop.evaluation import evaluate

    assert evaluate(model, split.validation).metrics["ndcg@10"] == pytest.approx(fitted.best, abs=1e-12)
    assert not model.training


@pytest.mark.parametrize("exclude", [False, True])
def test_it_chooses_by_the_ranking_that_was_asked_for(split: Split, exclude: bool) -> None:
    from latentloop.evaluation import evaluate

    model = small(split)
    fitted = train(model, split, NextItem(), epochs=3, learning_rate=5e-3, exclude_history=exclude)
    asked, other = (evaluate(model, split.validation, exclude_history=way).metrics for way in (exclude, not exclude))
    assert asked["ndcg@10"] == pytest.approx(fitted.best, abs=1e-12)
    assert abs(other["ndcg@10"] - fitted.best) > 1e-3  # the two rankings differ here


def test_it_stops_after_patience(split: Split) -> None:
    # so small a rate changes no rank, so no epoch after the first is better
    fitted = train(small(split), split, NextItem(), epochs=50, patience=3, learning_rate=1e-12)
    assert fitted.best_epoch == 1
    assert fitted.epochs == 4


def test_the_model_as_it_came_may_win(split: Split) -> None:
    model = small(split)
    train(model, split, NextItem(), epochs=5, learning_rate=5e-3)
    before = weights(model)
    fitted = train(model, split, NextItem(), epochs=1, learning_rate=10.0, validate_first=True)
    assert fitted.best_epoch == 0
    assert [line["epoch"] for line in fitted.history] == [0, 1]
    assert same(before, weights(model))


def test_a_user_objective_is_a_plain_function(split: Split) -> None:
    def pull_together(views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss = views["anchor"].final.square().mean()
        return loss, {"size": loss.detach()}

    fitted = train(small(split), split, pull_together, epochs=3, learning_rate=1e-2)
    assert fitted.history[-1]["size"] < fitted.history[0]["size"]


def test_terms_of_any_name_leave_the_line_its_own(split: Split) -> None:
    def nosy(views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss = views["anchor"].final.square().mean()
        return loss, {name: torch.tensor(-7.0) for name in ("loss", "stage", "epoch", "steps", "ndcg@10", "size")}

    (line,) = train(small(split), split, nosy, epochs=1).history
    assert (line["stage"], line["epoch"], line["steps"]) == ("spt", 1, steps_of(split))
    assert line["loss"] >= 0 and 0 <= line["ndcg@10"] <= 1
    for name in ("loss_2", "stage_2", "epoch_2", "steps_2", "ndcg@10_2", "size"):
        assert line[name] == -7


def test_step_alignment_and_the_count_of_steps_both_have_their_place(split: Split) -> None:
    (line,) = train(small(split), split, SPT(), epochs=1).history
    assert line["steps"] == steps_of(split)
    assert line["loss"] == pytest.approx(line["next_item"] + 0.1 * line["trajectory"] + 0.1 * line["step"], abs=1e-5)


def steps_of(split: Split) -> int:
    return math.ceil(len(split.train) / 128)


class Breaks:
    """A loss that is learned, and numbers that break at one step.

    Args:
        at: the step at which they break.
        how: "term": a term is NaN and nothing else; "loss": so is the loss, hence all weights after the step;
            "gradient": the loss is a number, and all weights are none after the step.
    """

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how, self.calls = at, how, 0

    def __call__(self, views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        loss, terms = NextItem()(views, batch)
        odd, broken = torch.ones(()), self.calls == self.at
        if broken and self.how == "term":
            odd = odd * math.nan
        elif broken and self.how == "loss":
            loss = loss * math.nan
        elif broken:
            loss = loss + views["anchor"].final.mul(0).abs().sum().sqrt()  # 0, whose slope is 0 x infinity
        return loss, terms | {"odd": odd.detach()}


@pytest.mark.parametrize("in_run", [True, False])
@pytest.mark.parametrize("together", [1, 5, 1000])
@pytest.mark.parametrize(("how", "named"), [("term", "odd is nan"), ("loss", "loss is nan")])
def test_a_number_that_breaks_stops_with_its_step_and_leaves_the_best_weights(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_run: bool, together: int, how: str, named: str
) -> None:
    monkeypatch.setattr("latentloop.fitting.stage.steps_together", lambda device: together)
    per_epoch = steps_of(split)
    wanted, model = small(split), small(split)
    train(wanted, split, Breaks(0, how), epochs=1)
    run = RunDirectory.create(tmp_path / "run", {}) if in_run else None
    at = per_epoch + 2
    with pytest.raises(NotFinite, match=rf"^spt: {named} at step {at} of epoch 2; ") as caught:
        train(model, split, Breaks(at, how), epochs=3, run=run)
    assert same(weights(model), weights(wanted)) and not model.training
    assert ("the last good model is" in str(caught.value)) == in_run
    assert ("the model has its best weights so far again, of epoch 1" in str(caught.value)) != in_run
    if run is not None:
        assert same(weights(Recommender.from_pretrained(run.model_path("spt"))), weights(wanted))
        assert [line["epoch"] for line in run.lines.read()] == [1]
        checkpoint = run.state_path("spt").read_bytes()
        with pytest.raises(NotFinite, match=rf"{named} at step {at} of epoch 2; the last good model is .*, of epoch 1"):
            train(small(split), split, Breaks(2, how), epochs=3, run=run)  # from the last good checkpoint
        assert run.state_path("spt").read_bytes() == checkpoint


@pytest.mark.parametrize("in_run", [True, False])
def test_where_none_was_kept_yet_the_weights_are_those_it_came_with(split: Split, tmp_path: Path, in_run: bool) -> None:
    model = small(split)
    before = weights(model)
    run = RunDirectory.create(tmp_path / "run", {}) if in_run else None
    with pytest.raises(NotFinite, match="at step 3 of epoch 1; the model has the weights it came with again; try"):
        train(model, split, Breaks(3, "loss"), run=run)
    assert same(weights(model), before)


def test_the_learning_rate_is_not_blamed_before_anything_was_learned(split: Split) -> None:
    with pytest.raises(NotFinite, match="at step 1 of epoch 1; .*; nothing was learned yet: look for") as caught:
        train(small(split), split, Breaks(1, "loss"))
    assert "learning rate" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("together", [1, 1000])
def test_weights_that_break_in_an_epochs_last_step_are_neither_measured_nor_kept(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr("latentloop.fitting.stage.steps_together", lambda device: together)
    run, last = RunDirectory.create(tmp_path / "run", {}), 2 * steps_of(split)
    with pytest.raises(NotFinite, match=rf"^spt: weights are no numbers after step {last}; the last good model is"):
        train(small(split), split, Breaks(last, "gradient"), epochs=3, run=run)
    assert [line["epoch"] for line in run.lines.read()] == [1]
    kept = weights(Recommender.from_pretrained(run.model_path("spt")))
    assert all(bool(value.isfinite().all()) for value in kept.values())


@pytest.mark.parametrize(("how", "named"), [("loss", "loss is nan at step 2"), ("gradient", "weights are no numbers")])
def test_a_mistake_that_follows_from_a_broken_number_is_told_as_the_number(
    split: Split, monkeypatch: pytest.MonkeyPatch, how: str, named: str
) -> None:
    monkeypatch.setattr("latentloop.fitting.stage.steps_together", lambda device: 1000)

    class Prepares(Breaks):
        def prepare(self, model: Recommender, batch: Any) -> Any:
            if not all(bool(p.isfinite().all()) for p in model.parameters()):
                raise InputError("scores must be numbers")
            return batch

    with pytest.raises(NotFinite, match=named):
        train(small(split), split, Prepares(2, how))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"patience": 0}, "patience"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"metric": "nope"}, "metric"),
    ],
)
def test_settings_out_of_range_are_named(split: Split, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        train(small(split), split, **settings)


def test_a_fresh_state_for_each_answer_repeats_itself_too(split: Split) -> None:
    found = []
    for _ in range(2):
        model = small(split)
        model.inference_state = "fresh"
        found.append([line["ndcg@10"] for line in train(model, split, epochs=2).history])
    assert found[0] == found[1]


def test_weights_too_large_to_score_with_stop_too(split: Split, tmp_path: Path) -> None:
    """They are numbers still, and only their scores are none: no mistake of the user's input."""
    model, run = small(split), RunDirectory.create(tmp_path / "run", {})
    before, settings = weights(model), {"batch_size": len(split.train), "learning_rate": 1e30}
    said = r"^spt: scores on validation are no numbers after step 1; the model has the weights it came with again; try a lower"
    with pytest.raises(NotFinite, match=said):
        train(model, split, NextItem(), epochs=3, run=run, **settings)
    assert same(weights(model), before) and run.lines.read() == []


def test_weights_that_break_between_steps_stop_too(split: Split) -> None:
    with pytest.raises(NotFinite, match=r"weights are no numbers after step \d+|is nan at step|is inf at step"):
        train(small(split), split, NextItem(), epochs=3, learning_rate=1e38)


def test_what_cannot_be_learned_is_told_before_any_work(split: Split) -> None:
    frozen = small(split).requires_grad_(False)
    with pytest.raises(InputError, match="^model: nothing can be learned"):
        train(frozen, split)
    with torch.no_grad(), pytest.raises(InputError, match="^model: nothing can be learned: gradients are switched off"):
        train(small(split), split)
    assert train(frozen, split, epochs=0).best_epoch == 0  # it is measured
    for call in (train, two_stage):
        with pytest.raises(InputTypeError, match="^run must be a RunDirectory"):
            call(small(split), split, run="runs/mine")


def test_the_protocol_of_validation_is_told_once_before_its_first_number(
    split: Split, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "latentloop"):
        train(small(split), split, epochs=2, exclude_history=True)
    first, *epochs = caplog.messages
    told = f"validation split, {len(split.validation)} users, all {split.num_items} items, history excluded, depth 4, stage spt"
    assert first.startswith(f"spt: every epoch is measured alike: {told}, seed 0, ties: expectation")
    assert [line.partition(":")[0] for line in epochs] == ["spt epoch 1", "spt epoch 2"]


def test_an_epoch_of_post_training_tells_what_its_rollouts_earned(
    split: Split, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "latentloop"):
        told = train(small(split), split, RPT(), epochs=1, stage="rpt").history[0]
    reward, ties = told["reward_mean"], told["zero_variance"]
    assert f", reward {reward:.4f}, ties {ties:.0%}, validation" in caplog.messages[-1]


class OnlyHistory(nn.Module):
    """f(T, H) = H: whatever the start state, the answer is the same."""

    def forward(self, thought: Tensor, history_state: Tensor) -> Tensor:
        return history_state


def test_post_training_warns_where_all_rollouts_earn_the_same(split: Split, caplog: pytest.LogCaptureFixture) -> None:
    deaf = small(split)
    deaf.encoder.aggregate = OnlyHistory()
    told = train(deaf, split, RPT(), epochs=1, stage="rpt").history[0]
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert told["zero_variance"] == 1
    assert len(warned) == 1 and warned[0].startswith("rpt epoch 1: all rollouts of every sample earned the same")
    caplog.clear()
    train(small(split), split, RPT(), epochs=1, stage="rpt")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_launchers_settings_change_no_gradient(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch --gradient_accumulation_steps` would divide each, and add up none."""
    plain, launched = small(split), small(split)
    train(plain, split, clip_norm=0.1)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    train(launched, split, clip_norm=0.1)
    assert same(weights(plain), weights(launched))


def test_an_accelerator_that_accumulates_gradients_is_refused(split: Split) -> None:
    make_accelerator(device="cpu")  # puts back what another test chose
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    with pytest.raises(InputError, match=r"^accelerator: it divides gradients by 4 .* give it 1"):
        fit(small(split), split.train, split.validation, NextItem(), accelerator=accelerator)
    make_accelerator(device="cpu")


@pytest.mark.parametrize(
    ("capability", "products", "machine", "precision", "told"),
    [
        ("AVX2", False, "x86_64", "bf16", True),
        ("AVX512", True, "x86_64", "bf16", False),
        ("AVX512", False, "x86_64", "bf16", True),
        ("AVX512", False, "x86_64", "fp32", False),
        ("DEFAULT", False, "arm64", "bf16", False),  # NEON, of which this says nothing
    ],
)
def test_bf16_is_warned_of_where_the_cpu_emulates_it(
    capability: str,
    products: bool,
    machine: str,
    precision: str,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: products, raising=False)
    monkeypatch.setattr("platform.machine", lambda: machine)
    warn_of_emulation(make_accelerator(device="cpu", precision=precision))
    make_accelerator(device="cpu")  # puts back what other tests expect
    assert [record.levelname for record in caplog.records if "without AVX-512" in record.message] == ["WARNING"] * told


def test_two_stage_warns_of_it_once(
    split: Split, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    two_stage(small(split), split, epochs=1, rpt_epochs=0, batch_size=256, device="cpu", precision="bf16")
    make_accelerator(device="cpu")
    assert sum("without AVX-512" in record.message for record in caplog.records) == 1


def test_bf16_learns_too(split: Split) -> None:
    accelerator = make_accelerator(device="cpu", precision="bf16")
    fitted = train(small(split), split, epochs=3, learning_rate=5e-3, accelerator=accelerator)
    assert fitted.history[-1]["next_item"] < fitted.history[0]["next_item"]
    make_accelerator(device="cpu")  # and back, in the same process


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="device"):
        make_accelerator(device="tpu")
    with pytest.raises(InputError, match="precision"):
        make_accelerator(precision="fp8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_one_line() -> None:
    with pytest.raises(InputError, match="torch sees no CUDA device: choose 'cpu'"):
        make_accelerator(device="cuda")


def test_two_stages_refuse_what_is_no_data_or_of_another_catalog(split: Split) -> None:
    model = small(split)
    with unchecked(), pytest.raises(InputTypeError, match="data must be Interactions .* or a Split, got Samples"):
        two_stage(model, split.train)  # type: ignore[arg-type]
    fewer = leave_one_out(synthetic_log(num_users=50, num_items=20, seed=1), 10)
    message = f"knows {split.num_items} items, the data holds {fewer.num_items}"
    with pytest.raises(InputError, match=f"model {message}"):
        two_stage(model, fewer)
    with pytest.raises(InputError, match=f"base {message}"):
        two_stage(small(fewer), fewer, base=small(split, loop=False))
    with pytest.raises(InputError, match="base must have weights of its own, to be trained beside model"):
        two_stage(model, split, base=model)
    base = small(split, loop=False)
    base.item_table.weight = nn.Parameter(model.item_table.weight.data)
    with pytest.raises(InputError, match="base must have weights of its own.*item_table.weight in common"):
        two_stage(model, split, base=base)


@pytest.mark.parametrize("metric", ["recall@50", "ndcg@1", "mrr"])
def test_any_metric_may_choose_the_epoch(split: Split, metric: str) -> None:
    fitted = train(small(split), split, epochs=3, metric=metric)
    values = [line[metric] for line in fitted.history]
    assert len(values) == 3 and fitted.best == max(values) == values[fitted.best_epoch - 1]
    assert {"ndcg@10", "recall@20", "mrr"} <= set(fitted.history[0])


def test_a_metric_that_is_none_is_named(split: Split) -> None:
    for metric in ("hits@10", 10):
        with unchecked(), pytest.raises(InputError, match=f"metric must be recall@K, ndcg@K .* or mrr, got {metric!r}"):
            train(small(split), split, metric=metric)
    with pytest.raises(InputError, match="the metric's K must be at most"):
        train(small(split), split, metric="ndcg@99999999999999999999")


@pytest.mark.parametrize(
    ("loop", "rpt", "message"),
    [
        (False, None, "RPT needs rollouts that differ"),
        (True, RPT(reward=lambda greater: greater), r"reward must be a callable of \(greater, ties\)"),
        (True, RPT(reward=lambda greater, ties: [1.0]), "reward must return a tensor .* got list"),
        (True, RPT(reward=lambda greater: greater) + NextItem(), "reward must be a callable"),
        (True, 0.5 * RPT(reward=lambda greater, ties: greater.sum()), "reward must return a tensor"),
        (True, 3, "rpt must be an objective such as"),
    ],
)
def test_what_cannot_be_post_trained_is_refused_before_pre_training(
    split: Split, loop: bool, rpt: Any, message: str
) -> None:
    model = small(split, loop=loop)
    before = weights(model)
    with unchecked(), pytest.raises((InputError, InputTypeError), match=f"^{message}"):
        two_stage(model, split, rpt=rpt, epochs=1, rpt_epochs=1, device="cpu")
    assert same(weights(model), before)
    with unchecked():
        assert two_stage(model, split, rpt=rpt, epochs=1, rpt_epochs=0, device="cpu").metrics["spt"]


def test_a_reward_may_count_on_its_rollouts(split: Split) -> None:
    """It is tried on as many as it will get."""
    by_place = torch.tensor([1.0, 0.9, 0.8, 0.7])
    rpt = RPT(reward=lambda greater, ties: (greater < 10).double() * by_place, rollouts=4)
    assert two_stage(small(split), split, rpt=rpt, epochs=1, rpt_epochs=1, device="cpu", cut=60).metrics["rpt"]


class Head(nn.Module):
    """An objective with something to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(16, 16)

    def forward(self, views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        last = views["anchor"].final
        return (self.projection(last) - last.detach()).square().mean(), {}


def test_a_loss_without_a_gradient_says_so(split: Split) -> None:
    def cut_off(views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return views["anchor"].final.detach().square().mean(), {}

    with pytest.raises(InputError, match="^the loss of .*cut_off.* has no gradient"):
        train(small(split), split, cut_off, epochs=1)


class Tau:
    """One with a single number to learn."""

    def __init__(self) -> None:
        self.tau, self.parts = nn.Parameter(torch.ones(())), 3

    def __call__(self, views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return views["anchor"].final.square().mean() * self.tau, {}


class Taught:
    """One that learns from another model."""

    def start(self, model: Recommender) -> None:
        self.teacher = copy.deepcopy(model).eval()

    def __call__(self, views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        wanted = self.teacher.think(batch.history).final.detach()
        return (views["anchor"].final - wanted).square().mean(), {}

    views = ("anchor",)


class Teacher(Recommender):
    """A recommender whose method is an objective for another."""

    def distil(self, views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        wanted = self.encode(batch.history, depth=1) + self.item_table.weight.mean()
        return (views["anchor"].final - wanted.detach()).square().mean(), {}


def test_a_single_parameter_is_refused_and_a_teacher_is_not(split: Split) -> None:
    with pytest.raises(InputError, match="Tau has a parameter 'tau'"):
        train(small(split), split, NextItem() + Tau())
    taught = Taught()
    for _ in range(2):  # the second time it holds one
        train(small(split), split, NextItem() + taught, epochs=1)
    model = small(split)
    teacher = Teacher(model.num_items, copy.deepcopy(model.encoder), model.dim, model.max_length).eval()
    before = copy.deepcopy(teacher.state_dict())
    train(model, split, NextItem() + Weighted(teacher.distil, 1.0), epochs=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


class Holder:
    """One that holds it."""

    def __init__(self, head: Head) -> None:
        self.head = head

    def __call__(self, views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.head(views, batch)  # type: ignore[no-any-return]

    def method(self, views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.head(views, batch)  # type: ignore[no-any-return]


def through(head: Head, views: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return head(views, batch)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "made",
    [
        lambda h: h,
        lambda h: NextItem() + h,
        lambda h: NextItem() + Weighted(Holder(h), 2.0),
        lambda h: 2.0 * NextItemEverywhere(Holder(h)),
        lambda h: NextItem() + Weighted(lambda views, batch: through(h, views, batch), 2.0),
        lambda h: NextItem() + Weighted(functools.partial(through, h), 2.0),
        lambda h: Holder(h).method,
    ],
)
def test_an_objectives_own_parameters_are_refused_or_the_models(split: Split, made: Callable[[Head], Any]) -> None:
    head, model = Head(), small(split)
    before = head.projection.weight.detach().clone()
    with pytest.raises(
        InputError, match="parameter 'projection.weight' that would not be trained: make its module a part"
    ):
        train(model, split, made(head))
    model.head = head  # as the message says
    train(model, split, made(head))
    assert not torch.equal(head.projection.weight, before)
    frozen = Head().requires_grad_(False)
    train(small(split), split, NextItem() + Holder(frozen))


def test_samples_are_looked_at_before_any_work(split: Split) -> None:
    model, nothing = small(split), split.train.select(torch.tensor([], dtype=torch.int64))
    fewer = leave_one_out(synthetic_log(num_users=50, num_items=20, seed=1), 10)
    asked: list[tuple[Any, Any, str]] = [
        (nothing, split.validation, "train: no samples, there is nothing to learn from"),
        (split.train, nothing, "validation: no samples, there is nothing to rank"),
        (fewer.train, split.validation, "train: of a catalog of 20 items, but the model knows 60"),
        (split.train, fewer.validation, "validation: of a catalog of 20 items"),
        (split, split.validation, "train must be Samples, such as split.train, got Split"),
    ]
    with unchecked():
        for training, validation, said in asked:
            with pytest.raises((InputError, InputTypeError), match=said):
                fit(model, training, validation, SPT(), epochs=1)
        for objective in (None, "spt"):
            with pytest.raises(InputTypeError, match=r"objective must be a callable of \(views, batch\), such as SPT"):
                fit(model, split.train, split.validation, objective, epochs=1)  # type: ignore[arg-type]
    assert fit(model, nothing, split.validation, SPT(), epochs=0).epochs == 0


@pytest.mark.parametrize("stage", ["../spt", "a/b", "..", "", ".hidden", "data", "state", "report.md", None])
def test_no_stage_leads_out_of_its_run_or_over_its_other_files(split: Split, tmp_path: Path, stage: Any) -> None:
    run = RunDirectory.create(tmp_path / "deep" / "run", {})
    before = sorted(tmp_path.rglob("*"))
    with unchecked(), pytest.raises(InputError, match="stage must be a plain name"):
        train(small(split), split, stage=stage, epochs=1, run=run)
    assert sorted(tmp_path.rglob("*")) == before
    assert train(small(split), split, stage="my stage-2.b", epochs=1, run=run).stage == "my stage-2.b"


def test_a_run_that_only_measured_trains_on_from_the_beginning(split: Split, tmp_path: Path) -> None:
    run, model, fresh = RunDirectory.create(tmp_path / "run", {}), small(split), small(split)
    train(model, split, epochs=0, run=run)
    fitted = train(model, split, epochs=1, run=run)
    assert fitted.epochs == 1
    train(fresh, split, epochs=1)
    assert same(weights(model), weights(fresh))


def test_a_mistake_of_an_objectives_own_stays_one(split: Split) -> None:
    def picky(views: Any, batch: Any) -> Any:
        raise InputError("views: not what I wanted")

    with pytest.raises(InputError, match="^views: not what I wanted$"):
        train(small(split), split, picky)


def test_processes_that_find_another_state_are_refused(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Processes, "each", lambda self, value: [value, value + 3])
    with pytest.raises(InputError, match=r"run: the processes find it at steps \[0, 3\]: give all of them the same"):
        train(small(split), split, run=RunDirectory.create(tmp_path / "run", {}))


def test_where_selection_keeps_nothing_the_pretrained_model_is_the_answer(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = split.train.select(torch.zeros(0, dtype=torch.int64))
    monkeypatch.setattr(sys.modules["latentloop.two_stage"], "select", lambda *_, **__: nothing)
    result = two_stage(small(split), split, epochs=1, rpt_epochs=3, device="cpu")
    assert list(result.outcomes) == ["chance", "popularity", "followers", "spt"]
    assert (result.train_samples, result.kept_samples, result.pretrained_won) == (len(split.train), 0, False)
