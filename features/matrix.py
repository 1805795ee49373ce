"""The score's inputs for many customers at once: one contiguous row per input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.customer import RECENT_DAYS, Customer
from features.shop import DAY, HOUR

Floats = NDArray[np.float64]


class Inputs(NamedTuple):
    """One value per customer and instant.

    - ``recency``: days since the last purchase; ``repeats``: purchases after the first.
    - ``gaps``, ``gap_mean``, ``gap_variance``: the rhythm (logarithm of days between purchase days).
    - ``browsing``: views and searches, decayed with a half-life of 30 days, since the last purchase
      or not.
    - ``open_complaints``, ``overdue_complaints``: counts; ``recent_complaint``: 1 if one ended within
      30 days; ``satisfaction``: newest survey answer as a share of its scale, 1 before the first;
      ``said_lost``: 1 if the customer was said to be lost after the last purchase.
    """

    recency: Floats
    repeats: Floats
    gaps: Floats
    gap_mean: Floats
    gap_variance: Floats
    browsing: Floats
    open_complaints: Floats
    overdue_complaints: Floats
    recent_complaint: Floats
    satisfaction: Floats
    said_lost: Floats


_BROWSING = np.log(2.0) / (30 * DAY)


def rows(customers: Sequence[Customer], at: Sequence[int], overdue_hours: float) -> Floats:
    """What does not change while a customer is silent, one contiguous row per fact. Complaints are overdue
    or not as of ``at`` (microseconds)."""
    overdue = overdue_hours * HOUR
    return np.array(
        [
            (
                c.last_purchase,
                c.orders - 1,
                c.rhythm.now.gaps,
                c.rhythm.now.mean,
                c.rhythm.now.variance,
                c.browsed[1],
                c.last_browse,
                len(c.open_since),
                sum(1 for opened in c.open_since if instant - opened >= overdue) if c.open_since else 0,
                c.closed_at,
                c.satisfaction if c.satisfaction >= 0 else 1.0,
                c.lost_at > c.last_purchase,
            )
            for c, instant in zip(customers, at, strict=True)
        ],
        dtype=np.float64,
    ).T.copy()


def at_instants(facts: Floats, at: NDArray[np.int64]) -> Inputs:
    """The inputs of the customers of ``rows`` at instants: one of each, or a table with a column for each."""
    silent = np.maximum(at - facts[0], 0.0)
    return Inputs(
        recency=silent / DAY,
        repeats=np.maximum(facts[1], 0.0),
        gaps=facts[2],
        gap_mean=facts[3],
        gap_variance=facts[4],
        browsing=facts[5] * np.exp(-_BROWSING * np.maximum(at - facts[6], 0.0)),
        open_complaints=facts[7],
        overdue_complaints=facts[8],
        recent_complaint=((facts[9] > 0) & (at - facts[9] < RECENT_DAYS * DAY)).astype(np.float64),
        satisfaction=facts[10],
        said_lost=facts[11],
    )


def inputs(customers: Sequence[Customer], at: Sequence[int], overdue_hours: float) -> Inputs:
    """The inputs of each customer at its instant (microseconds). A row of one customer is the same
    whatever stands beside it."""
    return at_instants(rows(customers, at, overdue_hours), np.array(at, dtype=np.int64))
