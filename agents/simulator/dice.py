"""Draws of one seeded stream."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

BLOCK = 32


class Dice:
    """One customer's own stream of randomness, so that no customer depends on how many others there are.

    A scalar draw from numpy costs ten times what it costs from a list: uniform numbers are drawn in
    small blocks.
    """

    __slots__ = ("_block", "_generator")

    def __init__(self, seed: int, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
        self._block: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        block = self._block
        if not block:
            block = self._block = self._generator.random(BLOCK).tolist()
        return low + (high - low) * block.pop()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return int(self.uniform() * count)

    def normal(self, mean: float = 0.0, deviation: float = 1.0) -> float:
        """A normal number (Box and Muller)."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        return mean + deviation * radius * math.cos(2.0 * math.pi * self.uniform())

    def lognormal(self, median: float, spread: float) -> float:
        """A log-normal number; ``spread`` is the deviation of its logarithm."""
        return median * math.exp(self.normal(0.0, spread))

    def exponential(self, mean: float) -> float:
        """An exponential number."""
        return -mean * math.log(1.0 - self.uniform())

    def gamma(self, mean: float, shape: float) -> float:
        """A gamma number of this mean."""
        return float(self._generator.standard_gamma(shape)) * mean / shape

    def poisson(self, mean: float) -> int:
        """A Poisson count; for small means (its cost grows with the mean)."""
        limit, product, count = math.exp(-mean), self.uniform(), 0
        while product > limit:
            product *= self.uniform()
            count += 1
        return count

    def pick(self, weights: Sequence[float]) -> int:
        """An index, each with its weight's share."""
        upper = list(accumulate(weights))
        return min(bisect_right(upper, self.uniform(0.0, upper[-1])), len(upper) - 1)

    def popular(self, count: int) -> int:
        """An index in [0, count) of which the first are the most popular."""
        draw = self.uniform()
        return int(count * draw * draw)
