"""`--backbone tedrec` on the command line: texts or embeddings from files, kept with the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from latentloop.cli import main
from latentloop.data.hashing_encoder import HashingEncoder
from latentloop.data.synthetic import synthetic_log
from latentloop.data.text_store import load_saved_text_features

QUICK = ["--epochs", "1", "--rpt-epochs", "1", "--dim", "8", "--inner", "16", "--batch-size", "512", "--device", "cpu",
         "--pre-layers", "1", "--core-layers", "1", "--k-core", "0"]  # fmt: skip
ITEMS = 40
TEXTS = ["--backbone", "tedrec", "--text-encoder", "hashing", "--item-text", "bare.dat", "--item-text-format"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interactions with ids 1.., texts of all items but two, and embeddings of all."""
    folder = tmp_path_factory.mktemp("texts")
    log = synthetic_log(num_users=80, num_items=ITEMS, seed=4)
    rows = [f"{user},{item},{place}" for place, (user, item) in enumerate(zip(log.user, log.item, strict=True))]
    (folder / "log.csv").write_text("\n".join(["user,item,timestamp", *rows]))
    texts = [f"{item}\tword{item % 3} word{item % 5}" for item in range(3, ITEMS + 1)]
    (folder / "items.tsv").write_text("\n".join(["id\ttext", *texts]))
    (folder / "bare.dat").write_text("sku,a,b\n1,x,y\n")
    np.save(folder / "items.npy", np.random.default_rng(0).normal(size=(ITEMS, 6)).astype(np.float16))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run with hashed texts, whose texts are gone."""
    out, gone = folder / "run", folder / "gone.tsv"
    gone.write_bytes((folder / "items.tsv").read_bytes())
    options = ["--backbone", "tedrec", "--item-text", str(gone), "--text-encoder", "hashing", "--with-base"]
    assert main(["train", str(folder / "log.csv"), "--out", str(out), *options, *QUICK]) == 0
    gone.unlink()
    return out


@pytest.mark.parametrize("stage", ["base", "spt", "rpt"])
def test_each_stage_is_loaded_without_the_texts(run: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--stage", stage]) == 0
    assert stage.upper() in capsys.readouterr().out


def test_a_run_continues_without_the_texts(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--backbone", "tedrec", "--item-text", str(folder / "gone.tsv"), "--text-encoder", "hashing"]
    again = ["train", str(folder / "log.csv"), "--out", str(run), *options, "--with-base", "--resume", *QUICK]
    assert main(again) == 0
    assert "is done" in capsys.readouterr().err


def test_embeddings_by_number(folder: Path, tmp_path: Path) -> None:
    options = ["--backbone", "tedrec", "--item-embeddings", str(folder / "items.npy"), "--experts", "2"]
    assert main(["train", str(folder / "log.csv"), "--out", str(tmp_path / "run"), *options, *QUICK]) == 0


def test_columns_and_format_are_named(folder: Path, tmp_path: Path) -> None:
    """The same texts from a file that says nothing of itself, and the run continues."""
    lines = ["sku,price", *(f"{item},{item % 3}" for item in range(1, ITEMS + 1))]
    (tmp_path / "meta.dat").write_text("\n".join(f"{line},x" for line in lines))
    named = ["--item-text-id", "sku", "--item-text-columns", "price", "x", "--item-text-format", "csv"]
    options = ["--backbone", "tedrec", "--item-text", str(tmp_path / "meta.dat"), "--text-encoder", "hashing", *named]
    command = ["train", str(folder / "log.csv"), "--out", str(tmp_path / "run"), *options, *QUICK]
    assert main(command) == 0
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["text"]
    assert (saved["item_text_id"], saved["item_text_columns"], saved["item_text_format"]) == (
        "sku",
        ["price", "x"],
        "csv",
    )
    features = load_saved_text_features(tmp_path / "run" / "item_text.safetensors").features
    number = list(map(str, json.loads((tmp_path / "run" / "spt" / "items.json").read_text()))).index("7") + 1
    wanted = HashingEncoder().encode([f"{item % 3}. x" for item in range(1, ITEMS + 1)])
    np.testing.assert_allclose(features[number].numpy(), wanted[6], atol=1e-6)
    assert main([*command, "--resume"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TEXTS[:-1], "name the format, one of csv, tsv, jsonl, parquet (--item-text-format)"),
        ([*TEXTS, "csv"], "(--item-text-id)"),
        ([*TEXTS, "csv", "--item-text-id", "sku"], "(--item-text-columns)"),
        ([*TEXTS, "csv", "--item-text-id", "sku", "--item-text-columns", "a", "c"], "no column 'c' for the text"),
        (
            ["--backbone", "tedrec", "--item-embeddings", "items.npy", "--item-text-id", "sku"],
            "give --item-text (--item-text-id)",
        ),
        (["--backbone", "tedrec"], "TedRec needs the items' texts: give --item-text"),
        (["--backbone", "tedrec", "--item-text", "items.tsv"], "give --text-encoder NAME"),
        (["--backbone", "tedrec", "--item-embeddings", "no.npy"], "no.npy: no such file"),
        (["--backbone", "sasrec", "--item-text", "items.tsv"], "read by --backbone tedrec only"),
        (["--backbone", "sasrec", "--experts", "3"], "--experts is not a setting of sasrec"),
        (["--backbone", "fmlprec", "--heads", "3"], "--heads is not a setting of fmlprec"),
        (["--backbone", "bsarec", "--cutoff", "999"], "--cutoff must"),
    ],
)
def test_refused_in_one_line(
    options: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(["train", "log.csv", "--out", "refused", *options, *QUICK]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not Path("refused").exists()


@pytest.mark.parametrize("backbone", ["fmlprec", "bsarec"])
def test_the_other_backbones_run_from_one_command(backbone: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--backbone", backbone, "--padding", "keep", "--norm", "post", "--with-base"]
    assert main(["train", str(folder / "log.csv"), "--out", str(out), *options, *QUICK]) == 0
    assert "Base" in (out / "report.md").read_text()
    assert main(["evaluate", str(out)]) == 0
