"""Snapshot 0: what is known of the whole shop before anything has been learned."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]


class Prior(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The population's rhythm, towards which a customer with few purchases is shrunk.

    ``gap_days`` is the median inter-purchase time of a customer who will come again, ``spread``
    the standard deviation of its logarithm, ``strength`` how many gaps the prior weighs.
    ``defect_a`` and ``defect_b`` are the Beta prior of leaving after any one purchase.
    Evidence beside the rhythm counts in log-odds of churn per unit (see ``models.churn``).
    """

    version: str = "prior-0"
    gap_days: Positive = 28.0
    spread: Positive = 1.1
    strength: Positive = 3.0
    defect_a: Positive = 1.0
    defect_b: Positive = 2.0
    open_complaint: float = 0.9
    overdue_complaint: float = 0.5
    recent_complaint: float = 0.3
    browsing: float = -0.35
    dissatisfaction: float = 0.6
    said_lost: float = 2.5
