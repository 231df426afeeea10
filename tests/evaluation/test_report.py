"""What the report says in words: whether post-training ran and won, and never more than one seed can tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from latentloop.backbones.sasrec import SASRec
from latentloop.data.card import DataCard
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.evaluation import Evaluation
from latentloop.measures.metrics import Ranks, metric_table
from latentloop.measures.significance import caveat
from latentloop.recipes import build_recommender
from latentloop.repeats import Repeats, repeats
from latentloop.runs import report
from latentloop.runs.directory import RunDirectory
from latentloop.runs.report import verdicts, write_report
from latentloop.training import Fitted
from latentloop.two_stage import Outcome, TwoStage, two_stage


@pytest.fixture(scope="module")
def without_rpt() -> TwoStage:
    split = leave_one_out(synthetic_log(num_users=60, num_items=30, seed=1), 5)
    model = build_recommender(SASRec(1, 1, heads=1, inner=8), split.num_items, dim=8, max_length=5)
    return two_stage(model, split, epochs=1, rpt_epochs=0, device="cpu")


def test_what_the_recipe_came_to_is_shown_in_a_line(without_rpt: TwoStage) -> None:
    told = repr(without_rpt)
    assert told.startswith(
        "TwoStage(Recommender, outcomes=['chance', 'popularity', 'followers', 'spt'], train_samples="
    )
    assert told.endswith(f", split={without_rpt.split!r})")
    assert f"kept_samples={without_rpt.kept_samples}, " in told and "\n" not in told and len(told) < 400


def outcome(like: Outcome, rank: int, best_epoch: int, seeds: tuple[int, ...] = (0,)) -> Outcome:
    """Every user's target ranked alike but for a little, so that any two outcomes differ beyond doubt."""
    users = len(like.test.user)
    greater = torch.full((users,), rank)
    greater[::7] += 1
    ranks = Ranks(greater, torch.zeros(users, dtype=torch.int64))
    test = like.test
    protocol = replace(test.protocol, seeds=seeds)
    evaluation = Evaluation(metric_table(ranks), protocol, ranks, test.user, test.cutoffs)
    return Outcome(evaluation, evaluation, Fitted("rpt", best_epoch, 0.1, "ndcg@10", 3, []))


def with_rpt(result: TwoStage, **changes: Any) -> TwoStage:
    spt = outcome(result.outcomes["spt"], 5, 1, changes.get("seeds", (0,)))
    return replace(result, outcomes={**result.outcomes, "spt": spt, "rpt": outcome(spt, 1, **changes)})


def test_post_training_that_never_ran_lost_to_nothing(without_rpt: TwoStage) -> None:
    assert not without_rpt.pretrained_won
    said, learning, repeated = verdicts(without_rpt)
    assert said == "Post-training (RPT): not run."
    tests = [without_rpt.outcomes[name].test.metrics["ndcg@10"] for name in ("followers", "spt")]
    assert learning.startswith("Learning (SPT against Followers, which counts what follows what): test NDCG@10 ")
    assert "{:.4f} -> {:.4f}".format(*tests) in learning
    nothing_kept = verdicts(replace(without_rpt, kept_samples=0))
    assert repeated == nothing_kept[2] and len(nothing_kept) == 3 and "not run, no training sample" in nothing_kept[0]


def test_the_pretrained_model_won_where_no_epoch_beat_it(without_rpt: TwoStage) -> None:
    assert with_rpt(without_rpt, best_epoch=0).pretrained_won
    assert "no epoch beat the pre-trained model" in verdicts(with_rpt(without_rpt, best_epoch=0))[0]
    for epoch, answer in ((0, "SPT"), (2, "RPT")):  # the answer is what is held against counting
        assert verdicts(with_rpt(without_rpt, best_epoch=epoch))[2].startswith(f"Learning ({answer} against")
    assert not with_rpt(without_rpt, best_epoch=2).pretrained_won


@pytest.mark.parametrize(("seeds", "words"), [((3,), "in one seed: another may differ"), ((3, 4), "in 2 seeds")])
def test_a_difference_of_few_seeds_is_worded_as_theirs_however_small_p(
    without_rpt: TwoStage, seeds: tuple[int, ...], words: str
) -> None:
    said = verdicts(with_rpt(without_rpt, best_epoch=2, seeds=seeds))[0]
    assert float(said.split("p = ")[1].rstrip(").")) < 1e-6
    assert words in said
    assert "in 3 seeds" not in verdicts(with_rpt(without_rpt, best_epoch=2, seeds=(3, 4, 5)))[0]


@pytest.mark.parametrize("differ", [False, True])
def test_what_users_already_have_is_told_and_that_it_is_compared(without_rpt: TwoStage, differ: bool) -> None:
    spt, size = without_rpt.outcomes["spt"], len(without_rpt.split.test)
    assert spt.repeats == repeats(without_rpt.model, without_rpt.split.test)
    base = replace(spt, repeats=Repeats(0.64, 1.2, 10, 0.002, size))
    more = replace(spt, repeats=Repeats(0.82 if differ else 0.6, 1.3, 10, 0.002, size))
    said = verdicts(replace(without_rpt, outcomes={**without_rpt.outcomes, "base": base, "spt": more}))[-1]
    share = "82%" if differ else "60%"
    first = f"Repeats: the first answer is an item that the user already has for {share} by SPT, 64% by Base; "
    assert said.startswith(first + f"so is 0.2% of what is asked for ({size} test samples).")
    assert said.endswith("one with --exclude-history does not.") == differ
    apart = replace(
        without_rpt, outcomes={"followers": without_rpt.outcomes["followers"], "spt": replace(spt, repeats=None)}
    )
    assert not any(said.startswith("Repeats") for said in verdicts(apart))


def test_nothing_is_told_of_repeats_where_the_history_is_left_out() -> None:
    split = leave_one_out(synthetic_log(num_users=30, num_items=20, seed=1), 5)
    model = build_recommender(SASRec(1, 1, heads=1, inner=8), split.num_items, dim=8, max_length=5)
    result = two_stage(model, split, epochs=0, rpt_epochs=0, device="cpu", exclude_history=True)
    assert result.outcomes["spt"].repeats is None
    assert not any("Repeats" in said for said in verdicts(result))


def test_three_seeds_are_judged_by_p() -> None:
    assert (caveat(3, 0.01), caveat(3, 0.2)) == ("", ", which may be noise")
    assert caveat(1, 1e-9) == caveat(1, 0.9) != ""


def test_the_report_does_without_matplotlib(
    without_rpt: TwoStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    run = RunDirectory.create(tmp_path / "run", {})
    write_report(without_rpt, run, DataCard.of(without_rpt.split.interactions), seed=7)
    text = run.report_path.read_text()
    assert text.startswith("# Results\n\nData: 60 users") and "Seed: 7." in text
    assert "![" not in text and not list(run.path.glob("*.png"))
