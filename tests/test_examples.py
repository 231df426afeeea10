"""Every example runs as it is, and what it claims holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested


def test_wrap_your_encoder() -> None:
    found = load("wrap_your_encoder").main(epochs=3)
    assert set(found) == {"GRU", "Smoother"}
    for rows in found.values():
        assert rows["spt"] > rows["popularity"] > rows["chance"]
        assert rows["rpt"] >= rows["spt"]  # the model as it came to post-training may win, so RPT is never below


def check_backbone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = load(name).main(epochs=3)
    found = {row: metrics["ndcg@10"] for row, metrics in result.metrics.items()}
    assert list(found) == ["chance", "popularity", "base", "spt", "rpt"]
    assert min(found["base"], found["spt"], found["rpt"]) > found["popularity"] > found["chance"]
    *table, best = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == list(found)
    user, items = best.split(" -> ")
    data = result.split.interactions
    assert user == str(data.user_ids[0])
    assert len(set(items.split()) & {str(item) for item in data.item_ids}) == 5


def test_sasrec(capsys: pytest.CaptureFixture[str]) -> None:
    check_backbone("sasrec", capsys)


def test_fmlprec(capsys: pytest.CaptureFixture[str]) -> None:
    check_backbone("fmlprec", capsys)


def test_bsarec(capsys: pytest.CaptureFixture[str]) -> None:
    check_backbone("bsarec", capsys)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_under_forty_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 40


def test_recommend_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"user-{user},item-{(user + step) % 30},{step}" for user in range(60) for step in range(8)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    best = load("recommend_from_a_file").main(str(path), epochs=12)
    assert len(best) == 5
    # users walk the catalog item by item: the next one of user-0, who stands at item-7, is item-8
    assert best[0] == "item-8"


def test_tedrec(capsys: pytest.CaptureFixture[str]) -> None:
    check_backbone("tedrec", capsys)


def test_tedrec_asks_for_texts_of_a_file_s_items() -> None:
    with pytest.raises(SystemExit, match="item texts"):
        load("tedrec").main("log.csv")
