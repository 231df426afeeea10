"""Several processes do what one does: gradients, terms, ranks, stages, stops, and where they go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from latentloop.fitting.accelerator import make_accelerator
from tests.ranks.checks import CHECKS, OBJECTIVES, ROWS
from tests.ranks.launching import WORKER, torchrun

CLOSE = 1e-6  # of a tensor's largest number: where T_0 and scores are float32, sums of them differ in another order


@pytest.fixture(scope="module", params=[2, 3], ids=["two", "three"])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("together")
    ended = torchrun(str(WORKER), str(folder), processes=request.param)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    accelerator, folder = make_accelerator(device="cpu"), tmp_path_factory.mktemp("alone")
    return {
        name: CHECKS[name](accelerator, folder)
        for name in ("gradients", "ranking", "training", "breaking", "beginning")
    }


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = CLOSE) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        apart, largest = (found[name] - tensor).abs().max().item(), tensor.abs().max().item()
        assert apart <= tolerance * largest + 1e-9, f"{name}: {apart} apart, the largest number is {largest}"


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_and_terms_are_those_of_one_process(
    together: list[dict[str, Any]], alone: dict[str, Any], name: str, rows: int
) -> None:
    case = f"{name}, {rows} rows"
    wanted = alone["gradients"][case]
    assert wanted["total"] == rows
    assert rows == 1 or any(bool((value != 0).any()) for value in wanted["gradients"][0].values())
    for rank in together:
        found = rank["gradients"][case]
        assert found["total"] == rows
        assert len(found["gradients"]) == len(wanted["gradients"])
        for ours, theirs in zip(found["gradients"], wanted["gradients"], strict=True):
            close(ours, theirs)
        assert found["terms"] == pytest.approx(wanted["terms"], rel=1e-5, abs=1e-7)
    first, *others = (rank["gradients"][case]["gradients"] for rank in together)
    assert all(same(one, two) for other in others for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("total", [5, 4, 1])
def test_rows_come_from_all_and_gradients_go_to_all(together: list[dict[str, Any]], total: int) -> None:
    world = len(together)
    order = [row for rank in range(world) for row in range(rank, total, world)]  # one process after the other
    weight = sum(range(1, world + 1))
    for rank, found in enumerate(each["gathering"][str(total)] for each in together):
        assert found["rows"][:, 0].tolist() == order
        own = [place for place, row in enumerate(order) if row % world == rank]
        # process r weighs its sum by (1 + r) x place, two of them by 3 x place; a row that stands in gets nothing
        assert found["gradient"][:, 0].tolist() == ([weight * place for place in own] or [0.0])
        assert found["factor"] == pytest.approx(world * len(own) / total)


def test_each_row_is_ranked_once_and_all_know_all_ranks(together: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    wanted = alone["ranking"]
    for rank in together:
        found = rank["ranking"]
        assert found["metrics"] == wanted["metrics"]
        assert same(found["ranks"], wanted["ranks"])
        assert torch.equal(found["kept"], wanted["kept"])
    assert 0 < len(wanted["kept"])


@pytest.mark.parametrize("name", ["spt", "depth 1", "rpt", "sampled"])
def test_stages_think_equally_deep_stop_together_and_end_where_one_process_does(
    together: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    wanted = alone["training"][name]
    first, *others = (rank["training"][name] for rank in together)
    for other in others:
        assert same(first["weights"], other["weights"])
        assert (first["depths"], first["lines"], first["best"]) == (other["depths"], other["lines"], other["best"])
    assert (first["depths"], first["best"]) == (wanted["depths"], wanted["best"])
    assert len(first["lines"]) == len(wanted["lines"])
    for ours, theirs in zip(first["lines"], wanted["lines"], strict=True):
        assert ours.keys() == theirs.keys()
        assert {n: v for n, v in ours.items() if n != "stage"} == pytest.approx(
            {n: v for n, v in theirs.items() if n != "stage"}, rel=1e-4, abs=1e-6
        )
    close(first["weights"], wanted["weights"], 1e-4)


def test_depths_differ_between_steps(alone: dict[str, Any]) -> None:
    assert len(set(alone["training"]["spt"]["depths"])) > 1
    assert set(alone["training"]["depth 1"]["depths"]) == {1}


def test_a_resumed_stage_ends_with_the_same_bits(together: list[dict[str, Any]]) -> None:
    for rank in together:
        assert same(rank["resuming"]["whole"], rank["resuming"]["resumed"])
        assert rank["resuming"]["lines"] == [2, 2]
        assert same(rank["resuming"]["whole"], together[0]["resuming"]["whole"])


def test_a_number_that_breaks_in_one_process_stops_all_in_that_step(
    together: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for found in [alone, *together]:
        assert "loss is nan at step 2 of epoch 1" in found["breaking"]["said"]


def test_all_begin_with_the_weights_of_the_first(together: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert all(same(rank["beginning"], alone["beginning"]) for rank in together)
