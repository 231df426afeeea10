"""Depth laws: how many thoughts a training step takes, and how many an answer takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from latentloop.checks import DEEPEST, as_deep, at_least, zero_or_more
from latentloop.randomness import generator

__all__ = ["DepthLaw", "FixedDepth", "LogNormalPoisson", "UniformDepth", "draw_depth", "varies"]


@runtime_checkable
class DepthLaw(Protocol):
    """Draws the depth k of a training step; objectives ask `encoder.depth_law` for it once a step."""

    @property
    def inference_depth(self) -> int:
        """The depth of an answer when none is asked for."""
        ...

    def sample(self, generator: torch.Generator) -> int:
        """Draw a depth of at least 1 from a CPU generator."""
        ...


@dataclass(frozen=True)
class LogNormalPoisson:
    """The paper's law (LARES eq. 6): xi ~ N(log k-bar - sigma^2/2, sigma^2), k = min(Poisson(exp xi) + 1, 3 k-bar).

    Its mean before the cap is k-bar + 1, which is also the depth of an answer.

    Args:
        mean_depth: k-bar, 1 to 3,333.
        sigma: spread of the logarithm, at least 0.

    Raises:
        InputError: for a value outside these ranges.
    """

    mean_depth: int = 3
    sigma: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean_depth", as_deep("mean_depth", self.mean_depth, DEEPEST // 3))
        sigma = zero_or_more("sigma", self.sigma)
        if not isinstance(self.sigma, int | float):  # what is saved tells a law by how it is written
            object.__setattr__(self, "sigma", sigma)

    @property
    def inference_depth(self) -> int:
        """k-bar + 1."""
        return self.mean_depth + 1

    @property
    def max_depth(self) -> int:
        """The cap, 3 k-bar."""
        return 3 * self.mean_depth

    def sample(self, generator: torch.Generator) -> int:
        """Draw k in 1..3 k-bar from a CPU generator."""
        noise = torch.randn((), generator=generator, dtype=torch.float64)
        rate = torch.exp(math.log(self.mean_depth) - self.sigma**2 / 2 + self.sigma * noise)
        return min(int(torch.poisson(rate, generator=generator)) + 1, self.max_depth)


@dataclass(frozen=True)
class FixedDepth:
    """Always the same depth, in training and for an answer (the paper's "w/o sampling").

    Args:
        depth: 1 to 10,000.

    Raises:
        InputError: for another value.
    """

    depth: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", as_deep("depth", self.depth))

    @property
    def inference_depth(self) -> int:
        """The fixed depth."""
        return self.depth

    def sample(self, generator: torch.Generator) -> int:
        """The fixed depth."""
        return self.depth


@dataclass(frozen=True)
class UniformDepth:
    """Every depth of low..high alike; an answer takes the middle one, rounded up.

    Args:
        low: smallest depth, at least 1.
        high: largest depth, `low` to 10,000.

    Raises:
        InputError: for values outside these ranges.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", at_least("low", self.low, 1))
        at_least("high", self.high, self.low)
        object.__setattr__(self, "high", as_deep("high", self.high))

    @property
    def inference_depth(self) -> int:
        """The middle of the range, rounded up."""
        return (self.low + self.high + 1) // 2

    def sample(self, generator: torch.Generator) -> int:
        """Draw k in low..high from a CPU generator."""
        return int(torch.randint(self.low, self.high + 1, (), generator=generator))


def varies(law: DepthLaw) -> bool:
    """Whether a law may draw different depths; anyone's own is taken to."""
    if type(law) is UniformDepth:
        return law.low != law.high
    return type(law) is not FixedDepth


def draw_depth(law: DepthLaw, key: int) -> int:
    """One draw from a generator of its own.

    Args:
        law: anyone's.
        key: seeds the generator.

    Raises:
        InputError: where it draws what is no depth.
    """
    return as_deep(f"what {type(law).__name__}.sample draws", law.sample(generator(key)))
