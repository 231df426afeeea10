"""`--encoder package.module:function`: a user's blocks from training to recommendations, and never from a file."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import nn

from latentloop.cli import main
from latentloop.data.synthetic import synthetic_log

BLOCKS = """
from torch import nn

def make_blocks(dim):
    return nn.GRU(dim, dim, batch_first=True), nn.GRU(dim, dim, batch_first=True)

def deeper_blocks(dim):
    return nn.GRU(dim, dim, num_layers=2, batch_first=True), nn.GRU(dim, dim, batch_first=True)

def same_shapes(dim):
    return make_blocks(dim)

def no_blocks(dim):
    return {}["blocks"]

def no_argument():
    return None

def no_package(dim):
    import a_package_that_is_not_there

class Short(nn.Module):
    def __init__(self, positions):
        super().__init__()
        self.positions = nn.Embedding(4, positions)

    def forward(self, x):
        return x + self.positions(x.new_ones(x.shape[:2]).cumsum(1).long() - 1)

def short_blocks(dim):
    return Short(dim), nn.Identity()

class Last(nn.Module):
    def forward(self, x):
        return x[:, -1]

def last_blocks(dim):
    return nn.Identity(), Last()

class Mixer(nn.Module):
    fixed_length = True

    def __init__(self, max_length):
        super().__init__()
        self.mix = nn.Linear(max_length, max_length)

    def forward(self, x):
        return self.mix(x.transpose(1, 2)).transpose(1, 2)

class Blind(nn.Module):
    def forward(self, x, padding_mask):
        ahead = x.new_ones(x.shape[1], x.shape[1]).triu(1).bool()
        scores = (x @ x.transpose(1, 2)).masked_fill(ahead | padding_mask[:, None], float("-inf"))
        shares = (scores - scores.amax(-1, keepdim=True)).exp()
        x = x + shares / shares.sum(-1, keepdim=True) @ x
        return x + (shares / shares.sum(-1, keepdim=True)) @ x

def blind_blocks(dim):
    return Blind(), Blind()

def normed_blocks(dim):
    make = lambda: nn.TransformerEncoderLayer(dim, 2, 16, batch_first=True)
    return make(), make()

def bare_blocks(dim):
    return nn.Identity(), nn.LayerNorm(dim)

def shared_mixer(dim, max_length):
    return (Mixer(max_length),) * 2

def copied_mixer(dim, *, max_length):
    return Mixer(max_length), "copy"
"""
NAME = "blocks_of_a_cli_test:make_blocks"
QUICK = ["--epochs", "1", "--rpt-epochs", "1", "--dim", "8", "--batch-size", "512", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a user's module, interactions, and a run trained with the module's blocks."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "blocks_of_a_cli_test.py").write_text(BLOCKS)
    (folder / "half_a_line.py").write_text("def make_blocks(dim:")
    (folder / "a_script.py").write_text("import sys; sys.exit(0)")
    log = synthetic_log(num_users=80, num_items=40, seed=4)
    rows = [f"{user},{item},{place}" for place, (user, item) in enumerate(zip(log.user, log.item, strict=True))]
    (folder / "log.csv").write_text("\n".join(["user,item,timestamp", *rows]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "log.csv", "--out", "run", "--encoder", NAME, "--with-base", *QUICK]) == 0
        yield folder
    sys.modules.pop("blocks_of_a_cli_test", None)


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in the user's working directory."""
    monkeypatch.chdir(folder)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("stage", ["best", "base", "spt", "rpt"])
def test_each_stage_is_evaluated_with_the_encoder(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "run", "--encoder", NAME, "--stage", stage]) == 0
    assert "Popularity" in capsys.readouterr().out


def test_recommend_with_the_encoder(tmp_path: Path) -> None:
    asked = tmp_path / "users.csv"
    asked.write_text("user,history\na,1 2 3\nb,4\n")
    out = tmp_path / "out.csv"
    assert main(["recommend", "run", "--input", str(asked), "--out", str(out), "--k", "3", "--encoder", NAME]) == 0
    with out.open() as lines:
        assert [row["user"] for row in csv.DictReader(lines)] == ["a"] * 3 + ["b"] * 3


@pytest.mark.parametrize("command", [["evaluate", "run"], ["recommend", "run", "--input", "log.csv", "--out", "o.csv"]])
def test_without_it_the_model_cannot_be_built(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert "--encoder" in one_line(capsys)
    assert not Path("o.csv").exists()


def test_another_encoder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "run", "--encoder", "blocks_of_a_cli_test:deeper_blocks"]) == 2
    assert "encoder does not match" in one_line(capsys)


def test_another_name_for_the_same_shapes_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "run", "--encoder", "blocks_of_a_cli_test:same_shapes"]) == 0
    assert f"run was trained with --encoder {NAME}, not" in capsys.readouterr().err


def test_a_run_of_a_built_in_backbone_takes_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--encoder", NAME]) == 2
    assert "was trained with --backbone sasrec: leave out --encoder" in one_line(capsys)


@pytest.mark.parametrize("encoder", [[], ["--encoder", "blocks_of_a_cli_test:deeper_blocks"]])
def test_resume_needs_the_same_encoder(encoder: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "log.csv", "--out", "run", "--with-base", "--resume", *encoder, *QUICK]) == 2
    assert "encoder" in one_line(capsys)


@pytest.mark.parametrize(
    "command", [["evaluate", "run"], ["train", "log.csv", "--out", "run", "--with-base", "--resume", *QUICK]]
)
def test_blocks_of_other_settings_are_refused(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def changed(dim: int) -> tuple[nn.Module, nn.Module]:
        return nn.GRU(dim, dim, batch_first=True), nn.GRU(dim, dim, batch_first=False)

    monkeypatch.setattr(sys.modules["blocks_of_a_cli_test"], "make_blocks", changed)
    assert main([*command, "--encoder", NAME]) == 2
    assert re.search("encoder does not match .*: batch_first .* was True and is False", capsys.readouterr().err)


def test_resume_with_it_finds_the_run_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "log.csv", "--out", "run", "--with-base", "--resume", "--encoder", NAME, *QUICK]) == 0
    assert "is done" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["blocks_of_a_cli_test:shared_mixer", "blocks_of_a_cli_test:copied_mixer"])
def test_shared_and_copied_blocks_of_a_fixed_length(name: str, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    more = ["--encoder", name, "--with-base", "--max-length", "7"]
    assert main(["train", "log.csv", "--out", run, *more, *QUICK]) == 0
    for stage in ("base", "spt", "rpt"):
        assert main(["evaluate", run, "--encoder", name, "--stage", stage]) == 0


def test_settings_of_built_in_backbones_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "log.csv", "--out", "other", "--encoder", NAME, "--heads", "4", *QUICK]) == 2
    assert "--heads" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("other").exists()


def test_norms_of_each_thought_need_norms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "log.csv", "--out", "other", "--encoder", NAME, "--own-norms", *QUICK]) == 2
    assert (
        f"--own-norms needs layer norms, and the core-block of {NAME} has none"
        in capsys.readouterr().err.splitlines()[-1]
    )
    assert not Path("other").exists()


def test_changes_of_each_thought_need_linear_layers(capsys: pytest.CaptureFixture[str]) -> None:
    name = "blocks_of_a_cli_test:bare_blocks"
    options = ["--own-norms", "--own-rank", "2"]
    assert main(["train", "log.csv", "--out", "other", "--encoder", name, *options, *QUICK]) == 2
    expected = f"--own-rank needs linear layers or attention, and the core-block of {name} has neither"
    assert expected in capsys.readouterr().err
    assert not Path("other").exists()


def test_norms_of_each_thought_in_own_blocks(tmp_path: Path) -> None:
    name, run = "blocks_of_a_cli_test:normed_blocks", str(tmp_path / "run")
    assert main(["train", "log.csv", "--out", run, "--encoder", name, "--own-norms", *QUICK]) == 0
    for stage in ("spt", "rpt"):
        assert main(["evaluate", run, "--encoder", name, "--stage", stage]) == 0
    weights = load_file(tmp_path / "run" / "spt" / "model.safetensors")
    norms = [key for key in weights if key.startswith("encoder.core_block") and ".norm" in key]
    assert len(norms) == 4 * 2 * 2  # four thoughts, two norms of a weight and a bias


def test_blocks_without_norms_are_not_those_of_a_run_that_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, run = "blocks_of_a_cli_test:normed_blocks", str(tmp_path / "run")
    assert main(["train", "log.csv", "--out", run, "--encoder", name, "--own-norms", *QUICK]) == 0
    assert main(["evaluate", run, "--encoder", NAME]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{run} was trained with --encoder {name}, not {NAME}: --own-norms needs layer norms" in told


@pytest.mark.parametrize(
    "name, said",
    [
        ("blocks_of_a_cli_test:no_blocks", "KeyError: 'blocks'.*blocks_of_a_cli_test.py, line 14"),
        ("blocks_of_a_cli_test:no_argument", "TypeError: no_argument"),
        ("blocks_of_a_cli_test:no_package", "ModuleNotFoundError: .*line 20"),
        ("blocks_of_a_cli_test:short_blocks", "IndexError: .*blocks_of_a_cli_test.py, line 28"),
        ("blocks_of_a_cli_test:last_blocks", "Last must return"),
        ("blocks_of_a_cli_test:blind_blocks", "Blind gives NaN or infinity at real .* let every query see"),
        ("half_a_line:make_blocks", "SyntaxError: .*half_a_line.py, line 1"),
        ("a_script:make_blocks", "SystemExit: 0 .*a_script.py, line 1"),
        (".relative:make_blocks", "written package.module:function"),
    ],
)
def test_an_error_in_the_blocks_is_one_line_and_leaves_no_run(
    name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "log.csv", "--out", "other", "--encoder", name, *QUICK]) == 2
    assert re.search(said, capsys.readouterr().err.splitlines()[-1])
    assert not Path("other").exists()
