"""How fast and how large: both training stages, ranking, recommending, data, depth and catalog, each against a twin.

python -m benchmarks.speed                    # five minutes on two cores
python -m benchmarks.speed --full             # all sizes, some thirty minutes
python -m benchmarks.speed --against FILE     # ends with 1 where a ratio fell beyond the noise of both runs
"""

from __future__ import annotations

import copy
import json
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
import tyro

from benchmarks.timing import Timing, paired, peak_memory, save, table
from benchmarks.twins import full_ranks, rpt_loss, spt_loss
from benchmarks.world import LENGTH, loop, padded_twin, random_log, random_split
from latentloop.data.batch import Batch, batches
from latentloop.data.kcore import k_core
from latentloop.data.positives import SameTarget
from latentloop.data.readers import load_interactions
from latentloop.data.sequences import Sequences
from latentloop.data.splits import Split, leave_one_out
from latentloop.depth import FixedDepth
from latentloop.evaluation import evaluate
from latentloop.item_softmax import cross_entropy
from latentloop.objectives import RPT, SPT
from latentloop.objectives.views import encode_views
from latentloop.randomness import dropout_seed
from latentloop.recommender import Recommender

INSTRUMENT = (57_439, 24_587, 8.9)
"""Users, items and average length of the paper's Instrument data."""
SPT_FLOPS, RPT_FLOPS, RANK_FLOPS = 47e6, 280e6, 9e6
"""Operations a sample, a sample and a user at that size, counted by hand: blocks on real tokens, and item scores."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    full: bool = False
    """All sizes instead of the five-minute choice."""
    threads: int = 2
    """CPU threads."""
    repeats: int = 5
    """Turns of each pair."""
    out: Path = Path("benchmarks/results")
    """Folder for speed.json and speed.md."""
    against: Path | None = None
    """A stored speed.json: say which ratios fell beyond noise."""
    only: str | None = None
    """Measure only the case of this name."""
    memory_of: str | None = None
    """Run one case once and print this process's peak memory in MiB; used by the benchmark itself."""


def spt(options: Options) -> Iterator[Timing]:
    """Pre-training steps of 1024 samples, the making of batches included."""
    split, steps = random_split(*INSTRUMENT), 4
    yield _training("SPT", split, 1024, steps, options, _spt_step, _spt_twin, SPT_FLOPS)


def rpt(options: Options) -> Iterator[Timing]:
    """Post-training steps of 256 samples with 4 rollouts."""
    split, steps = random_split(*INSTRUMENT), 2
    yield _training("RPT", split, 256, steps, options, _rpt_step, _rpt_twin, RPT_FLOPS)


def ranking(options: Options) -> Iterator[Timing]:
    """The target's rank among all items."""
    split = random_split(*INSTRUMENT)
    model, plain = loop(split.num_items).eval(), padded_twin(split.num_items).eval()
    users = 8192
    samples = split.test.select(torch.arange(users))
    history, target = samples.history(torch.arange(users)), samples.target(torch.arange(users))

    def twin() -> None:
        with torch.no_grad():
            for start in range(0, users, 1024):
                full_ranks(plain, history[start : start + 1024], target[start : start + 1024])

    yield paired(
        "full ranking", "users", users, lambda: evaluate(model, samples), twin,
        repeats=options.repeats, flops=RANK_FLOPS * users,
    )  # fmt: skip


def recommending(options: Options) -> Iterator[Timing]:
    """The ten best items of each user, the history left out."""
    split = random_split(*INSTRUMENT)
    model, plain = loop(split.num_items).eval(), padded_twin(split.num_items).eval()
    users = 4096
    samples = split.test.select(torch.arange(users))
    history = samples.history(torch.arange(users))

    def twin() -> None:
        with torch.no_grad():
            for start in range(0, users, 1024):
                rows = history[start : start + 1024]
                scores = plain.score(rows)
                padded = torch.nn.functional.pad(scores, (1, 0))
                padded.scatter_(1, rows, -torch.inf)[:, 1:].topk(10)

    yield paired("recommend", "users", users, lambda: model.recommend(history), twin, repeats=options.repeats)


def data(options: Options) -> Iterator[Timing]:
    """Reading Parquet, 5-core, sequences and the index of same targets."""
    import pandas as pd

    rows = 20_000_000 if options.full else 1_000_000
    log = random_log(rows // 10, rows // 50, 10.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        frame = pd.DataFrame({"user": log.user.numpy(), "item": log.item.numpy()})
        frame["timestamp"] = range(len(frame))
        frame.sample(frac=1, random_state=0).to_parquet(path)
        del frame

        def fast() -> None:
            interactions = k_core(load_interactions(path), 5)
            Sequences.of(interactions)
            SameTarget(leave_one_out(interactions, LENGTH).train)

        def twin() -> None:
            table = pd.read_parquet(path).sort_values(["user", "timestamp"])
            while True:
                counts = (
                    table.groupby("item")["item"].transform("size"),
                    table.groupby("user")["user"].transform("size"),
                )
                kept = table[(counts[0] >= 5) & (counts[1] >= 5)]
                if len(kept) == len(table):
                    break
                table = kept
            table["user"], table["item"] = table["user"].factorize()[0], table["item"].factorize()[0] + 1
            table.groupby("user")["item"].agg(list)
            _ = table.groupby("item").indices

        yield paired("data", "rows", len(log), fast, twin, repeats=1 if options.full else 3)


def depths(options: Options) -> Iterator[Timing]:
    """A pre-training step at each depth: a line, and the same code at every depth."""
    split = random_split(*INSTRUMENT)
    for depth in (1, 2, 4, 8) if options.full else (1, 4):
        model = loop(split.num_items)
        model.encoder.depth_law = FixedDepth(depth)
        run = _stepper(model, _spt_step, split, 1024, 2)
        yield paired(f"SPT at depth {depth}", "samples", 2 * 1024, run, repeats=options.repeats)


def catalogs(options: Options) -> Iterator[Timing]:
    """The next-item loss and its gradients for 1024 rows, chunked against whole."""
    for items in (24_587, 100_000, 1_000_000) if options.full else (24_587, 100_000):
        queries = torch.randn(1024, 64, requires_grad=True)
        keys = (0.1 * torch.randn(items, 64)).requires_grad_()
        target = torch.randint(1, items + 1, (1024,))

        def fast(queries: torch.Tensor = queries, keys: torch.Tensor = keys, target: torch.Tensor = target) -> None:
            torch.autograd.grad(cross_entropy(queries, keys, target), (queries, keys))

        def twin(queries: torch.Tensor = queries, keys: torch.Tensor = keys, target: torch.Tensor = target) -> None:
            loss = torch.nn.functional.cross_entropy(queries @ keys.T, target - 1)
            torch.autograd.grad(loss, (queries, keys))

        too_large = items > 200_000  # 4 GB a copy
        yield paired(
            f"next-item loss, {items:,} items", "rows", 1024, fast, None if too_large else twin,
            repeats=options.repeats, flops=1024 * items * 64 * 2 * 4,
        )  # fmt: skip


CASES: dict[str, Callable[[Options], Iterator[Timing]]] = {
    "spt": spt, "rpt": rpt, "ranking": ranking, "recommending": recommending, "data": data, "depths": depths,
    "catalogs": catalogs,
}  # fmt: skip
WITH_MEMORY = {"SPT": "spt", "RPT": "rpt"}


def _training(
    name: str,
    split: Split,
    batch_size: int,
    steps: int,
    options: Options,
    step: Callable[[Recommender, Batch], torch.Tensor],
    twin: Callable[[Recommender, Batch], torch.Tensor],
    flops: float,
) -> Timing:
    fast = _stepper(loop(split.num_items), step, split, batch_size, steps)
    plain = _stepper(padded_twin(split.num_items), twin, split, batch_size, steps)
    units = batch_size * steps
    return paired(name, "samples", units, fast, plain, repeats=options.repeats, flops=flops * units)


def _stepper(
    model: Recommender,
    step: Callable[[Recommender, Batch], torch.Tensor],
    split: Split,
    batch_size: int,
    steps: int,
) -> Callable[[], None]:
    """Some optimizer steps from the start of an epoch: every call sees the same batches and depths."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    positives = SameTarget(split.train)
    model.train()

    def run() -> None:
        for batch in islice(batches(split.train, batch_size, key=0, epoch=1, same_target=positives), steps):
            with dropout_seed(batch.key, model.device):
                step(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def _spt_step(model: Recommender, batch: Batch, objective: SPT | None = None) -> torch.Tensor:
    objective = objective or SPT()
    return objective(encode_views(model, batch, objective.views), batch)[0]


def _spt_twin(model: Recommender, batch: Batch) -> torch.Tensor:
    return spt_loss(model, batch)


_references: dict[int, Recommender] = {}
_objectives: dict[int, RPT] = {}


def _rpt_step(model: Recommender, batch: Batch) -> torch.Tensor:
    if id(model) not in _objectives:
        _objectives[id(model)] = RPT()
        _objectives[id(model)].start(model)
    objective = _objectives[id(model)]
    prepared = objective.prepare(model, replace(batch, same_target=None))
    return objective(encode_views(model, prepared, ()), prepared)[0]


def _rpt_twin(model: Recommender, batch: Batch) -> torch.Tensor:
    if id(model) not in _references:
        _references[id(model)] = copy.deepcopy(model).eval()
    return rpt_loss(model, _references[id(model)], batch)


def _memory(name: str) -> None:
    """One step of a case in this process alone, then its peak."""
    stage, _, kind = name.partition(":")
    split = random_split(*INSTRUMENT)
    model = (loop if kind == "fast" else padded_twin)(split.num_items)
    steps = {"spt:fast": _spt_step, "spt:twin": _spt_twin, "rpt:fast": _rpt_step, "rpt:twin": _rpt_twin}
    _stepper(model, steps[name], split, 1024 if stage == "spt" else 256, 3)()
    print(_peak())


def _peak() -> float:
    """Peak resident memory of this process in MiB; `getrusage` would count what the parent held when it forked."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _fallen(timings: list[Timing], stored: Path) -> list[str]:
    """Cases whose ratio to the twin fell below all of the stored run's repeats, and all of whose repeats did."""
    before = {timing["case"]: timing for timing in json.loads(stored.read_text())["timings"]}
    return [
        f"{timing.case}: ratio {timing.ratio:.2f}, was {before[timing.case]['ratio']:.2f}"
        for timing in timings
        if timing.ratio_high is not None
        and before.get(timing.case, {}).get("ratio_low") is not None
        and timing.ratio_high < before[timing.case]["ratio_low"]
    ]


def main() -> None:
    """Measure, print the table, and write both files."""
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    if options.memory_of is not None:
        _memory(options.memory_of)
        return
    timings: list[Timing] = []
    for name, case in CASES.items():
        if options.only not in (None, name):
            continue
        for timing in case(options):
            if timing.case in WITH_MEMORY:
                stage = WITH_MEMORY[timing.case]
                arguments = ("--threads", str(options.threads), "--memory-of")
                timing = replace(
                    timing,
                    memory=peak_memory(*arguments, f"{stage}:fast"),
                    twin_memory=peak_memory(*arguments, f"{stage}:twin"),
                )
            timings.append(timing)
            print(table([timing]).splitlines()[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    save(options.out / "speed.json", timings)
    (options.out / "speed.md").write_text(table(timings) + "\n")
    if options.against is not None and (fallen := _fallen(timings, options.against)):
        sys.exit("slower than stored:\n" + "\n".join(fallen))


if __name__ == "__main__":
    main()
