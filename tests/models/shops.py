"""Histories of purchases for the tests of the models: made up from known parameters, or CDNOW's."""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from agents import datasets
from agents.datasets import CDNOW, Dataset, DatasetError, Part
from features.matrix import Floats
from models.purchase_rate import Rates

SAMPLE = Dataset(
    "the published sample of CDNOW",
    CDNOW.package,
    (
        Part(
            "lifetimes/datasets/CDNOW_sample.txt",
            "6fae10155c0b0ba363c2c386e30f77990d22328220efd862a5edd1443420d94a",
        ),
        Part(
            "lifetimes/datasets/cdnow_customers_summary_with_transactions.csv",
            "7ddd11b55be3227edfc1d58675154e96971b0de3ad37ddd9280d1dba154b8b2f",
        ),
    ),
)
"""2,357 customers, a systematic tenth, as Fader, Hardie and Lee (2005) used them: their lines, and the repeat
purchases of 39 weeks with their mean value as Fader and Hardie (2013) used them."""


def sample() -> tuple[Path, Path]:
    try:
        lines, summary = datasets.fetched(SAMPLE)
    except DatasetError as error:
        pytest.skip(str(error))
    return lines, summary


def purchase_days(path: Path, column: int, every: int = 1) -> list[list[int]]:
    """The distinct days on which each customer of a CDNOW file bought, from 0 for 1997-01-01. ``column``: of the
    date, after that of the customer's master number."""
    days: dict[int, set[int]] = defaultdict(set)
    for line in path.read_text().splitlines():
        words = line.split()
        if words and words[0].isdigit() and int(words[0]) % every == 0:
            when = words[column]
            days[int(words[0])].add(
                (date(int(when[:4]), int(when[4:6]), int(when[6:])) - date(1997, 1, 1)).days
            )
    return [sorted(days[customer]) for customer in sorted(days)]


class Histories(NamedTuple):
    """One place per customer: see ``models.purchase_rate``."""

    x: Floats
    t_x: Floats
    T: Floats


def histories(days: list[list[int]], at: float) -> Histories:
    """Of those who have bought by the end of a day."""
    rows = []
    for bought in days:
        until = [day for day in bought if day <= at]
        if until:
            rows.append((len(until) - 1, until[-1] - until[0], at - until[0]))
    x, t_x, age = np.array(rows, dtype=np.float64).T
    return Histories(x, t_x, age)


class Example(NamedTuple):
    at: float
    x: float
    t_x: float
    T: float
    none: bool


def examples(days: list[list[int]], horizon: int, every: int, end: int) -> list[Example]:
    """What leaves a shop: each customer once every so many days from the first purchase on, staggered, with what
    became of it, in the order in which that was known."""
    found = []
    for number, bought in enumerate(days):
        start = bought[0] + number * 7 % every
        k = 0
        for t in range(start, end - horizon + 1, every):
            while k + 1 < len(bought) and bought[k + 1] <= t:
                k += 1
            none = k + 1 == len(bought) or bought[k + 1] > t + horizon
            found.append(Example(t + horizon, k, bought[k] - bought[0], t - bought[0], none))
    return sorted(found)


class Future(NamedTuple):
    """What became of customers: purchases after the instant, and whether they had left by then."""

    purchases: Floats
    left: Floats


def simulate(rates: Rates, customers: int, at: float, until: float, seed: int) -> tuple[Histories, Future]:
    """Customers who act as the model says, seen ``at`` days after their first purchase, and then ``until``."""
    random = np.random.default_rng(seed)
    rate = random.gamma(rates.r, 1.0 / rates.alpha, customers)
    leaves = random.beta(rates.a, rates.b, customers)
    x, t_x, purchases = (np.zeros(customers) for _ in range(3))
    gone = np.where(random.random(customers) < leaves, 0.0, np.inf)
    t = np.zeros(customers)
    active = np.flatnonzero(gone > 0)
    while len(active):
        t[active] += random.exponential(1.0 / np.maximum(rate[active], 1e-12))
        before = active[t[active] <= at]
        x[before] += 1
        t_x[before] = t[before]
        purchases[active[(t[active] > at) & (t[active] <= until)]] += 1
        leaving = random.random(len(active)) < leaves[active]
        gone[active[leaving]] = t[active[leaving]]
        active = active[~leaving & (t[active] < until)]
    return Histories(x, t_x, np.full(customers, at)), Future(purchases, (gone <= at).astype(np.float64))


def simulate_days(rates: Rates, customers: int, over: int, seed: int) -> list[list[int]]:
    """The days on which such customers buy; they come first on a day in the first two thirds of the time."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(customers):
        rate, leaves = random.gamma(rates.r, 1.0 / rates.alpha), random.beta(rates.a, rates.b)
        t = random.uniform(0, over * 2 / 3)
        days = {int(t)}
        while random.random() >= leaves:
            t += random.exponential(1.0 / max(rate, 1e-12))
            if t >= over:
                break
            days.add(int(t))
        found.append(sorted(days))
    return found
