"""Questions of several steps: their answers are right, and a run is stored once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import hops
from benchmarks.hops import Name, Options, Task, asked_in_test, guess, histories, last_questions, main, table
from latentloop.data.windows import Windows

TINY = Task(nodes=4, hops=3, questions=2, users=64, epochs=1, batch_size=32)


@given(
    nodes=st.integers(2, 7), most=st.integers(1, 6), questions=st.integers(1, 4), users=st.integers(1, 5),
    key=st.integers(0, 2**62),
)  # fmt: skip
def test_answers_are_what_the_told_edges_lead_to(nodes: int, most: int, questions: int, users: int, key: int) -> None:
    task = Task(nodes=nodes, hops=most, questions=questions)
    samples, steps = histories(task, users, key)
    assert len(samples) == users * (2 * questions - 1) and len(steps) == users
    for user in range(users):
        whole = samples.sequences.items[samples.sequences.offsets[user] :][: nodes + 2 * questions].tolist()
        leads = dict(divmod(item - 1, nodes) for item in whole[:nodes])
        assert set(leads) == set(range(nodes)) and all(0 <= to < nodes and to != at for at, to in leads.items())
        for number, (asked, answered) in enumerate(zip(whole[nodes::2], whole[nodes + 1 :: 2], strict=True)):
            at, left = divmod(asked - 1 - nodes**2, most)
            assert 0 <= left < most
            if number == questions - 1:
                assert steps[user] == left + 1
            for _ in range(left + 1):
                at = leads[at]
            assert answered == 1 + nodes**2 + nodes * most + at <= samples.num_items


def test_what_is_asked_stands_where_training_had_it() -> None:
    """A window of training is a whole history, and so is what is asked: edges, earlier questions, the last one."""
    train, _ = histories(TINY, 3, 5)
    asked, _ = last_questions(TINY, 3, 6)
    every = torch.arange(3)
    windows = Windows.of(train)
    assert len(windows) == 3 and len(asked) == 3
    for samples in (windows.samples, asked):
        rows = samples.history(every)
        assert rows.shape == (3, TINY.max_length) and rows.gt(0).all()
        assert rows[:, : TINY.nodes].le(TINY.nodes**2).all() and rows[:, TINY.nodes :].gt(TINY.nodes**2).all()
        assert samples.target(every).gt(TINY.nodes**2 + TINY.nodes * TINY.hops).all()


def test_a_run_is_stored_once_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "not" / "there" / "hops.jsonl"
    names: tuple[Name, ...] = ("plain, 2 + 2 layers", "loop, 2 + 2 layers, depth 4")
    options = Options(seeds=(0,), only=names, work=tmp_path / "work", task=TINY)
    main(options, stored)
    told = capsys.readouterr().out
    lines = [json.loads(line) for line in stored.read_text().splitlines()]
    assert [line["model"] for line in lines] == list(names)
    assert [list(line["recall@1"]) for line in lines] == [["1"], ["1", "2", "3", "4", "6", "8"]]
    for line in lines:
        assert all(len(values) == 3 and 0 <= min(values) <= max(values) <= 1 for values in line["recall@1"].values())
    means = " | ".join(f"{value:.2f}" for value in lines[1]["recall@1"]["4"])
    assert f"| {names[1]} | 0 | {means} |" in told
    monkeypatch.setattr(hops, "run", None)
    main(options, stored)
    assert capsys.readouterr().out == told


def test_another_task_does_not_continue_a_run(tmp_path: Path) -> None:
    for task in (TINY, dataclasses.replace(TINY, hops=2)):
        options = Options(seeds=(0,), only=("plain, 2 + 2 layers",), work=tmp_path / "work", task=task)
        main(options, tmp_path / "hops.jsonl")
    assert len((tmp_path / "hops.jsonl").read_text().splitlines()) == len(list((tmp_path / "work").iterdir())) == 2


def test_a_guess_is_the_node_that_most_edges_lead_to() -> None:
    samples, steps = asked_in_test(TINY, 3)
    right: dict[int, list[bool]] = {1: [], 2: [], 3: []}
    for row, number in zip(samples.sequences.items.view(len(samples), -1).tolist(), steps.tolist(), strict=True):
        reached = [(item - 1) % TINY.nodes for item in row[: TINY.nodes]]
        common = max(range(TINY.nodes), key=reached.count)
        right[number].append(row[-1] == 1 + TINY.nodes**2 + TINY.nodes * TINY.hops + common)
    assert guess(TINY, 3) == pytest.approx([sum(hits) / len(hits) for hits in right.values()])
    assert min(guess(TINY, 3)) > 1 / TINY.nodes


def test_the_table_takes_means_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hops, "guess", lambda task, seed: [task.nodes / 10, seed / 10][: task.hops])
    name, task = "plain, 2 + 2 layers", {"nodes": 4, "hops": 2}
    lines = [{"model": name, "seed": seed, "task": task, "recall@1": {"1": [1.0, seed / 4]}} for seed in (0, 2)]
    assert table(lines).splitlines()[2:] == [f"| {name} | 0, 2 | 1.00 | 0.25 |", "| a guess | 0, 2 | 0.40 | 0.10 |"]
    loop = "loop, 2 + 2 layers, depth 4"
    found = {"1": [0.25], "3": [0.5], "4": [0.75], "6": [1.0]}
    one = {"model": loop, "seed": 0, "task": {"nodes": 4, "hops": 1}, "recall@1": found}
    assert table([one]).splitlines() == [
        "| model | seeds | 1 step |",
        "|---|---|---:|",
        f"| {loop}, stopped at 1 | 0 | 0.25 |",
        f"| {loop}, stopped at 3 | 0 | 0.50 |",
        f"| {loop} | 0 | 0.75 |",
        "| a guess | 0 | 0.40 |",
    ]
