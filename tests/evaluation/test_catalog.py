"""Samples of other items than the model's are refused, and histories that are cut shorter than it reads are told."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from latentloop import catalog
from latentloop.catalog import check_catalog
from latentloop.data.interactions import Interactions
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError
from latentloop.evaluation import evaluate
from latentloop.items.ids import check_numbering
from latentloop.measures.significance import compare
from latentloop.objectives import NextItem
from latentloop.recommender import Recommender
from latentloop.training import fit, make_accelerator
from latentloop.two_stage import two_stage

LOG = synthetic_log(num_users=60, num_items=40, seed=2)


def model_of(num_items: int = 40, max_length: int = 20) -> Recommender:
    torch.manual_seed(0)
    return Recommender(num_items, nn.GRU(8, 8, batch_first=True), dim=8, max_length=max_length, dropout=0.0)


def named(ids: list[int] | list[str]) -> Interactions:
    return replace(LOG, item_ids=ids)


def trained(model: Recommender, data: Interactions) -> Recommender:
    split = leave_one_out(data)
    fit(model, split.train, split.validation, NextItem(), epochs=1, accelerator=make_accelerator(device="cpu"))
    return model


def test_a_fitted_model_answers_in_the_datas_ids() -> None:
    names = [f"item {number:02}" for number in range(1, 41)]
    model = trained(model_of(), named(names))
    assert model.item_ids is not None and list(model.item_ids) == names
    assert set(model.recommend([["item 03", "item 07"]], k=5).items[0]) <= set(names)


def test_ids_that_the_model_has_already_stay() -> None:
    """Titles of items that the data calls by number, say."""
    titles = [f"title {number}" for number in range(1, 41)]
    model = model_of()
    model.item_ids = titles
    assert list(trained(model, named(list(range(101, 141)))).item_ids or ()) == titles


@pytest.mark.parametrize("text", [False, True])
def test_another_numbering_of_known_items_is_refused(text: bool) -> None:
    """One item left and one came, so that every number after it means another item."""
    before, after = list(range(101, 141)), list(range(102, 142))
    known, other = (named(list(map(str, ids)) if text else ids) for ids in (before, after))
    model = trained(model_of(), named(before))
    evaluate(model, leave_one_out(known).test)
    message = "item 1 is '?102'? there and '?101'? in the model"
    with pytest.raises(InputError, match=f"^samples: {message}"):
        evaluate(model, leave_one_out(other).test)
    with pytest.raises(InputError, match=f"^train: {message}"):
        trained(model, other)
    before_work = trained(model_of(), named(before))
    with pytest.raises(InputError, match=f"^data: {message}"):
        two_stage(before_work, other, epochs=1, rpt_epochs=0, device="cpu")


def test_ids_of_more_items_than_the_model_knows_are_refused() -> None:
    with pytest.raises(InputError, match="^bonus: ids of 3 items, but the model knows 2$"):
        check_numbering([101, 102], [101, 102, 103], "bonus")


def test_an_item_that_took_anothers_place_is_refused() -> None:
    """The last one in order left, and a new one came after: all other numbers still mean what they meant."""
    model = trained(model_of(), named(list(range(101, 141))))
    with pytest.raises(InputError, match="item 40 is 999 there and 140 in the model"):
        evaluate(model, leave_one_out(named([*range(101, 140), 999])).test)


def test_validation_of_other_items_than_training_is_refused() -> None:
    split, other = leave_one_out(named(list(range(101, 141)))), leave_one_out(named(list(range(102, 142))))
    model = model_of()
    with pytest.raises(InputError, match="^validation: item 1 is 102 there and 101"):
        fit(model, split.train, other.validation, NextItem(), epochs=1, accelerator=make_accelerator(device="cpu"))
    assert model.item_ids is None


def test_whoever_thinks_may_keep_ids_of_another_kind() -> None:
    model = model_of()
    thinker = SimpleNamespace(num_items=40, item_ids=["x"] * 40, max_length=None)
    check_catalog(thinker, leave_one_out(LOG).test)
    assert catalog.cut_of(thinker, leave_one_out(LOG).test) is None
    model.item_ids = range(101, 141)
    assert copy.deepcopy(model).item_ids is model.item_ids


def test_models_and_samples_without_ids_are_compared_by_number_alone() -> None:
    split = leave_one_out(LOG)
    bare = replace(split.test, sequences=replace(split.test.sequences, item_ids=None))
    model = trained(model_of(), named(list(range(101, 141))))
    check_catalog(model, bare)
    check_catalog(model_of(), split.test)
    with pytest.raises(InputError, match="of a catalog of 40 items, but the model knows 41"):
        check_catalog(model_of(41), split.test)


def test_a_history_that_is_cut_shorter_than_the_model_reads_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(max_length=12)
    catalog._warn.cache_clear()  # it is told once
    whole, short = leave_one_out(LOG, 12).test, leave_one_out(LOG, 3).test
    with caplog.at_level(logging.WARNING):
        first = evaluate(model, whole)
        assert not caplog.records and first.protocol.cut is None
        evaluate(model, leave_one_out(LOG, 30).test)
        assert not caplog.records
        second = evaluate(model, short)
        evaluate(model, short)
    assert caplog.text.count("newest 3 items of a history, and the model reads 12") == 1
    assert "histories cut to 3 items" in str(second.protocol) and "cut" not in str(first.protocol)
    assert compare(first, second).users == len(whole)  # of one protocol but for what the model was given
    assert evaluate(model_of(max_length=60), leave_one_out(LOG, 50).test).protocol.cut is None  # nobody has so many
