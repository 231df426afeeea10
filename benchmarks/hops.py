"""Questions that take several look-ups: does a loop think where there is something to think about?

Every user has a map f of their own that leads from each node to some other. A history tells it, an item for each edge
a -> f(a) in random order, then asks questions, each an item "start at a, take p steps", followed by its answer, the item
of node f^p(a). One look at the history answers one step, and nothing that was learned of other users helps. Models are
trained at every position from the first answer on, and tested on the last question of other users, whose items stand
at the positions that they had in training. Maps run into cycles, so many steps end at few nodes: a guess is the node
that most edges lead to.

    python -m benchmarks.hops --seeds 0 1 2 --only "plain, 1 + 1 layers" "loop, 1 + 1 layers, depth 4"

prints recall at 1 for each number of steps. Lines are kept in `benchmarks/results/hops.jsonl`, and what is there is not
run again: of one CPU core a plain model of four layers takes five minutes, of ten a quarter of an hour.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from benchmarks.told import told
from latentloop.backbones.sasrec import SASRec
from latentloop.data.sequences import Samples, Sequences
from latentloop.depth import DepthLaw, FixedDepth, LogNormalPoisson
from latentloop.evaluation import ranks
from latentloop.objectives import NextItemEverywhere
from latentloop.randomness import dropout_seed, fold, generator
from latentloop.recipes import build_recommender
from latentloop.runs.directory import RunDirectory
from latentloop.training import fit

STORED = Path("benchmarks/results/hops.jsonl")
Name = Literal[
    "plain, 1 + 1 layers", "plain, 1 + 4 layers", "plain, 1 + 8 layers", "loop, 1 + 1 layers, depth 4",
    "loop, 1 + 1 layers, depth 4, norms of each thought", "loop, 1 + 1 layers, depth 8",
    "loop, 1 + 1 layers, depth 8, norms of each thought", "loop, 1 + 1 layers, k-bar 3",
    "plain, 2 + 2 layers", "plain, 2 + 8 layers", "loop, 2 + 2 layers, depth 4", "loop, 2 + 2 layers, k-bar 3",
]  # fmt: skip
MODELS: dict[Name, tuple[int, int, DepthLaw | None, int]] = {
    "plain, 1 + 1 layers": (1, 1, None, 0),
    "plain, 1 + 4 layers": (1, 4, None, 0),
    "plain, 1 + 8 layers": (1, 8, None, 0),
    "loop, 1 + 1 layers, depth 4": (1, 1, FixedDepth(4), 0),
    "loop, 1 + 1 layers, depth 4, norms of each thought": (1, 1, FixedDepth(4), 4),
    "loop, 1 + 1 layers, depth 8": (1, 1, FixedDepth(8), 0),
    "loop, 1 + 1 layers, depth 8, norms of each thought": (1, 1, FixedDepth(8), 8),
    "loop, 1 + 1 layers, k-bar 3": (1, 1, LogNormalPoisson(3), 0),
    "plain, 2 + 2 layers": (2, 2, None, 0),
    "plain, 2 + 8 layers": (2, 8, None, 0),
    "loop, 2 + 2 layers, depth 4": (2, 2, FixedDepth(4), 0),
    "loop, 2 + 2 layers, k-bar 3": (2, 2, LogNormalPoisson(3), 0),
}
"""Layers before the core and of it, what a loop's depth is drawn from, and how many thoughts have norms of their own."""
DEPTHS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Task:
    """What is asked, and how long is learned.

    Args:
        nodes: of each user's map.
        hops: the most steps that are asked for.
        questions: in a history.
        users: training histories.
        epochs: over them.
        learning_rate: decays along a cosine.
        batch_size: histories of a step.
    """

    nodes: int = 8
    hops: int = 8
    questions: int = 8
    users: int = 60_000
    epochs: int = 8
    learning_rate: float = 2e-3
    batch_size: int = 128

    @property
    def max_length(self) -> int:
        """L: a whole history but for its last answer."""
        return self.nodes + 2 * self.questions - 1


@dataclass(frozen=True)
class Options:
    """Which runs."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of data and weights."""
    only: tuple[Name, ...] = tuple(MODELS)
    """Which models."""
    work: Path = Path("runs/hops")
    """Where unfinished runs are kept."""
    task: Task = Task()


def histories(task: Task, users: int, key: int) -> tuple[Samples, Tensor]:
    """Histories with the samples from their first answer on, and how many steps each last question asks for.

    Args:
        task: of what kind.
        users: U.
        key: of the draw.

    Returns:
        the samples, 2 * questions - 1 a user, and (U,) int64.
    """
    draw, nodes, questions = generator(key), task.nodes, task.questions
    leads = torch.randint(nodes - 1, (users, nodes), generator=draw)
    leads = leads + (leads >= torch.arange(nodes))  # no node leads to itself
    told = torch.rand(users, nodes, generator=draw).argsort(1)
    edges = told * nodes + leads.gather(1, told)
    start = torch.randint(nodes, (users, questions), generator=draw)
    steps = torch.randint(1, task.hops + 1, (users, questions), generator=draw)
    answer = start
    for step in range(task.hops):
        answer = torch.where(step < steps, leads.gather(1, answer), answer)
    asked = nodes**2 + start * task.hops + steps - 1
    answered = nodes**2 + nodes * task.hops + answer
    items = torch.cat([edges, torch.stack([asked, answered], 2).flatten(1)], 1) + 1
    length, number = items.shape[1], torch.arange(users)
    sequences = Sequences(items.flatten().int(), torch.arange(users + 1) * length, nodes * (nodes + task.hops + 1))
    ends = torch.arange(nodes + 1, length)
    ends = (number[:, None] * length + ends).flatten()
    return Samples(sequences, number.repeat_interleave(len(ends) // users), ends, task.max_length), steps[:, -1]


def last_questions(task: Task, users: int, key: int) -> tuple[Samples, Tensor]:
    """Histories' last questions, one sample a user, and their steps.

    A question at another place of a history would ask for edges at positions where training had none.
    """
    samples, steps = histories(task, users, key)
    each = len(samples) // users
    return samples.select(torch.arange(each - 1, len(samples), each)), steps


def asked_in_test(task: Task, seed: int) -> tuple[Samples, Tensor]:
    """The 6,000 questions that a seed's models are tested on, and their steps."""
    return last_questions(task, 6000, fold(seed, "test"))


def guess(task: Task, seed: int) -> list[float]:
    """Recall at 1 by steps of the node that most edges lead to, of equal ones the first."""
    test, steps = asked_in_test(task, seed)
    edges = test.sequences.items.view(len(test), -1)[:, : task.nodes]
    common = ((edges - 1) % task.nodes).mode(1).values
    return _by_steps(test.target(torch.arange(len(test))) == 1 + task.nodes * (task.nodes + task.hops) + common, steps)


def run(name: Name, task: Task, seed: int, work: Path) -> dict[str, Any]:
    """Train one model and return its line: recall at 1 for 1, 2, ... steps, of a loop at several depths.

    Args:
        name: of `MODELS`.
        task: the task.
        seed: of data and weights.
        work: where the run is kept until it is finished.
    """
    began = time.perf_counter()
    train, _ = histories(task, task.users, fold(seed, "train"))
    validation, _ = last_questions(task, 2000, fold(seed, "validation"))
    test, steps = asked_in_test(task, seed)
    pre_layers, core_layers, law, own_norms = MODELS[name]
    with dropout_seed(fold(seed, "weights"), torch.device("cpu")):
        model = build_recommender(
            SASRec(pre_layers=pre_layers, core_layers=core_layers, dropout=0.0), train.num_items, dim=64,
            max_length=task.max_length, loop=law is not None, depth_law=law, own_norms=own_norms,
            dropout=0.0, seed=seed,
        )  # fmt: skip
    config = {"model": name, "seed": seed} | dataclasses.asdict(task)
    where = work / f"{fold(seed, json.dumps(config)):016x}"  # of this model and task alone
    directory = RunDirectory.create(where, config, resume=(where / "config.json").is_file())
    fit(
        model, train, validation, NextItemEverywhere(), run=directory, epochs=task.epochs, batch_size=task.batch_size,
        learning_rate=task.learning_rate, schedule="cosine", metric="mrr", patience=task.epochs, seed=seed,
    )  # fmt: skip
    depths = DEPTHS if law is not None else (1,)
    found = {
        str(depth): _by_steps(rank.greater == 0, steps) for depth, rank in ranks(model, test, depths=depths).items()
    }
    return {
        "model": name, "seed": seed, "task": dataclasses.asdict(task), "recall@1": found,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def _by_steps(hit: Tensor, steps: Tensor) -> list[float]:
    return [float(hit[steps == number].double().mean()) for number in range(1, int(steps.max()) + 1)]


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Recall at 1 by the steps that were asked for, means over seeds: of loops after each thought up to training's depth.

    Args:
        lines: of one task.
    """
    count = max((len(line["recall@1"][_usual(line)]) for line in lines), default=0)
    heads = " | ".join(f"{number} step{'s' * (number > 1)}" for number in range(1, count + 1))
    text = [f"| model | seeds | {heads} |", "|---|---|" + "---:|" * count]
    for name in MODELS:
        own = [line for line in lines if line["model"] == name]
        for depth in own[0]["recall@1"] if own else ():
            if int(depth) <= int(_usual(own[0])):
                columns = zip(*(line["recall@1"][depth] for line in own), strict=True)
                means = " | ".join(f"{statistics.mean(column):.2f}" for column in columns)
                early = "" if depth == _usual(own[0]) else f", stopped at {depth}"
                text.append(f"| {name}{early} | {', '.join(str(line['seed']) for line in own)} | {means} |")
    seeds = sorted({line["seed"] for line in lines})
    if lines:
        chance = zip(*(guess(Task(**lines[0]["task"]), seed) for seed in seeds), strict=True)
        means = " | ".join(f"{statistics.mean(column):.2f}" for column in chance)
        text.append(f"| a guess | {', '.join(map(str, seeds))} | {means} |")
    return "\n".join(text)


def _usual(line: dict[str, Any]) -> str:
    law = MODELS[line["model"]][2]
    return "1" if law is None else str(law.inference_depth)


def main(options: Options, stored: Path = STORED) -> None:
    """Run what is not stored and print the table of what was asked for."""
    stored.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in stored.read_text().splitlines()] if stored.is_file() else []
    wanted = [(name, seed) for seed in options.seeds for name in options.only]
    task = dataclasses.asdict(options.task)
    for name, seed in wanted:
        if not any((line["model"], line["seed"], line["task"]) == (name, seed, task) for line in lines):
            lines.append(run(name, options.task, seed, options.work))
            with stored.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    print(table([line for line in lines if line["task"] == task and (line["model"], line["seed"]) in wanted]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with told():
        main(tyro.cli(Options))
