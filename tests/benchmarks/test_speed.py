"""The speed benchmark: every case runs at toy size, its files hold what was measured, and a fallen ratio is told."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.speed import __main__ as speed
from benchmarks.speed.alone import measure, run_alone
from benchmarks.speed.flops import Work, ceilings, layer, score, shortest
from benchmarks.speed.options import Options
from benchmarks.speed.report import fallen, growth, load, row
from benchmarks.speed.timing import Pair, Timing, summed_up, take_turns
from latentloop.depth import LogNormalPoisson

TOY = Options(size="toy", threads=1, repeats=2, memory=False)
CASES = {
    "spt": ["SPT", "SPT, bf16"],
    "rpt": ["RPT", "RPT, bf16"],
    "epoch": ["SPT epoch"],
    "ranking": ["full ranking", "full ranking, bf16"],
    "recommending": ["recommend"],
    "inference": ["encode at depth 4"],
    "data": ["data, 3,000 rows", "data, 3,000 rows, ids as text"],
    "depths": ["SPT at depth 1", "SPT at depth 2"],
    "catalogs": [
        f"{name}, {items} items"
        for name in ("next-item loss", "policy and KL", "ranks", "ten best")
        for items in (40, 80)
    ],
    "sampled": ["sampled SPT, 40 items", "sampled SPT, 80 items"],
}

CASES_ON_CUDA = {
    **{name: cases for name, cases in CASES.items() if name not in speed.CPU_ONLY},
    "rpt": ["RPT", "RPT, bf16", "RPT, batch 32"],
    "epoch": ["2 SPT epochs, graphs made anew"],
}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would run in processes of their own runs here."""

    def run(*arguments: str) -> object:
        chosen = dict(zip(arguments[3::2], arguments[4::2], strict=True))
        options = Options(size=chosen["--size"], threads=1, scratch=Path(chosen["--scratch"]))
        pair = next(pair for pair in speed.GROUPS[chosen["--only"]](options) if pair.case == arguments[1])
        action = pair.fast if arguments[2] == "fast" else pair.twin
        assert action is not None
        return measure(action(), calls=1)

    monkeypatch.setattr(speed, "run_alone", run)


def timing(case: str = "SPT", ratio: tuple[float, float, float] | None = (2.0, 2.5, 3.0), rate: float = 10.0) -> Timing:
    """A timing with the lowest, median and highest ratio given."""
    bare = Timing(case, "samples", 100.0, rate, rate, rate, 3)
    if ratio is None:
        return bare
    low, middle, high = ratio
    return replace(bare, twin=rate / middle, ratio=middle, ratio_low=low, ratio_high=high)


@pytest.mark.parametrize("group", CASES)
def test_every_case_runs_and_is_written_down(
    group: str, here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a case in the output, the Markdown and the JSON, with rates that are numbers."""
    speed.main(replace(TOY, only=(group,), out=tmp_path))
    printed = [line.split(" | ")[0].removeprefix("| ") for line in capsys.readouterr().out.splitlines()]
    stored = json.loads((tmp_path / "speed.json").read_text())
    text = (tmp_path / "speed.md").read_text()
    assert printed == CASES[group] == [found["case"] for found in stored["timings"]]
    assert stored["machine"]["threads"] == 1 and all(value > 0 for value in stored["ceilings"].values())
    for found in stored["timings"]:
        assert f"| {found['case']} | " in text
        assert 0 < found["low"] <= found["fast"] <= found["high"] < math.inf
        if found["twin"] is not None:
            assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1, "the table's lines differ in their number of cells"


def test_an_epoch_and_its_twin_think_as_deep_as_the_other_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed's few steps may be drawn twice as deep as the law's mean, and another seed's half as deep."""
    drawn, draw = list[int](), LogNormalPoisson.sample

    def spied(law: LogNormalPoisson, generator: torch.Generator) -> int:
        drawn.append(draw(law, generator))
        return drawn[-1]

    (pair,) = speed.GROUPS["epoch"](TOY)
    monkeypatch.setattr(LogNormalPoisson, "sample", spied)
    fast, twin = list[int](), list[int]()
    for action, found in ((pair.fast, fast), (pair.twin, twin)):
        assert action is not None
        action()()
        found += drawn
        drawn.clear()
    assert fast == twin
    samples, batch = int(pair.units), TOY.sizes.spt_batch
    rows = [batch] * (len(fast) - 1) + [samples % batch or batch]
    assert len(fast) > 1 and sum(rows) == samples
    assert abs(sum(map(math.prod, zip(fast, rows, strict=True))) / samples - 4) < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("group", CASES_ON_CUDA)
def test_every_case_runs_on_cuda(group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same there, with the device's name, the memory that torch allocated on it, and no CPU's targets."""
    speed.main(replace(TOY, device="cuda", memory=True, only=(group,), out=tmp_path))
    printed = [line.split(" | ")[0].removeprefix("| ") for line in capsys.readouterr().out.splitlines()]
    stored = json.loads((tmp_path / "speed.json").read_text())
    assert printed == CASES_ON_CUDA[group] == [found["case"] for found in stored["timings"]]
    assert stored["machine"]["device"] == "cuda" and stored["machine"]["gpu"] == torch.cuda.get_device_name()
    assert all(stored["ceilings"][name] > 0 for name in ("blocks", "blocks bf16", "scores", "copy"))
    assert "Peaks are what torch allocated on the device" in (tmp_path / "speed.md").read_text()
    for found in stored["timings"]:
        assert 0 < found["low"] <= found["fast"] <= found["high"] < math.inf
        assert found["target"] in (None, 100_000, 200_000) and found["limit"] is found["limit_above"] is None
        assert found["memory"] is None or 0 < found["above"] < found["memory"]


def test_without_cuda_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything is measured or written."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^--device cuda: torch sees no CUDA device$"):
        speed.main(replace(TOY, device="cuda", out=tmp_path))
    assert not list(tmp_path.iterdir())


def test_each_device_has_its_folder_and_groups() -> None:
    """The CPU's stored table is never written over by a GPU's."""
    on_cpu, on_cuda = Options(), Options(device="cuda")
    assert (on_cpu.folder, on_cuda.folder) == (Path("benchmarks/results"), Path("benchmarks/results/cuda"))
    assert replace(on_cuda, out=Path("mine")).folder == Path("mine")
    assert (on_cpu.on_cpu(3.0), on_cuda.on_cpu(3.0), on_cuda.on_cpu(3.0, 5.0)) == (3.0, None, 5.0)
    assert set(speed._groups(on_cpu)) == set(CASES) and set(speed._groups(on_cuda)) == set(CASES_ON_CUDA)


def test_a_process_of_its_own_tells_time_and_memory(tmp_path: Path) -> None:
    """The command that measures memory, as it really runs."""
    arguments = ("--alone", "ranks, 80 items", "fast", "--only", "catalogs", "--size", "toy", "--threads", "1")
    alone = run_alone(*arguments)
    assert alone.seconds > 0 and 50 < alone.peak and 0 <= alone.above < alone.peak
    with pytest.raises(RuntimeError, match="no twin"):
        run_alone("--alone", "ranks, 80 items", "twin", *arguments[3:])


def test_memory_is_what_the_call_took() -> None:
    """256 MiB that are held and let go show as the peak above what was there, whether or not the kernel forgets peaks."""
    for forgets in ("", "alone._forget_peak = lambda: False; "):
        call = f"import torch, benchmarks.speed.alone as alone; {forgets}"
        call += "print(alone.measure(lambda: torch.ones(64 << 20).sum(), calls=1).above)"
        done = subprocess.run([sys.executable, "-c", call], check=True, capture_output=True, text=True)
        assert 250 < float(done.stdout) < 320


def test_against_ends_with_one_where_a_ratio_fell(
    here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stored ratio is out of reach in one file, and below anything in the other."""
    options = replace(TOY, only=("inference",), out=tmp_path)
    (found,) = speed.main(options)
    too_fast = ""
    for factor, falls in ((1000.0, True), (0.001, False)):
        stored = json.loads((tmp_path / "speed.json").read_text())
        for name in ("ratio", "ratio_low", "ratio_high"):
            stored["timings"][0][name] = getattr(found, name) * factor
        path = tmp_path / "stored.json"
        path.write_text(json.dumps(stored))
        too_fast = json.dumps(stored) if falls else too_fast
        if not falls:
            speed.main(replace(options, against=path))
            continue
        with pytest.raises(SystemExit, match=r"slower than stored:\nencode at depth 4: ratio"):
            speed.main(replace(options, against=path))
    # compared with the file that it would write, it stays: what is slower now is slower the next time
    mine = tmp_path / "speed.json"
    mine.write_text(too_fast)
    for _ in range(2):
        with pytest.raises(SystemExit, match="slower than stored"):
            speed.main(replace(options, against=mine))
        assert mine.read_text() == too_fast
    with pytest.raises(SystemExit, match="holds none of the cases that were measured"):
        speed.main(replace(options, only=("sampled",), against=mine))


@pytest.mark.parametrize(
    ("now", "stored", "falls"),
    [
        ((1.0, 1.2, 1.4), (2.0, 2.5, 3.0), True),
        ((1.0, 1.5, 2.1), (2.0, 2.5, 3.0), False),  # the turns overlap
        ((1.95, 1.97, 1.98), (1.99, 2.0, 2.01), False),  # apart, but hardly lower
        ((3.5, 4.0, 5.0), (2.0, 2.5, 3.0), False),  # faster
        (None, (2.0, 2.5, 3.0), False),
        ((1.0, 1.2, 1.4), None, False),
    ],
)
def test_what_fell(
    now: tuple[float, float, float] | None, stored: tuple[float, float, float] | None, falls: bool
) -> None:
    """Every turn below every stored one, and by more than the slack; other cases do not matter."""
    lines = fallen([timing(ratio=now), timing("new")], [timing("gone"), timing(ratio=stored)])
    assert lines == (["SPT: ratio 1.20 (1.00-1.40), was 2.50 (2.00-3.00)"] if falls else [])


def test_turns_are_summed_up() -> None:
    """Medians of rates, and of each turn's own ratio."""
    pair = Pair("x", "rows", 60.0, lambda: print, work=Work(blocks=1e9, scores=2e9), target=5.0)
    found = summed_up(pair, [1.0, 2.0, 3.0], [4.0, 2.0, 9.0], limit=0.5)
    assert (found.fast, found.low, found.high, found.twin) == (30.0, 20.0, 60.0, 15.0)
    assert (found.ratio, found.ratio_low, found.ratio_high) == (3.0, 1.0, 4.0)
    assert found.gigaflops == pytest.approx(1.5) and found.share == pytest.approx(0.25)
    assert "600% of 5" in row(found)


def test_turns_alternate() -> None:
    """One call of each that does not count, then turns, at least three of them however long they take."""
    calls: list[str] = []
    fast, twin = take_turns(lambda: calls.append("f"), lambda: calls.append("t"), repeats=4, enough=0.0)
    assert "".join(calls) == "ft" * 4 and len(fast) == len(twin) == 3
    assert [len(seconds) for seconds in take_turns(lambda: None, None, repeats=2)] == [2, 0]
    calls.clear()
    take_turns(lambda: calls.append("f"), lambda: calls.append("t"), repeats=2, warm=False)
    assert "".join(calls) == "ft" * 2


def test_growth_is_a_power_of_the_items_and_a_step_of_the_depth() -> None:
    """Twice the items in four times the time is a power of 2; 100 samples at 10/s and 2.5/s are 10 s and 40 s."""
    points = [timing("ranks, 1,000 items"), timing("ranks, 2,000 items", rate=2.5)]
    assert growth(points) == ["ranks: 1,000 to 2,000 items, time grows as items^2.00"]
    points = [timing("SPT at depth 1"), timing("SPT at depth 4", rate=2.5)]
    assert growth(points) == ["SPT: depth 1 to 4, 10000 ms for each further thought"]


def test_work_is_counted_by_hand() -> None:
    """d 64 and inner 256: 3 x 64 x 64 + 64 x 64 + 2 x 64 x 256 products a token; and the time that they take alone."""
    assert layer(10) == 2 * 10 * (12_288 + 4_096 + 32_768)
    assert score(3, 100) == 2 * 3 * 100 * 64
    found = ceilings(tokens=64, items=100)
    assert set(found) == {"blocks", "blocks bf16", "scores"}
    assert shortest(Work(blocks=1e9)) == pytest.approx(1e9 / ceilings()["blocks"])
    assert shortest(Work(1e9, 1e9, "bf16")) == pytest.approx(
        1e9 / ceilings()["blocks bf16"] + 1e9 / ceilings()["scores"]
    )


def test_an_unknown_group_is_told() -> None:
    """With the names there are."""
    with pytest.raises(SystemExit, match=r"no group nothing; there are spt, rpt"):
        speed.main(replace(TOY, only=("nothing",)))


def test_a_stored_table_loads_as_it_was(here: None, tmp_path: Path) -> None:
    """Every field, back from JSON."""
    found = speed.main(replace(TOY, only=("inference",), out=tmp_path))
    about = json.loads((tmp_path / "speed.json").read_text())["machine"]
    assert load(tmp_path / "speed.json", about) == found
    for name, other in (("threads", 64), ("size", "full"), ("clock", "cpu"), ("device", "cuda")):
        with pytest.raises(SystemExit, match=f"was measured with {name} .*: set --{name}"):
            load(tmp_path / "speed.json", {**about, name: other})
