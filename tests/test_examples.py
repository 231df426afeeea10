"""Every example runs as it is, and what it claims holds."""

from __future__ import annotations

import gzip
import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from latentloop.backbones.sasrec import SASRec
from latentloop.recipes import build_recommender

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
    assert list(found) == ["chance", "popularity", "followers", "base", "spt", "rpt"]
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


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this torch does not tell that it exports")
@pytest.mark.parametrize(("num_items", "length"), [(60, 25), (12, 5)])
def test_answer_without_torch(num_items: int, length: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_recommender(SASRec(), num_items, dim=16)
    model.item_ids = [f"item-{number}" for number in range(num_items)]  # type: ignore[assignment]
    model.save_pretrained(tmp_path)
    history = ["item-3", *(f"item-{number}" for number in range(length))]
    answer = load("answer_without_torch").main(str(tmp_path), *history, "unknown")
    assert answer == model.recommend([history], k=10).items[0]
    assert len(answer) == min(10, num_items - length)


@pytest.fixture(scope="module")
def real_log(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty users of MovieLens-100K who rated few films, in the layout that it comes in."""
    whole = real_data / "ml-100k.inter.gz"
    if not whole.exists():
        pytest.skip(f"{whole.name} is not in the folder of real data")
    with gzip.open(whole, "rt") as file:
        header, *lines = file
    actions = Counter(line.split("\t")[0] for line in lines)
    users = sorted((user for user, count in actions.items() if count <= 40), key=int)[:60]
    path = tmp_path_factory.mktemp("real") / "ml-100k.inter"
    path.write_text("".join([header, *(line for line in lines if line.split("\t")[0] in users)]))
    return path


def movies(path: Path) -> set[str]:
    return {line.split("\t")[1] for line in path.read_text().splitlines()[1:]}


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["sasrec", "fmlprec", "bsarec", "tedrec"])
def test_a_backbone_on_a_real_file(
    name: str, real_log: Path, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(real_log)]
    if name == "tedrec":
        texts = real_data / "ml-100k.item.gz"
        if not texts.exists():
            pytest.skip(f"{texts.name} is not in the folder of real data")
        files.append(str(texts))
    result = load(name).main(*files, epochs=1)
    found = {row: metrics["ndcg@10"] for row, metrics in result.metrics.items()}
    assert list(found) == ["chance", "popularity", "followers", "base", "spt", "rpt"]
    data = result.split.interactions
    assert (data.num_users, data.num_items, len(data)) == (59, 94, 976)  # the 5-core
    *table, best = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == list(found)
    user, items = best.split(" -> ")
    assert user == str(data.user_ids[0]) and len(set(items.split())) == 5 and set(items.split()) <= movies(real_log)


@pytest.mark.realdata
def test_wrapped_encoders_on_a_real_file(real_log: Path) -> None:
    found = load("wrap_your_encoder").main(str(real_log), epochs=1)
    assert set(found) == {"GRU", "Smoother"}
    assert all(rows["rpt"] >= rows["spt"] > 0 for rows in found.values())


@pytest.mark.realdata
def test_recommending_from_a_real_file(real_log: Path) -> None:
    best = load("recommend_from_a_file").main(str(real_log), epochs=1)
    assert len(set(best)) == 5 and {str(item) for item in best} <= movies(real_log)
