"""Cut-offs: what each model stated about everybody at the end of a day, and how good it turned out to be.

What is stated at a cut-off is fixed there; only the figures, which need the horizon to have passed, are made
at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.backtest.silences import Silences
from models.evaluation import Quality, quality

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

FIGURES: Final = tuple(name for name in Quality._fields if name not in {"n", "base_rate"})
POPULATIONS: Final = ("all", "active")


class Stated(NamedTuple):
    """At the end of ``day``: the ``customers`` (places) who had bought by then, who of them was ``active``
    (bought within the last horizon), the probability that each model stated, and which of the champion's
    scores it was (``learned`` or ``statistical``)."""

    day: int
    customers: Ints
    active: Mask
    stated: dict[str, Floats]
    source: str


class Settled(NamedTuple):
    """The same, with what became of it."""

    stated: Stated
    churned: Mask

    def population(self, name: str) -> Mask:
        """Who belongs to ``all`` or ``active``."""
        return self.stated.active if name == "active" else np.ones(len(self.churned), dtype=np.bool_)


def days(first: int, last: int, horizon: int, every: int, start: int | None = None) -> list[int]:
    """The days of the cut-offs of a history: from the middle of its span (or ``start``) to its end minus the
    horizon."""
    begin = first + (last - first) // 2 if start is None else max(start, first)
    return list(range(begin, last - horizon + 1, every))


def settle(found: Iterable[Stated], purchases: Silences, horizon: int) -> list[Settled]:
    """Who of them bought nothing in the ``horizon`` days after the cut-off's day."""
    settled = []
    for each in found:
        at = purchases.of(each.customers, np.full(len(each.customers), each.day, dtype=np.int64))
        settled.append(Settled(each, purchases.following[at] - each.day > horizon))
    return settled


def figures(settled: Sequence[Settled], models: Sequence[str]) -> dict[str, dict[str, object]]:
    """By population the figures of each model: ``mean`` over the cut-offs, and ``cutoffs``, a list."""
    return {name: _of(settled, models, name) for name in POPULATIONS}


def _of(settled: Sequence[Settled], models: Sequence[str], population: str) -> dict[str, object]:
    cutoffs: list[dict[str, object]] = []
    sums: dict[str, dict[str, list[float]]] = {model: {name: [] for name in FIGURES} for model in models}
    for each in settled:
        mine = each.population(population)
        churned = each.churned[mine]
        row: dict[str, object] = {
            "time": _date(each.stated.day),
            "n": int(mine.sum()),
            "base_rate": _rounded(float(churned.mean()) if len(churned) else math.nan),
            "score_source": each.stated.source,
        }
        for model in models:
            found = quality(churned, each.stated.stated[model][mine])
            row[model] = {name: _rounded(getattr(found, name)) for name in FIGURES}
            for name in FIGURES:
                value = getattr(found, name)
                if not math.isnan(value):
                    sums[model][name].append(value)
        cutoffs.append(row)
    mean: dict[str, object] = {
        model: {
            name: _rounded(math.fsum(values) / len(values) if values else math.nan)
            for name, values in of.items()
        }
        for model, of in sums.items()
    }
    return {"mean": mean, "cutoffs": cutoffs}


class Bin(NamedTuple):
    """A tenth of the probabilities: ``customers`` in it, their mean ``stated`` probability, the share that ``churned``."""

    customers: int
    stated: float
    churned: float


def reliability(settled: Sequence[Settled], model: str, population: str = "all") -> list[Bin]:
    """Of the cut-offs together, the bins of equal width that hold anybody."""
    stated, churned = _pooled(settled, model, population)
    place = np.minimum((stated * 10).astype(np.int64), 9)
    return [
        Bin(int(mine.sum()), float(stated[mine].mean()), float(churned[mine].mean()))
        for mine in (place == number for number in range(10))
        if mine.any()
    ]


def gains(settled: Sequence[Settled], model: str, population: str, points: int = 50) -> tuple[Floats, Floats]:
    """Mean over the cut-offs of the share of all who churned that is found among the share of customers with the
    highest scores; those who share a score are taken in equal parts. Shares of customers, shares found."""
    grid = np.linspace(0.0, 1.0, points + 1)
    curves = []
    for each in settled:
        mine = each.population(population)
        churned, stated = each.churned[mine], each.stated.stated[model][mine]
        if not churned.any():
            continue
        _, place, count = np.unique(-stated, return_inverse=True, return_counts=True)
        right = np.bincount(place, weights=churned, minlength=len(count))
        reached = np.concatenate([[0.0], np.cumsum(count) / len(churned)])
        found = np.concatenate([[0.0], np.cumsum(right) / churned.sum()])
        curves.append(np.interp(grid, reached, found))
    return grid, np.mean(curves, axis=0) if curves else grid


def _pooled(settled: Sequence[Settled], model: str, population: str) -> tuple[Floats, Mask]:
    if not settled:
        return np.zeros(0), np.zeros(0, dtype=np.bool_)
    mine = [each.population(population) for each in settled]
    stated = np.concatenate([s.stated.stated[model][m] for s, m in zip(settled, mine, strict=True)])
    churned = np.concatenate([s.churned[m] for s, m in zip(settled, mine, strict=True)])
    return stated, churned


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _date(day: int) -> str:
    return str(np.datetime64(day, "D"))
