"""Student's t against closed forms, the tests against enumeration and against what they must report."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.baselines import popularity
from latentloop.data.splits import leave_one_out
from latentloop.data.synthetic import synthetic_log
from latentloop.errors import InputError
from latentloop.measures.metrics import Ranks, metric_table
from latentloop.measures.results import Evaluation, Protocol
from latentloop.measures.significance import bootstrap_interval, compare, paired_t, sign_flip_p, user_differences
from latentloop.measures.student import two_sided_p, two_sided_quantile

PROTOCOL = Protocol(
    split="test", candidates="all 50 items", history="kept", depth=4, stage="spt", seeds=(0,), users=3, samples=3
)


def evaluation(greater: list[int], user: list[int] | None = None, **changes: object) -> Evaluation:
    ranks = Ranks(torch.tensor(greater), torch.zeros(len(greater), dtype=torch.int64))
    users = torch.arange(len(greater)) if user is None else torch.tensor(user)
    return Evaluation(metric_table(ranks), replace(PROTOCOL, **changes), ranks, users, (5, 10, 20))


def closed_form(t: float, freedom: int) -> float:
    """P(|T| >= t) for 1 to 4 degrees of freedom, by integrating the density by hand."""
    angle = math.atan(t / math.sqrt(freedom))
    inside = {
        1: 2 * angle / math.pi,
        2: math.sin(angle),
        3: 2 / math.pi * (angle + math.sin(angle) * math.cos(angle)),
        4: math.sin(angle) * (1 + math.cos(angle) ** 2 / 2),
    }
    return 1 - inside[freedom]


@given(t=st.floats(0, 50), freedom=st.integers(1, 4))
def test_p_values_equal_the_closed_forms_of_few_degrees_of_freedom(t: float, freedom: int) -> None:
    assert two_sided_p(t, freedom) == pytest.approx(closed_form(t, freedom), abs=1e-12)
    assert two_sided_p(-t, freedom) == two_sided_p(t, freedom)


@pytest.mark.parametrize(
    ("confidence", "freedom", "quantile"),  # printed tables
    [(0.95, 1, 12.7062), (0.95, 10, 2.2281), (0.99, 10, 3.1693), (0.95, 30, 2.0423), (0.9, 120, 1.6577)],
)
def test_quantiles_equal_the_printed_tables(confidence: float, freedom: int, quantile: float) -> None:
    assert two_sided_quantile(confidence, freedom) == pytest.approx(quantile, abs=5e-5)


@given(t=st.floats(0, 6))
def test_many_degrees_of_freedom_are_the_normal_law(t: float) -> None:
    # the first correction to the normal tail is t (t^2 + 1) phi(t) / (2 freedom), below 1e-7 here
    assert two_sided_p(t, 10_000_000) == pytest.approx(math.erfc(t / math.sqrt(2)), abs=1e-7)


@given(confidence=st.floats(0.01, 0.999), freedom=st.integers(1, 5000))
def test_quantiles_invert_p_values(confidence: float, freedom: int) -> None:
    assert two_sided_p(two_sided_quantile(confidence, freedom), freedom) == pytest.approx(1 - confidence, abs=1e-9)


def test_extremes_of_t() -> None:
    assert two_sided_p(0.0, 7) == 1.0
    assert two_sided_p(math.inf, 7) == 0.0
    assert 0 < two_sided_p(60.0, 7) < 1e-9


def test_paired_t_on_a_worked_example() -> None:
    # differences 1, 2, 3, 4, 5: mean 3, deviation sqrt(2.5), error sqrt(0.5), t = 3 sqrt 2 at 4 degrees of freedom
    mean, (low, high), p = paired_t(torch.tensor([5.0, 3.0, 1.0, 2.0, 4.0], dtype=torch.float64))
    assert mean == 3.0
    assert p == pytest.approx(closed_form(3 * math.sqrt(2), 4), abs=1e-12)
    assert (low, high) == (
        pytest.approx(3 - 2.776445 * math.sqrt(0.5), abs=1e-5),
        pytest.approx(3 + 2.776445 * math.sqrt(0.5), abs=1e-5),
    )


def test_equal_differences_are_certain() -> None:
    assert paired_t(torch.zeros(5, dtype=torch.float64)) == (0.0, (0.0, 0.0), 1.0)
    assert paired_t(torch.full((5,), 0.5, dtype=torch.float64)) == (0.5, (0.5, 0.5), 0.0)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.1, 0.25, 0.5, 1.0]), min_size=2, max_size=9))
def test_few_users_get_the_exact_p_of_all_sign_patterns(values: list[float]) -> None:
    observed = abs(math.fsum(values))
    patterns = list(itertools.product((-1, 1), repeat=len(values)))
    reached = sum(abs(math.fsum(s * v for s, v in zip(p, values, strict=True))) >= observed - 1e-9 for p in patterns)
    assert sign_flip_p(torch.tensor(values, dtype=torch.float64)) == reached / len(patterns)


@given(seed=st.integers(0, 2**32))
def test_drawn_signs_come_near_the_exact_p(seed: int) -> None:
    values = torch.tensor([0.5] * 6 + [-0.5] * 3 + [1.0, 0.25, 0.0, 0.0], dtype=torch.float64)
    exact = sign_flip_p(values, resamples=1 << 11)
    drawn = sign_flip_p(values, resamples=(1 << 11) - 1, seed=seed)
    assert abs(exact - drawn) < 5 * math.sqrt(exact * (1 - exact) / 2047) + 1 / 2048


def test_drawn_p_is_never_zero_and_the_seed_decides_it() -> None:
    sure = torch.ones(100, dtype=torch.float64)
    assert sign_flip_p(sure, resamples=999) == 1 / 1000
    mixed = torch.tensor(np.random.default_rng(3).normal(0.1, 1, 200))
    assert sign_flip_p(mixed, seed=1) == sign_flip_p(mixed, seed=1)
    assert len({sign_flip_p(mixed, seed=seed) for seed in range(5)}) > 1


def test_many_users_with_many_values_are_no_obstacle() -> None:
    values = torch.tensor(np.random.default_rng(0).normal(0.0, 1, 3000))
    assert 0.2 < sign_flip_p(values - values.mean() + 0.5 / 3000**0.5, resamples=200) < 1  # half an error from 0


def test_the_bootstrap_draws_users_with_replacement() -> None:
    # the mean of n resampled values has deviation sqrt(population variance / n): 0.5 / sqrt(400) for these
    values = torch.tensor([0.0, 1.0] * 200, dtype=torch.float64)
    low, high = bootstrap_interval(values, resamples=20_000)
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.003)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.003)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)


def test_work_is_done_in_parts_of_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from latentloop.measures import significance

    values = torch.tensor(np.random.default_rng(0).normal(0.05, 1, 60))
    whole = (sign_flip_p(values, resamples=500), bootstrap_interval(values, resamples=500))
    monkeypatch.setattr(significance, "_CELLS", 7 * 60)
    assert (sign_flip_p(values, resamples=500), bootstrap_interval(values, resamples=500)) == whole


def test_p_values_are_uniform_where_there_is_nothing_to_find() -> None:
    rng = np.random.default_rng(0)
    tests = [torch.tensor(rng.choice([-1.0, 0.0, 0.5, 0.5], 80)) for _ in range(100)]
    shares = [
        np.mean([paired_t(values)[2] < 0.2 for values in tests]),
        np.mean([sign_flip_p(values, resamples=400) < 0.2 for values in tests]),
    ]
    # 100 tests of level 0.2: deviation 0.04; signs are symmetric for neither, only the mean is 0
    assert all(abs(share - 0.2) < 0.16 for share in shares)


def test_a_user_counts_once_however_many_samples() -> None:
    first = evaluation([0, 0, 0, 0], [7, 3, 7, 7])
    second = evaluation([0, 0, 1, 99], [7, 3, 7, 7])
    differences = user_differences(first, second, "mrr")
    assert differences.tolist() == pytest.approx([0.0, (0 + 0.5 + 0.99) / 3])


def test_compare_reports_the_sign_the_size_and_both_tests() -> None:
    better, worse = [0] * 30 + [50] * 70, [0] * 10 + [50] * 90
    result = compare(evaluation(better), evaluation(worse), "recall@10")
    assert result.difference == pytest.approx(0.2)
    assert result.interval[0] > 0.1 and result.interval[1] < 0.3
    assert result.bootstrap[0] > 0.1 and result.bootstrap[1] < 0.3
    assert result.p_t < 1e-4 and result.p_sign_flip < 1e-3
    back = compare(evaluation(worse), evaluation(better), "recall@10")
    assert (back.difference, back.p_t, back.users) == (-result.difference, result.p_t, 100)
    text = str(result)
    assert "recall@10 +0.2000" in text and "100 users" in text and "\n" not in text


def test_an_evaluation_does_not_beat_itself() -> None:
    same = evaluation([0, 3, 12, 4])
    result = compare(same, same)
    assert (result.difference, result.p_t, result.p_sign_flip) == (0.0, 1.0, 1.0)
    assert result.interval == result.bootstrap == (0.0, 0.0)


def test_evaluations_that_do_not_belong_together_are_refused() -> None:
    one = evaluation([0, 1, 2])
    with pytest.raises(InputError, match="different samples"):
        compare(one, evaluation([0, 1]))
    with pytest.raises(InputError, match="different samples"):
        compare(one, evaluation([0, 1, 2], [0, 1, 5]))
    for change in ({"split": "validation"}, {"history": "excluded"}, {"candidates": "all 7 items"}):
        with pytest.raises(InputError, match=f"differ in {next(iter(change))}"):
            compare(one, evaluation([0, 1, 2], **change))
    with pytest.raises(InputError, match="differ in data"):
        compare(evaluation([0, 1], data="a"), evaluation([0, 1], data="b"))
    compare(evaluation([0, 1], data="a"), evaluation([0, 1], stage="rpt", depth=2))


def test_too_few_users_and_bad_options_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2"):
        compare(evaluation([0]), evaluation([1]))
    with pytest.raises(InputError, match="confidence"):
        compare(evaluation([0, 1]), evaluation([1, 2]), confidence=95.0)
    with pytest.raises(InputError, match="resamples"):
        compare(evaluation([0, 1]), evaluation([1, 2]), resamples=0)


def test_other_targets_of_the_same_users_are_other_samples() -> None:
    first, again, other = (leave_one_out(synthetic_log(num_users=30, num_items=20, seed=seed)) for seed in (0, 0, 1))
    earlier = replace(first.test, end=first.test.end - 1)
    tests = [popularity(first, samples) for samples in (first.test, again.test, earlier, other.test)]
    assert compare(tests[0], tests[1]).difference == 0
    for wrong in tests[2:]:
        with pytest.raises(InputError, match="^evaluations ask for different items of the same users"):
            compare(tests[0], wrong)
    assert compare(tests[0], replace(tests[2], target=None)).users == 30  # nobody said
    numbered = replace(tests[0], target=21 - tests[0].target, item_ids=[*tests[0].item_ids][::-1])
    assert compare(tests[0], numbered).difference == 0  # the same items under other numbers
    with pytest.raises(InputError, match="^evaluations ask for different items"):
        compare(tests[0], replace(numbered, item_ids=None))


@pytest.mark.parametrize("wrong", [[math.nan, 1.0], [math.inf, 1.0], [1e308, 1e308, -1e308]])
def test_differences_that_are_not_finite_have_no_p(wrong: list[float]) -> None:
    for test in (sign_flip_p, paired_t, bootstrap_interval):
        with pytest.raises(InputError, match="differences must be finite"):
            test(torch.tensor(wrong, dtype=torch.float64))
