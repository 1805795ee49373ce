"""Snapshot 0 from a shop's own orders: the prior under which the score would have expected them most.

Every purchase day of a customer is followed by another, or by silence until the file ends. The score
(``models.churn``) says how likely each of these is, from what was known of the customer on that day;
what is estimated are the numbers of the prior that make all of them together most likely. So one-time
buyers and those who have gone count for what they are, silences that the end of the file cuts off (right
censoring), and not only the gaps that happened to be short enough to be seen. ``docs/score.md`` has the
formulas.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from agents.files import Entry, Reading, Refuse, read
from features.rhythm import Fold
from features.shop import Calendar
from models.snapshot import Prior

Floats = NDArray[np.float64]
ESTIMATED: Final = ("gap_days", "spread", "strength", "defect_a", "defect_b")
"""The fields of the prior that orders can tell; the weights of other evidence they cannot."""

LEAST_CUSTOMERS: Final = 100
LEAST_RETURNED: Final = 50
LEAST_GAPS: Final = 200
LEAST_SPANS: Final = 3.0
"""Observed median gaps that the file must span at least."""
MOST: Final = 300_000
"""Purchase days that are used at most: beyond, customers are drawn (by a hash, so always the same)."""
_MEMORY = 9.0
"""Gaps that a customer's rhythm remembers at most, as in ``models.churn``."""


class TooLittle(Exception):
    """A file that says too little. ``missing`` names each thing, what there is of it and what it takes."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__("; ".join(missing))
        self.missing = missing


class Purchases(NamedTuple):
    """Of each customer the shop-local day of every purchase, in order; the first and last day of the file."""

    days: Mapping[str, list[int]]
    first: int
    last: int

    def until(self, day: int) -> Purchases:
        """As it was at the end of a day."""
        cut = {customer: days[: bisect_right(days, day)] for customer, days in self.days.items()}
        return Purchases({customer: days for customer, days in cut.items() if days}, self.first, day)


class Waits(NamedTuple):
    """One row for each purchase day: what was known then (see ``features.matrix``), how many days passed
    until the next one, and whether it ``came`` before the file ended. ``owner`` numbers the customers."""

    owner: NDArray[np.int64]
    gaps: Floats
    mean: Floats
    variance: Floats
    repeats: Floats
    days: Floats
    came: NDArray[np.bool_]

    def last_of_each(self) -> Waits:
        """The rows of the customers' last purchase days."""
        is_last = ~self.came
        return Waits(
            self.owner[is_last],
            self.gaps[is_last],
            self.mean[is_last],
            self.variance[is_last],
            self.repeats[is_last],
            self.days[is_last],
            self.came[is_last],
        )


class Basis(NamedTuple):
    """What an estimate rests on: customers who bought, on one day only (``once``), the gaps between their
    purchase days, the median of those that were seen, and the file's first and last day."""

    customers: int
    once: int
    gaps: int
    seen_median: float
    first: int
    last: int
    used: int


class Estimate(NamedTuple):
    """The prior, 95 % intervals by name (``leaves``: P(gone for good) after a first purchase), and what
    it rests on."""

    prior: Prior
    leaves: float
    intervals: dict[str, tuple[float, float]]
    basis: Basis


class Backtest(NamedTuple):
    """What priors would have said on ``day`` about the ``horizon`` days after it, of ``customers``: the share
    that really bought nothing, the share expected, and the log-loss, of the defaults and of the estimate."""

    day: int
    horizon: int
    customers: int
    happened: float
    expected: tuple[float, float]
    log_loss: tuple[float, float]


# ---- reading


class _Line(msgspec.Struct):
    amount: float


class _Purchase(msgspec.Struct):
    id: str
    lines: list[_Line]
    order: str | None = None


_decode = msgspec.json.Decoder(_Purchase).decode


def gather(
    path: Path, reading: Reading, calendar: Calendar, refuse: Refuse, tell: Callable[[Entry], None] = lambda _: None
) -> Purchases:  # fmt: skip
    """The purchases of a file; as the worker counts them, so not those of nothing and not the same one twice.

    ``tell`` hears of each event. Raises :class:`agents.files.FileError`.
    """
    days: dict[str, list[int]] = {}
    known: set[int] = set()
    first, last = 2**62, 0
    for entry in read(path, reading, refuse):
        tell(entry)
        first, last = min(first, entry.at), max(last, entry.at)
        if entry.kind != "purchase":
            continue
        purchase = _decode(entry.value)
        name = _hash(f"{entry.customer}\0{purchase.order or purchase.id}")
        if name in known or not any(line.amount > 0 for line in purchase.lines):
            continue
        known.add(name)
        days.setdefault(entry.customer, []).append(calendar.day(entry.at))
    for mine in days.values():
        mine.sort()
    if not days:
        return Purchases({}, 0, 0)
    return Purchases(days, calendar.day(first), calendar.day(last))


def waits(purchases: Purchases) -> Waits:
    """A row for each purchase day of each customer."""
    rows: list[tuple[float, ...]] = []
    for number, bought in enumerate(_drawn(purchases).values()):
        fold = Fold()
        distinct = sorted(set(bought))
        for place, day in enumerate(distinct):
            again = place + 1 < len(distinct)
            passed = (distinct[place + 1] if again else purchases.last) - day
            known = min(fold.gaps, _MEMORY), fold.mean, fold.variance, bisect_right(bought, day) - 1
            rows.append((number, *known, passed, again))
            if again:
                fold = fold.add(passed)
    table = np.array(rows, dtype=np.float64).reshape(-1, 7).T
    owner, gaps, mean, variance, repeats, days, came = table
    return Waits(owner.astype(np.int64), gaps, mean, variance, repeats, days, came > 0)


def _drawn(purchases: Purchases) -> Mapping[str, list[int]]:
    """All customers, or as many as are enough."""
    total = sum(map(len, purchases.days.values()))
    if total <= MOST:
        return purchases.days
    limit = int(2**64 * MOST / total)
    return {name: days for name, days in purchases.days.items() if _hash(name) < limit}


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def basis(purchases: Purchases, rows: Waits) -> Basis:
    """What there is. Raises :class:`TooLittle` when it is not enough."""
    customers = len(purchases.days)
    distinct = [len(set(days)) for days in purchases.days.values()]
    gaps = sum(distinct) - customers
    once = distinct.count(1)
    seen = rows.days[rows.came]
    median = float(np.median(seen)) if seen.size else 0.0
    span = purchases.last - purchases.first
    missing = []
    if customers < LEAST_CUSTOMERS:
        missing.append(f"{customers:,} customers who bought; it takes {LEAST_CUSTOMERS}")
    if customers - once < LEAST_RETURNED:
        missing.append(
            f"{customers - once:,} customers who bought on two days or more; it takes {LEAST_RETURNED}"
        )
    if gaps < LEAST_GAPS:
        missing.append(f"{gaps:,} gaps between purchase days; it takes {LEAST_GAPS}")
    if median and span < LEAST_SPANS * median:
        missing.append(
            f"{span:,} days from the first to the last event; it takes {LEAST_SPANS:g} times the median gap, "
            f"which is {median:g} days"
        )
    if missing:
        raise TooLittle(missing)
    return Basis(customers, once, gaps, median, purchases.first, purchases.last, rows.days.size)


# ---- estimating

_HELD: Final = ((2, math.log(3.0)), (3, math.log(0.5)), (4, math.log(3.0)))
"""What holds an estimate where the file says nothing of it: strength, odds of leaving and a + b are drawn to
those of the defaults as by one observation with a standard deviation of 1 in the logarithm."""
_LOWEST: Final = np.log([0.2, 0.05, 0.05, 1e-4, 0.01])
_HIGHEST: Final = np.log([3650.0, 10.0, 200.0, 1e4, 1000.0])


def _prior(theta: Floats) -> Prior:
    """``theta``: logarithms of gap_days, spread, strength, a / b and a + b."""
    gap, spread, strength, odds, total = np.exp(theta).tolist()
    share = odds / (1.0 + odds)
    return Prior(
        gap_days=gap, spread=spread, strength=strength, defect_a=share * total, defect_b=(1.0 - share) * total
    )


class Curves:
    """What the score says of each row under a prior: the formulas of ``models.churn``."""

    def __init__(self, rows: Waits, prior: Prior) -> None:
        n, k = rows.gaps, prior.strength
        self._location = (n * rows.mean + k * math.log(prior.gap_days)) / (n + k)
        sigma = np.sqrt((n * rows.variance + k * prior.spread**2) / (n + k))
        self._beta = math.pi / (math.sqrt(3.0) * sigma)
        self.left = prior.defect_a / (prior.defect_a + prior.defect_b + rows.repeats)

    def survival(self, days: Floats) -> Floats:
        """P(the next purchase takes longer), of those who come again."""
        power = self._beta * (np.log(np.maximum(days, 1e-3)) - self._location)
        survival: Floats = 1.0 / (1.0 + np.exp(np.clip(power, -700.0, 700.0)))
        return survival

    def silent(self, days: Floats) -> Floats:
        """P(no purchase for so many days)."""
        silent: Floats = self.left + (1.0 - self.left) * self.survival(days)
        return silent


def likelihoods(rows: Waits, prior: Prior) -> Floats:
    """The logarithm of what each row was expected with. A gap is known to the day, so its probability is that
    of half a day around it; of a silence that the file's end cuts off it is that of lasting so long."""
    curves = Curves(rows, prior)
    earlier = np.where(rows.days > 1.5, curves.survival(rows.days - 0.5), 1.0)
    came = (1.0 - curves.left) * np.maximum(earlier - curves.survival(rows.days + 0.5), 1e-300)
    found: Floats = np.log(np.where(rows.came, np.maximum(came, 1e-300), curves.silent(rows.days)))
    return found


def estimate(purchases: Purchases) -> Estimate:
    """The prior of a shop. Raises :class:`TooLittle`."""
    rows = waits(purchases)
    found = basis(purchases, rows)
    logs = np.log(rows.days[rows.came])
    once = found.once / found.customers
    guess = [np.median(logs), math.log(max(float(np.std(logs)), 0.3) * 1.3), math.log(3.0)]
    odds = math.log(max(once, 0.02) / 2.0 / (1.0 - max(once, 0.02) / 2.0))
    theta, information, slopes = _climb(rows, np.array([*guess, odds, math.log(3.0)]))
    # What a customer does on one day says something of the next: customers are what is independent.
    begins = np.flatnonzero(np.diff(rows.owner, prepend=-1))
    mine = np.add.reduceat(slopes, begins, axis=0)
    inverse = np.linalg.inv(information)
    errors = np.sqrt(np.diag(inverse @ (mine.T @ mine) @ inverse))
    prior = _rounded(_prior(theta))
    width = 1.96 * errors
    intervals = {
        name: (float(np.exp(theta[i] - width[i])), float(np.exp(theta[i] + width[i])))
        for i, name in enumerate(("gap_days", "spread", "strength"))
    }
    low, high = np.exp(theta[3] - width[3]), np.exp(theta[3] + width[3])
    intervals["leaves"] = (float(low / (1 + low)), float(high / (1 + high)))
    leaves = prior.defect_a / (prior.defect_a + prior.defect_b)
    return Estimate(prior, leaves, intervals, found)


def _rounded(prior: Prior) -> Prior:
    """With four digits, and named after them: the same orders give the same snapshot."""
    values = {name: float(f"{getattr(prior, name):.4g}") for name in ESTIMATED}
    digest = hashlib.sha256(msgspec.json.encode(values)).hexdigest()[:8]
    return Prior(version=f"orders-{digest}", **values)


def _climb(rows: Waits, theta: Floats) -> tuple[Floats, Floats, Floats]:
    """The most likely ``theta``, the information there and the slope of each row: Berndt, Hall, Hall and
    Hausman (1974), damped as by Levenberg and Marquardt."""
    theta = np.clip(theta, _LOWEST, _HIGHEST)
    height, damping = _height(rows, theta), 1e-3
    while True:
        slopes = _slopes(rows, theta)
        information = slopes.T @ slopes
        uphill = slopes.sum(axis=0)
        for i, centre in _HELD:
            information[i, i] += 1.0
            uphill[i] -= theta[i] - centre
        while True:
            step = np.linalg.solve(information + damping * np.diag(np.diag(information)), uphill)
            there = np.clip(theta + step, _LOWEST, _HIGHEST)
            higher = _height(rows, there)
            if higher > height or damping > 1e8:
                break
            damping *= 10.0
        gained, moved = higher - height, float(np.abs(there - theta).max())
        if gained <= 0:
            return theta, information, slopes
        theta, height, damping = there, higher, max(damping / 10.0, 1e-9)
        if gained < 1e-4 and moved < 1e-3:
            return theta, information, slopes


def _height(rows: Waits, theta: Floats) -> float:
    penalty = sum((theta[i] - centre) ** 2 for i, centre in _HELD) / 2.0
    return float(likelihoods(rows, _prior(theta)).sum() - penalty)


def _slopes(rows: Waits, theta: Floats) -> Floats:
    """How each row's likelihood changes with each number."""
    columns = []
    for i in range(theta.size):
        step = np.zeros_like(theta)
        step[i] = 1e-4
        columns.append(
            (likelihoods(rows, _prior(theta + step)) - likelihoods(rows, _prior(theta - step))) / 2e-4
        )
    return np.stack(columns, axis=1)


# ---- checking


def backtest(purchases: Purchases, horizon_days: float) -> Backtest | None:
    """Estimates from the file up to a horizon before its end and compares with what came then; None where
    the file is too short for that."""
    horizon = max(1, round(horizon_days))
    day = purchases.last - horizon
    before = purchases.until(day)
    try:
        prior = estimate(before).prior
    except TooLittle:
        return None
    rows = waits(before)
    now = rows.last_of_each()
    names = list(_drawn(before))
    happened = np.array([purchases.days[name][-1] <= day for name in names])
    expected, losses = [], []
    for each in (Prior(), prior):
        curves = Curves(now, each)
        churn = np.clip(curves.silent(now.days + horizon) / curves.silent(now.days), 1e-6, 1 - 1e-6)
        expected.append(float(churn.mean()))
        losses.append(float(-np.where(happened, np.log(churn), np.log1p(-churn)).mean()))
    return Backtest(
        day,
        horizon,
        len(names),
        float(happened.mean()),
        (expected[0], expected[1]),
        (losses[0], losses[1]),
    )
