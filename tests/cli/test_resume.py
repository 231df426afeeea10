"""`latentloop resume`: the options and data are the run's own, and what it ends with is what `train --resume` does."""

from __future__ import annotations

import errno
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentloop import cli
from latentloop.cli import main
from latentloop.commands.model_options import ModelOptions
from latentloop.commands.parser import parse
from latentloop.commands.resume import Resume
from latentloop.commands.saved import saved_train
from latentloop.commands.train import Train
from latentloop.fitting.optimizer import build_optimizer
from latentloop.recommender import Recommender
from latentloop.runs.directory import RunDirectory
from latentloop.runs.train_state import load_progress, save_state
from tests.cli.worlds import KEEP, QUICK, log

ROOT = Path(__file__).parents[2]
MODELS = ("base", "spt", "rpt")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "my run"))


def test_it_ends_as_train_does_with_all_options_again(copy: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(copy, tmp_path / "twin"))
    columns = ["--user", "who", "--item", "what", "--with-base"]
    source = json.loads((copy / "config.json").read_text())["source"]
    assert main(["train", source, "--out", str(twin), *columns, *QUICK, "--epochs", "3", "--resume"]) == 0
    assert main(["resume", str(copy), "--epochs", "3", "--device", "cpu"]) == 0
    names = ["config.json", *(f"{stage}/model.safetensors" for stage in MODELS)]
    for name in names:
        assert (copy / name).read_bytes() == (twin / name).read_bytes(), name
    epochs = [(line["stage"], line["epoch"]) for line in RunDirectory(copy).lines.read() if "epoch" in line]
    assert epochs.count(("spt", 2)) == 1 and epochs.count(("spt", 3)) == 1


def test_a_run_that_is_done_is_left_as_it_is(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _files(copy)
    assert main(["resume", str(copy), "--device", "cpu"]) == 0
    assert "is done; nothing is left to train" in capsys.readouterr().err
    assert _files(copy) == before


def test_every_option_comes_back_from_a_configuration(tmp_path: Path) -> None:
    options = (
        "--seed 7 --with-base --exclude-history --precision bf16 --k-core 3 --user who --format tsv --split global-time "
        "--max-length 9 --backbone tedrec --heads 1 --dropout 0.25 --depth fixed --own-norms --own-rank 2 "
        "--item-text x/../texts.csv --item-text-columns title brand --epochs 3 --clip-norm 1 --schedule cosine "
        "--alpha 0 --positions all --policy hybrid --rollouts 3"
    )
    asked = parse(["train", "a log.csv", "--out", str(tmp_path / "run"), *options.split()])
    assert isinstance(asked, Train)
    run = RunDirectory.create(asked.out, asked.config(), defaults=asked.defaults())
    found = saved_train(run)
    assert found == asked and found.config() == asked.config()
    assert found.text.item_text_columns == ("title", "brand") and found.text.item_text == asked.text.item_text


def test_an_option_that_is_younger_than_the_run_has_its_default(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    del config["model"]["own_rank"], config["precision"], config["text"]
    (copy / "config.json").write_text(json.dumps(config))
    asked = Resume(copy, device="cpu").train()
    assert asked.model.own_rank == 0 and asked.precision == "fp32" and asked.resume and asked.out == copy


def _without_data(run: Path) -> None:
    shutil.rmtree(run / "data")


def _changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        config = json.loads((run / "config.json").read_text())
        change(config)
        (run / "config.json").write_text(json.dumps(config))

    return damage


@pytest.mark.parametrize(
    ("damage", "options", "said"),
    [
        (shutil.rmtree, [], "is not a run of latentloop"),
        (
            _without_data,
            [],
            "does not hold what it was to read: give `latentloop train` its options again, with --resume",
        ),
        (lambda run: None, ["--epochs", "1"], "epochs was 2 when"),
        (lambda run: None, ["--encoder", "os:system"], "was trained with --backbone sasrec: leave out --encoder"),
        (
            _changed(lambda c: c["model"].update(encoder="os:system")),
            [],
            "was trained with --encoder 'os:system': give",
        ),
        (_changed(lambda c: c["model"].update(backbone="tedrec")), [], "does not hold what it was to read"),
        (_changed(lambda c: c["model"].update(dim="64")), [], "model.dim must be a whole number, found '64'"),
        (_changed(lambda c: c["text"].update(item_text=3)), [], "text.item_text must be a path or null, found 3"),
        (
            _changed(lambda c: c["text"].update(item_text_columns="ab")),
            [],
            "must be a list of texts or null, found 'ab'",
        ),
        (_changed(lambda c: c.update(seed=True)), [], "damaged: seed must be a whole number, found True"),
        (_changed(lambda c: c.update(resume=True)), [], "damaged: resume is no option of this release"),
        (_changed(lambda c: c.update(surprise=1)), [], "damaged: surprise is no option of this release"),
        (_changed(lambda c: c.update(spt=[])), [], "damaged: spt must be an object of options, found []"),
        (_changed(lambda c: c.pop("source")), [], "was not made by `latentloop train`"),
        (_changed(lambda c: c["training"].update(schedule="cosine")), ["--epochs", "3"], "epochs was 2 when"),
        (
            _changed(lambda c: c["training"].update(learning_rate=10**400)),
            [],
            "learning_rate must be a number, found 1",
        ),
        (_changed(lambda c: c.update(text=None)), [], "damaged: text must be an object of options, found None"),
    ],
)
def test_what_cannot_be_continued_says_why(
    copy: Path, damage: Callable[[Path], None], options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy)
    assert main(["resume", str(copy), "--device", "cpu", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "Traceback" not in error


def test_a_setting_that_no_shape_tells_is_noticed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _changed(lambda c: c["model"].update(heads=1))(copy)  # of 2
    before = _files(copy)
    assert main(["resume", str(copy), "--device", "cpu"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "backbone is {" in error and "state/base.safetensors was trained with {" in error
    assert _files(copy) == before


def _files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def _flip_a_bit(run: Path) -> None:
    path = run / "state" / "spt.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _other_weights(run: Path) -> None:
    """The state of a model that the options do not describe."""
    shutil.copy(run / "state" / "base.safetensors", run / "state" / "rpt.safetensors")


def _without_best(run: Path) -> None:
    """Best weights are gone that are not the last epoch's."""
    stage, model = "spt", Recommender.from_pretrained(run / "spt")
    path = RunDirectory(run).state_path(stage)
    progress = load_progress(path)
    assert progress is not None and len(progress.history) == 2
    progress.best_epoch = 1
    save_state(path, model, build_optimizer(model, learning_rate=1e-3, weight_decay=0.0, few_items=False), progress)
    shutil.rmtree(run / stage)


def _with_best_cut_off(run: Path) -> None:
    shutil.copytree(run / "spt", run.parent / "spt")
    _without_best(run)
    shutil.move(run.parent / "spt", run / "spt")
    weights = run / "spt" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_flip_a_bit, "spt.safetensors is damaged (it does not match its checksum): train --overwrite starts it over"),
        (_other_weights, "rpt.safetensors is of another model"),
        (_without_best, "spt/model.safetensors is missing: the directory is not a whole model; or remove "),
        (_with_best_cut_off, "and spt is trained again"),
    ],
)
def test_a_refusal_leaves_a_finished_run_as_it_was(
    copy: Path, damage: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy)
    before = _files(copy)
    for options in ([], ["--epochs", "3", "--rpt-epochs", "2"]):
        assert main(["resume", str(copy), "--device", "cpu", *options]) == 2
        assert said in capsys.readouterr().err
        assert _files(copy) == before


def test_weights_that_are_gone_are_trained_again_as_the_message_says(copy: Path) -> None:
    before = (copy / "spt" / "model.safetensors").read_bytes()
    _without_best(copy)
    (copy / "state" / "spt.safetensors").unlink()
    assert main(["resume", str(copy), "--device", "cpu"]) == 0
    assert (copy / "spt" / "model.safetensors").read_bytes() == before


def test_a_report_stays_where_the_configuration_cannot_be_written(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Path.write_text

    def full(path: Path, *content: Any, **options: Any) -> int:
        if "config.json" in path.name and path.parent == copy:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, *content, **options)

    before = _files(copy)
    monkeypatch.setattr(Path, "write_text", full)
    assert main(["resume", str(copy), "--device", "cpu", "--epochs", "3"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert _files(copy) == before


def test_a_run_that_is_to_go_on_has_no_report(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed just before the new configuration takes its place, it is a run without a report, not a finished one."""
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if Path(target).name == "config.json" and Path(target).parent == copy:
            raise SystemExit(1)
        return replace(path, target)

    report = (copy / "report.md").read_text().splitlines()
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(Path, "replace", killed)
        main(["resume", str(copy), "--device", "cpu", "--epochs", "3"])
    assert not (copy / "report.md").is_file()
    assert main(["resume", str(copy), "--device", "cpu"]) == 0
    assert (copy / "report.md").read_text().splitlines()[0] == report[0]


def test_other_data_are_refused_before_anything_changes(
    copy: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = gzip.decompress(source.read_bytes()).decode().splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join(lines[:-1]) + "\n")
    _changed(lambda c: c.update(source=str(other)))(copy)
    shutil.rmtree(copy / "data")
    before = _files(copy)
    columns = ["--user", "who", "--item", "what", "--with-base"]
    assert main(["train", str(other), "--out", str(copy), *columns, *QUICK, "--epochs", "3", "--resume"]) == 2
    assert "is of other data" in capsys.readouterr().err
    assert _files(copy) == before


def test_a_run_of_python_is_continued_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunDirectory.create(tmp_path / "run", {"seed": 0})
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "continue it in Python, by two_stage with its own options" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(self: Train) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Train, "run", stop)
    ours = json.loads((copy / "config.json").read_text())["source"]
    train = ["train", ours, "--out", str(copy), "--user", "who", "--item", "what", "--with-base", *QUICK]
    there = f"continue with latentloop resume '{copy}' --device cpu"
    (tmp_path / "other" / "data").mkdir(parents=True)
    for command, how in (
        ([*train, "--resume"], there),
        ([*train, "--resume", "--epochs", "7"], "continue with --resume"),  # of which the run knows nothing yet
        ([*train, "--overwrite", "--seed", "5"], "continue with --resume"),  # the old run is still there
        (["train", "x.csv", "--out", str(tmp_path / "other")], "continue with --resume"),  # not a run
        (["train", "x.csv", "--out", str(tmp_path / "new")], "continue with --resume"),
        (["resume", str(copy), "--device", "cpu"], "give the same command to continue"),
    ):
        assert main(command) == 130
        assert capsys.readouterr().err.strip() == f"latentloop: interrupted; what was finished is kept, {how}"


def test_the_command_to_go_on_names_all_that_is_no_part_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = Train("x.csv", Path("-run"), device="cpu", tracker="tensorboard", model=ModelOptions(encoder="a.b:c"))
    assert asked.continued() is None
    RunDirectory.create(asked.out, asked.config()).data_path.mkdir()
    assert asked.continued() == "latentloop resume ./-run --encoder a.b:c --device cpu --tracker tensorboard"


def test_a_run_that_is_being_trained_says_so_first(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _without_data(copy)
    script = "import pathlib, sys\nfrom latentloop.runs.lock import held\n"
    script += "with held(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script, str(copy)], cwd=ROOT, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "held\n"
        assert main(["resume", str(copy)]) == 2
        other.stdin.close()
    assert "is being trained" in capsys.readouterr().err


def test_several_processes_may_resume(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    cli._refuse_several(Resume(copy))


def test_its_own_blocks_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef blocks(dim):\n    return nn.GRU(dim, dim, batch_first=True), 'copy'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    quick = ["--epochs", "1", "--rpt-epochs", "0", "--dim", "8", "--batch-size", "64", "--device", "cpu"]
    out = str(tmp_path / "run")
    assert main(["train", log(tmp_path), "--out", out, "--encoder", "mine:blocks", *KEEP, *quick]) == 0
    assert main(["resume", out, "--epochs", "2", "--device", "cpu"]) == 2
    assert main(["resume", out, "--epochs", "2", "--device", "cpu", "--encoder", "mine:blocks"]) == 0
    assert RunDirectory(out).config()["training"]["epochs"] == 2
