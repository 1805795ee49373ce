"""How good probabilities of churn were, once the outcomes are known.

Everywhere ``churned`` holds the outcomes (0 or 1, or booleans) and ``p`` the probabilities that were
stated for them, in the same order; the order itself never matters, nor how ties happen to be sorted.
What a set cannot answer is NaN: no customer at all, or only one outcome where two are compared.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BINS = 10
SMALLEST = 5e-7
"""Probabilities are stated to six decimals: 0 means less than half a millionth, and is charged as that."""


class Quality(NamedTuple):
    """All figures of one model on one set: ``n`` customers, ``base_rate`` the share that churned."""

    n: int
    base_rate: float
    auc: float
    average_precision: float
    log_loss: float
    brier: float
    calibration_error: float
    precision_top_decile: float


def quality(churned: ArrayLike, p: ArrayLike) -> Quality:
    """Every figure of this module."""
    y, q = _pair(churned, p)
    return Quality(
        n=len(y),
        base_rate=_mean(y),
        auc=auc(y, q),
        average_precision=average_precision(y, q),
        log_loss=log_loss(y, q),
        brier=brier(y, q),
        calibration_error=calibration_error(y, q),
        precision_top_decile=precision_top_decile(y, q),
    )


def auc(churned: ArrayLike, p: ArrayLike) -> float:
    """The chance that of one who churned and one who stayed the first had the higher probability; a
    tie counts half (Mann and Whitney, 1947)."""
    y, q = _pair(churned, p)
    positive = y.sum()
    negative = len(y) - positive
    if not positive or not negative:
        return float("nan")
    _, place, count = np.unique(q, return_inverse=True, return_counts=True)
    below = np.cumsum(count) - count
    rank = below + (count + 1) / 2.0
    return float(((rank[place] * y).sum() - positive * (positive + 1) / 2.0) / (positive * negative))


def average_precision(churned: ArrayLike, p: ArrayLike) -> float:
    """The area under precision over recall as a step function: the sum over thresholds, from the highest
    down, of the precision there times the recall gained; all who share a probability are let in at once."""
    y, q = _pair(churned, p)
    if not y.sum():
        return float("nan")
    _, place, count = np.unique(-q, return_inverse=True, return_counts=True)
    right = np.bincount(place, weights=y, minlength=len(count))
    precision = np.cumsum(right) / np.cumsum(count)
    return float((precision * right).sum() / y.sum())


def log_loss(churned: ArrayLike, p: ArrayLike) -> float:
    """Mean of -log of the probability given to what happened, in nats. See ``SMALLEST``."""
    y, q = _pair(churned, p)
    q = np.clip(q, SMALLEST, 1.0 - SMALLEST)
    return _mean(-np.where(y > 0, np.log(q), np.log1p(-q)))


def brier(churned: ArrayLike, p: ArrayLike) -> float:
    """Mean squared distance of the probability from the outcome (Brier, 1950)."""
    y, q = _pair(churned, p)
    return _mean((q - y) ** 2)


def calibration_error(churned: ArrayLike, p: ArrayLike) -> float:
    """Expected calibration error: over ten bins of equal width, [0, .1) to [.9, 1], the mean distance of
    the share that churned from the mean probability, weighted by the customers in the bin."""
    y, q = _pair(churned, p)
    if not len(y):
        return float("nan")
    bins = np.minimum((q * BINS).astype(np.int64), BINS - 1)
    gap = np.bincount(bins, weights=y - q, minlength=BINS)
    return float(np.abs(gap).sum() / len(y))


def precision_top_decile(churned: ArrayLike, p: ArrayLike) -> float:
    """The share that churned among the tenth (rounded up) with the highest probabilities. Of those who
    share the lowest probability that is let in, each counts for the share of them that finds room."""
    y, q = _pair(churned, p)
    if not len(y):
        return float("nan")
    room = -(-len(y) // BINS)
    lowest = np.partition(q, len(q) - room)[len(q) - room]
    above = q > lowest
    tied = q == lowest
    right = y[above].sum() + (room - above.sum()) * y[tied].mean()
    return float(right / room)


def _pair(churned: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    y = np.asarray(churned, dtype=np.float64)
    q = np.asarray(p, dtype=np.float64)
    if y.ndim != 1 or y.shape != q.shape:
        raise ValueError(
            f"outcomes {y.shape} and probabilities {q.shape} must be two lists of the same length"
        )
    return y, q


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")
