"""Evidence for tests: a customer with nothing known but what a test says, scored by what a test says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alerts.reasons import Evidence
from features import matrix
from features.cold import Cold
from features.customer import Customer
from features.matrix import Inputs
from models.churn import GROUPS
from streams.alerts import ScoreSource
from tests.application import day

OVERDUE = 48.0


def evidence(
    customer: Customer,
    at: int,
    cold: Cold | None = None,
    *,
    base: float = 0.0,
    usual: Mapping[str, float] | None = None,
    source: ScoreSource = "statistical",
    inputs: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
    **more: float,
) -> Evidence:
    """What a score rests on; ``weights`` (or by name) by group, ``inputs`` in place of what follows from the customer."""
    x = matrix.inputs([customer], [at], OVERDUE)
    for name, value in (inputs or {}).items():
        x = x._replace(**{name: x.recency * 0.0 + value})
    assert isinstance(x, Inputs)
    given = {**dict.fromkeys(GROUPS, 0.0), **(weights or {}), **more}
    return Evidence(
        customer=customer,
        cold=cold or Cold(),
        at=at,
        x=x,
        groups=tuple(given),
        contributions=tuple(given.values()),
        base=base,
        usual=usual or {},
        source=source,
        overdue_hours=OVERDUE,
    )


BUYER = Customer(events=1, orders=1, first_seen=day(0), first_purchase=day(0), last_purchase=day(0))
"""Bought once on day 0."""
