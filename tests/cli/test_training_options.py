"""`train --tracker`, `train --negatives`, `train --positions`, `train --own-norms`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from latentloop.cli import main
from latentloop.commands.options import SPTOptions
from latentloop.commands.parser import parse
from latentloop.commands.train import Train
from latentloop.data.synthetic import synthetic_log
from latentloop.depth import DepthLaw, FixedDepth, LogNormalPoisson, UniformDepth
from latentloop.errors import InputError
from latentloop.fitting import accelerator
from latentloop.objectives import NextItem, NextItemEverywhere, SampledNextItem, Sum
from latentloop.per_step import PerStep
from latentloop.recommender import Recommender

SMALL = ["--epochs", "1", "--rpt-epochs", "0", "--dim", "16", "--pre-layers", "1", "--core-layers", "1", "--inner", "32",
         "--batch-size", "256", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = synthetic_log(num_users=100, num_items=50, seed=4)
    path = tmp_path_factory.mktemp("source") / "log.csv"
    pairs = zip(log.user.tolist(), log.item.tolist(), strict=True)
    path.write_text("user,item,timestamp\n" + "\n".join(f"u{u},i{i},{n}" for n, (u, i) in enumerate(pairs)))
    return path


def test_a_tracked_run_with_sampled_negatives(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    arguments = ["train", str(source), "--out", str(out), *SMALL, "--negatives", "16"]
    assert main([*arguments, "--tracker", "tensorboard"]) == 0
    assert [path.name.split(".")[0] for path in (out / "tensorboard").iterdir()] == ["events"]
    config = json.loads((out / "config.json").read_text())
    assert config["spt"]["negatives"] == 16
    assert main([*arguments, "--resume"]) == 0  # how a run is watched is none of what it is


def test_negatives_choose_the_objective() -> None:
    counts = torch.tensor([0, 5, 1, 3])
    full, sampled = SPTOptions().build(counts), SPTOptions(negatives=8).build(counts)
    assert isinstance(full, Sum) and isinstance(full.parts[0], NextItem)
    assert isinstance(sampled, Sum) and isinstance(sampled.parts[0], SampledNextItem)
    drawn, log_expected = sampled.parts[0].draw(3, 0)
    weights = counts[1:].double() ** 0.75
    wanted = (8 * weights / weights.sum()).log()[drawn - 1]
    torch.testing.assert_close(log_expected.double(), wanted, rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="--negatives must be at least 0, got -1"):
        SPTOptions(negatives=-1).build(counts)


def test_every_position_is_learned_from_by_both_models(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(source), "--out", str(out), *SMALL, "--positions", "all", "--with-base"]
    assert main([*arguments, "--batch-size", "16"]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    # 100 users at most, so at most 7 steps of 16 rows; prefix samples are several times as many
    assert {line["stage"]: line["steps"] <= 14 for line in lines} == {"base": True, "spt": True}
    assert json.loads((out / "config.json").read_text())["spt"]["positions"] == "all"
    chosen = SPTOptions(positions="all", negatives=8).build(torch.tensor([0, 5, 1, 3]))
    assert isinstance(chosen, Sum) and isinstance(chosen.parts[0], NextItemEverywhere)
    assert isinstance(chosen.parts[0].part, SampledNextItem)


def test_a_backbone_that_would_leak_is_one_line_and_leaves_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(source), "--out", str(out), *SMALL, "--positions", "all", "--backbone", "bsarec"]
    assert main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "not causal" in line and "--positions newest" in line
    assert not out.exists()


def test_a_missing_package_is_one_line_and_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accelerator, "find_spec", lambda name: None)
    out = tmp_path / "run"
    assert main(["train", str(source), "--out", str(out), *SMALL, "--tracker", "tensorboard"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "pip install latentloop[tracking]" in line
    assert not out.exists()


@pytest.mark.parametrize("again", [0, 1])
@pytest.mark.parametrize("excluded", [False, True])
def test_a_log_without_repeats_is_told_that_they_are_ranked(
    tmp_path: Path, again: int, excluded: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten users each take twelve of twenty items; `again`, they come back to the first."""
    rows = [f"u{user},i{(3 * user + place) % 20}" for user in range(10) for place in [*range(12), *[0] * again]]
    (tmp_path / "log.csv").write_text("user,item\n" + "\n".join(rows))
    options = ["--k-core", "0", *(["--exclude-history"] if excluded else [])]
    assert main(["train", str(tmp_path / "log.csv"), "--out", str(tmp_path / "run"), *SMALL, *options]) == 0
    told = capsys.readouterr().err
    assert f"repeats {again / 13:.2%}" in told
    assert ("--exclude-history leaves that out" in told) == (not again and not excluded)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("prepare", "--split"),
        ("prepare", "--max-length"),
        *(("demo", f"--{n}") for n in ("user", "timestamp", "format")),
    ],
)
def test_no_command_takes_an_option_that_it_would_not_use(
    source: Path, tmp_path: Path, command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = {"--split": "global-time", "--format": "csv"}.get(option, "3")
    given = [str(source)] if command == "prepare" else []
    with pytest.raises(SystemExit) as stopped:
        main([command, *given, "--out", str(tmp_path / "out"), option, value])
    assert stopped.value.code == 2
    assert option in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_ranking_without_the_history_is_told_with_every_number(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", str(source), "--out", str(out), *SMALL, "--exclude-history"]) == 0
    told = capsys.readouterr().out
    assert "history excluded" in told and "history kept" not in told
    # the same model, measured again by the same protocol, chance and Popularity included
    assert main(["evaluate", str(out)]) == 0
    again = capsys.readouterr().out
    assert "history excluded" in again
    assert main(["evaluate", str(out), "--exclude-history"]) == 0
    assert capsys.readouterr().out == again
    assert main(["evaluate", str(out), "--include-history"]) == 0
    assert "history kept" in capsys.readouterr().out
    assert main(["evaluate", str(out), "--include-history", "--exclude-history"]) == 2
    assert "choose one of them" in capsys.readouterr().err
    for name in ("chance", "Popularity", "Followers", "SPT"):
        trained, measured = (
            next(line.split() for line in text.splitlines() if line.startswith(name)) for text in (told, again)
        )
        assert set(trained[-4:]) <= set(measured)  # Recall and NDCG at 5 and 10; the second table has 20 too


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ([], LogNormalPoisson(3)),
        (["--depth", "fixed", "--mean-depth", "2"], FixedDepth(3)),
        (["--depth", "uniform", "--mean-depth", "2"], UniformDepth(1, 5)),
    ],
)
def test_the_depths_of_training_follow_the_law_that_was_chosen(options: list[str], law: DepthLaw) -> None:
    command = parse(["train", "x.csv", "--out", "y", *options])
    assert isinstance(command, Train)
    assert command.model.depth_law() == law


def test_each_thought_may_have_norms_of_its_own(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(source), "--out", str(out), *SMALL, "--own-norms", "--mean-depth", "2", "--with-base"]
    assert main(arguments) == 0
    assert main(["evaluate", str(out)]) == 0
    model = Recommender.from_pretrained(out / "spt")
    core = model.encoder.core_block.module
    assert isinstance(core, PerStep) and core.steps == 3
    assert core.rank == 0
    first, second, third = (block.module.layers[0].attention_norm for block in core.blocks)
    assert not torch.equal(first.weight, second.weight) and not torch.equal(second.weight, third.weight)
    assert not any("blocks" in name for name in Recommender.from_pretrained(out / "base").state_dict())
    assert main([*arguments, "--resume"]) == 0


def test_each_thought_may_change_each_matrix(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(source), "--out", str(out), *SMALL, "--own-rank", "2", "--mean-depth", "2"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("--own-rank needs --own-norms: give both, or neither")
    assert not out.exists()
    arguments += ["--own-norms", "--with-base"]
    assert main(arguments) == 0
    assert main(["evaluate", str(out)]) == 0
    core = Recommender.from_pretrained(out / "spt").encoder.core_block.module
    assert isinstance(core, PerStep) and (core.steps, core.rank) == (3, 2)
    ups = [p for name, p in core.named_parameters() if name.endswith(".up")]
    assert len(ups) == 3 * 4 * len(core.blocks[0].module.layers) and all(up.any() for up in ups)
    assert main([*arguments, "--resume"]) == 0
