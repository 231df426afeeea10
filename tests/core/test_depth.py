"""Depth laws: support, mean, and the same key for the same depth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentloop.depth import DepthLaw, FixedDepth, LogNormalPoisson, UniformDepth, draw_depth, varies
from latentloop.errors import InputError
from latentloop.randomness import fold, generator
from tests.core.worlds import seeds, unchecked

LAWS = st.one_of(
    st.builds(LogNormalPoisson, st.integers(1, 8), st.floats(0, 3)),
    st.builds(FixedDepth, st.integers(1, 20)),
    st.integers(1, 9).flatmap(lambda low: st.builds(UniformDepth, st.just(low), st.integers(low, low + 9))),
)


@given(law=LAWS, seed=seeds)
def test_every_law_draws_whole_depths_within_its_bounds(law: DepthLaw, seed: int) -> None:
    draws = [law.sample(generator(fold(seed, step))) for step in range(50)]
    deepest = {FixedDepth: "depth", UniformDepth: "high"}.get(type(law), "max_depth")
    assert all(type(k) is int and 1 <= k <= getattr(law, deepest) for k in draws)
    assert draws == [law.sample(generator(fold(seed, step))) for step in range(50)]
    assert 1 <= law.inference_depth <= getattr(law, deepest)


@pytest.mark.parametrize("mean_depth", [1, 3, 6])
@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0])
def test_log_normal_poisson_has_the_papers_distribution(mean_depth: int, sigma: float) -> None:
    law, n = LogNormalPoisson(mean_depth, sigma), 4000
    stream = generator(11)
    ours = np.bincount([law.sample(stream) for _ in range(n)], minlength=3 * mean_depth + 1) / n
    # closed form: Poisson probabilities averaged over the log-normal rate on a fine grid of quantiles' densities
    z = np.linspace(-8, 8, 4001)
    weight = np.exp(-(z**2) / 2)
    rate = np.exp(math.log(mean_depth) - sigma**2 / 2 + sigma * z)
    counts = np.arange(3 * mean_depth - 1)
    factorials = np.array([math.factorial(c) for c in counts], dtype=np.float64)
    pmf = (np.exp(-rate)[:, None] * rate[:, None] ** counts / factorials * weight[:, None]).sum(0) / weight.sum()
    wanted = np.concatenate([[0.0], pmf, [1 - pmf.sum()]])
    assert len(ours) == 3 * mean_depth + 1
    assert np.abs(ours - wanted).max() < 4.5 * math.sqrt(0.25 / n)
    capped_mean = (wanted * np.arange(len(wanted))).sum()
    spread = math.sqrt((wanted * np.arange(len(wanted)) ** 2).sum() - capped_mean**2)
    assert abs((ours * np.arange(len(ours))).sum() - capped_mean) < 4.5 * spread / math.sqrt(n)


@pytest.mark.parametrize("mean_depth", [1, 3, 6])
def test_the_mean_before_the_cap_is_the_inference_depth(mean_depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogNormalPoisson, "max_depth", 10**9)
    law, stream, n = LogNormalPoisson(mean_depth), generator(5), 6000
    mean = sum(law.sample(stream) for _ in range(n)) / n
    variance = mean_depth + mean_depth**2 * (math.exp(0.25) - 1)  # of a Poisson with a log-normal rate
    assert abs(mean - law.inference_depth) < 4.5 * math.sqrt(variance / n)
    assert law.inference_depth == mean_depth + 1


def test_the_papers_depths_are_the_defaults() -> None:
    assert LogNormalPoisson() == LogNormalPoisson(mean_depth=3, sigma=0.5)
    assert (LogNormalPoisson().inference_depth, LogNormalPoisson().max_depth) == (4, 9)


@given(seed=seeds)
def test_a_key_gives_the_same_depth_whatever_torchs_default_precision(seed: int) -> None:
    law = LogNormalPoisson(5, 1.0)
    plain = [law.sample(generator(fold(seed, step))) for step in range(20)]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert [law.sample(generator(fold(seed, step))) for step in range(20)] == plain
    finally:
        torch.set_default_dtype(before)


@given(low=st.integers(1, 6), extra=st.integers(0, 4), seed=seeds)
def test_uniform_depth_reaches_both_ends(low: int, extra: int, seed: int) -> None:
    law, stream = UniformDepth(low, low + extra), generator(seed)
    assert {law.sample(stream) for _ in range(200)} == set(range(low, low + extra + 1))
    assert law.inference_depth == math.ceil((low + low + extra) / 2)


@pytest.mark.parametrize("value", [0, -1, True])
def test_depths_below_one_are_refused(value: int) -> None:
    builds = {"mean_depth": LogNormalPoisson, "depth": FixedDepth, "low": lambda v: UniformDepth(v, 4)}
    for name, build in builds.items():
        with pytest.raises(InputError, match=f"^{name} must be a whole number of at least 1"):
            build(value)


def test_other_values_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="^high must be a whole number of at least 4"):
        UniformDepth(4, 3)
    for sigma in (-0.1, math.nan, math.inf):
        with pytest.raises(InputError, match="^sigma must be"):
            LogNormalPoisson(3, sigma)


def test_depths_have_an_end() -> None:
    """No law can draw more than 10,000 thoughts."""
    assert LogNormalPoisson(3333).max_depth == 9999
    assert FixedDepth(10_000).depth == UniformDepth(1, 10_000).high == 10_000
    with pytest.raises(InputError, match="^mean_depth must be at most 3333, got 3334"):
        LogNormalPoisson(3334)
    with pytest.raises(InputError, match="^depth must be at most 10000, got 10001"):
        FixedDepth(10_001)
    with pytest.raises(InputError, match="^high must be at most 10000, got 10001"):
        UniformDepth(1, 10_001)


def test_settings_are_kept_as_plain_numbers_as_they_are_written() -> None:
    with unchecked():
        laws = [
            (LogNormalPoisson(np.int64(4), np.float32(0.25)), {"mean_depth": 4, "sigma": 0.25}),  # type: ignore[arg-type]
            (LogNormalPoisson(4, 1), {"mean_depth": 4, "sigma": 1}),
            (FixedDepth(np.int64(2)), {"depth": 2}),  # type: ignore[arg-type]
            (UniformDepth(np.int64(2), np.int32(5)), {"low": 2, "high": 5}),  # type: ignore[arg-type]
        ]
    for law, kept in laws:
        assert vars(law) == kept
        assert [type(value) for value in vars(law).values()] == [type(value) for value in kept.values()]


class Own(FixedDepth):
    """A law of a user's own, which may do what it likes with what it inherits."""


class OwnUniform(UniformDepth):
    """Another."""


@pytest.mark.parametrize(
    ("law", "wanted"),
    [
        (FixedDepth(3), False),
        (UniformDepth(3, 3), False),
        (UniformDepth(3, 4), True),
        (LogNormalPoisson(), True),
        (Own(3), True),
        (OwnUniform(3, 3), True),
    ],
    ids=repr,
)
def test_which_laws_may_draw_different_depths(law: DepthLaw, wanted: bool) -> None:
    assert varies(law) is wanted


@given(seeds)
def test_one_draw_is_the_first_of_its_keys_own_generator(key: int) -> None:
    law = UniformDepth(1, 10_000)
    assert draw_depth(law, key) == law.sample(generator(key))


def test_a_draw_that_is_no_depth_is_named() -> None:
    class Nought(FixedDepth):
        def sample(self, generator: torch.Generator) -> int:
            return 0

    with pytest.raises(InputError, match=r"^what Nought\.sample draws must be a whole number of at least 1, got 0"):
        draw_depth(Nought(3), 0)
