"""Messages of a demo, made by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from features.shop import DAY
from streams.alerts import Alert, Offer, Reason, Score, Versions, alert_id
from streams.events import to_micros

FIRST = to_micros(datetime(2026, 1, 1, tzinfo=UTC))
VERSIONS = Versions(policy="p", model="m", features="f")


def at(days: float) -> int:
    """An instant so many days after the first."""
    return FIRST + round(days * DAY)


def score(customer: str, days: float, probability: float, band: Any) -> Score:
    return Score(
        customer=customer,
        churn_probability=probability,
        risk_band=band,
        score_source="statistical",
        decided_at=at(days),
        position={},
        versions=VERSIONS,
    )


def silence(days: float, usual: float) -> Reason:
    text = f"No purchase for {days:.0f} days; {usual:.0f} days are usual for this customer."
    return Reason(feature="recency_days", value=days, usual=usual, contribution=1.5, text=text)


def alert(
    customer: str,
    days: float,
    transition: Any = "raised",
    *,
    kind: Any = "churn",
    opened: float | None = None,
    reasons: tuple[Reason, ...] = (silence(30.0, 10.0),),
    offers: tuple[Offer, ...] = (),
) -> Alert:
    episode = at(days if opened is None else opened)
    return Alert(
        id=alert_id("demo", customer, kind, episode, transition, 1),
        customer=customer,
        kind=kind,
        transition=transition,
        episode=episode,
        sequence=1,
        decided_at=at(days),
        history=False,
        churn_probability=0.7,
        risk_band="medium",
        reasons=() if offers else reasons,
        action="reminder",
        offers=offers,
        position={},
        versions=VERSIONS,
    )
