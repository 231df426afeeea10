"""Order, positives, depth, T_0 and dropout are drawn apart: what one of them comes to changes none of the others."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from latentloop.backbones.sasrec import SASRec
from latentloop.data.batch import Batch
from latentloop.data.splits import Split, leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.depth import DepthLaw, FixedDepth, LogNormalPoisson
from latentloop.objectives import NextItem, Views
from latentloop.recipes import build_recommender
from latentloop.training import fit, make_accelerator


@pytest.fixture(scope="module")
def split() -> Split:
    return leave_one_out(synthetic_log(num_users=60, num_items=30, seed=2), 8)


@dataclass
class Listener:
    """The next-item loss, and what each step was given."""

    views: tuple[str, ...]
    rows: list[Tensor] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    positives: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    thoughts: list[Tensor] = field(default_factory=list)

    def __call__(self, views: Views, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.rows.append(batch.rows)
        self.depths.append(views["anchor"].depth)
        self.thoughts.append(views["anchor"].final.detach().clone())
        if batch.same_target is not None:
            self.positives.append(batch.same_target)
        return NextItem()(views, batch)


def heard(
    split: Split,
    monkeypatch: pytest.MonkeyPatch,
    *,
    law: DepthLaw | None = None,
    dropout: float = 0.2,
    views: tuple[str, ...] = ("anchor", "same_target"),
) -> Listener:
    torch.manual_seed(0)
    backbone = SASRec(pre_layers=1, core_layers=1, inner=16, dropout=dropout)
    law = LogNormalPoisson(3) if law is None else law
    model = build_recommender(backbone, split.num_items, dim=8, max_length=8, dropout=dropout, depth_law=law)
    listener, draw = Listener(views), model.encoder.draw_state

    def listening(keys: Tensor, slots: Tensor) -> Tensor:
        listener.states.append(draw(keys, slots))
        return listener.states[-1]

    monkeypatch.setattr(model.encoder, "draw_state", listening)
    accelerator = make_accelerator(device="cpu")
    fit(model, split.train, split.validation, listener, epochs=2, batch_size=64, accelerator=accelerator)
    return listener


def alike(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) > 4 and all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_each_is_drawn_anew_at_each_step_and_apart_from_the_others(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = heard(split, monkeypatch)
    assert len(set(usual.depths)) > 2
    assert not torch.equal(usual.rows[0], usual.rows[len(usual.rows) // 2])  # the second epoch begins

    undropped = heard(split, monkeypatch, dropout=0.0)
    assert not torch.equal(undropped.thoughts[0], usual.thoughts[0])
    assert alike(undropped.rows, usual.rows) and undropped.depths == usual.depths
    assert alike(undropped.states, usual.states) and alike(undropped.positives, usual.positives)

    shallow = heard(split, monkeypatch, law=FixedDepth(2))
    assert set(shallow.depths) == {2}
    assert alike(shallow.rows, usual.rows)
    assert alike(shallow.states, usual.states) and alike(shallow.positives, usual.positives)

    unpaired = heard(split, monkeypatch, views=("anchor",))
    assert not unpaired.positives
    assert alike(unpaired.rows, usual.rows) and unpaired.depths == usual.depths
    first = [state[: len(other)] for state, other in zip(usual.states, unpaired.states, strict=True)]
    assert alike(unpaired.states, first)  # the anchor's, which come before the other view's
