"""The alerts and scores that churnwatch writes, and the messages that carry them.

Here instants are microseconds; what travels has RFC 3339 in UTC with ``Z``. What is not known is
absent there, never null or zero. Equal values give equal bytes: fields are written in the order in
which they are declared, positions sorted by topic. Probabilities arrive rounded.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from streams import topics
from streams.events import Micros, Time, rfc3339, to_micros
from streams.message import Message

Probability = Annotated[float, Meta(ge=0, le=1)]
_WRITTEN = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{6})?Z$"
Instant = Annotated[
    Micros, Meta(extra_json_schema={"type": "string", "format": "date-time", "pattern": _WRITTEN})
]
"""Microseconds, written as RFC 3339 in UTC."""
AlertId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]

Kind: TypeAlias = Literal["churn", "upsell", "winback", "service", "follow_up"]
Transition: TypeAlias = Literal[
    "raised",
    "worsened",
    "improved",
    "resolved",
    "expired",
    "withdrawn",
    "sla_breached",
    "escalated",
    "due",
    "missed",
]
Band: TypeAlias = Literal["low", "medium", "high", "lapsed"]
ScoreSource: TypeAlias = Literal["learned", "statistical"]
OfferType: TypeAlias = Literal[
    "upgrade", "cross_sell", "replenish", "category_reactivation", "cart_abandoned", "browse_abandoned"
]

TRANSITIONS: Final[dict[Kind, frozenset[Transition]]] = {
    "churn": frozenset({"raised", "worsened", "improved", "resolved", "expired"}),
    "upsell": frozenset({"raised", "withdrawn"}),
    "winback": frozenset({"raised", "resolved"}),
    "service": frozenset({"raised", "sla_breached", "escalated", "resolved"}),
    "follow_up": frozenset({"due", "missed"}),
}
"""The transitions of each kind of alert."""

TOPIC_OF_KIND: Final[dict[Kind, str]] = {
    "churn": topics.ALERTS,
    "upsell": topics.ALERTS,
    "winback": topics.ALERTS,
    "service": topics.ALERTS,
    "follow_up": topics.TASKS,
}


class Reason(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Why: a feature's value, what is usual, how much it weighs in log-odds, and a sentence."""

    feature: str
    value: float | str | None = None
    usual: float | str | None = None
    contribution: float | None = None
    text: str | None = None


class Offer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What the customer could buy next; of ``sku`` and ``category`` one is there."""

    type: OfferType
    sku: str | None = None
    category: str | None = None
    probability: Probability | None = None
    reason: str | None = None


class Versions(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What decided: the versions of the policy, the model's snapshot and the features."""

    policy: str
    model: str
    features: str


class Alert(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One transition of one episode, as it was decided.

    ``id`` (see :func:`alert_id`) travels as the event's id, all else as its data. ``episode`` is the
    instant at which the episode of this customer and kind opened and so names it, ``sequence``
    counts the customer's alerts, ``position`` is, per input topic, the offset of the last record
    that was applied when it was decided.
    """

    id: AlertId
    customer: str
    kind: Kind
    transition: Transition
    episode: Instant
    sequence: Annotated[int, Meta(ge=1)]
    decided_at: Instant
    history: bool
    churn_probability: Probability | None = None
    horizon_days: float | None = None
    risk_band: Band | None = None
    score_source: ScoreSource | None = None
    reasons: tuple[Reason, ...] = ()
    cause: str | None = None
    action: str | None = None
    contact_allowed: bool | None = None
    not_before: Instant | None = None
    revenue_at_risk: float | None = None
    lifecycle_stage: str | None = None
    rfm_segment: str | None = None
    predicted_clv: float | None = None
    expected_next_order: Instant | None = None
    offers: tuple[Offer, ...] = ()
    cause_event: str | None = None
    position: dict[str, Annotated[int, Meta(ge=0)]]
    versions: Versions
    experiment: str | None = None
    arm: str | None = None


class Score(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a customer stands, on ``customer-scores``; the newest replaces the one before."""

    customer: str
    churn_probability: Probability
    risk_band: Band
    score_source: ScoreSource
    decided_at: Instant
    position: dict[str, Annotated[int, Meta(ge=0)]]
    versions: Versions


INSTANTS: Final = frozenset({"episode", "decided_at", "not_before", "expected_next_order"})
"""The fields that are written as RFC 3339."""

_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


def encode(content: Alert | Score, withheld: str | None = None) -> bytes:
    """The data as JSON; ``withheld`` says at its end why it was not delivered."""
    if isinstance(content, Score) and withheld is None:
        # Most of what leaves: the same bytes without asking each field.
        return _encode(
            {
                "customer": content.customer,
                "churn_probability": content.churn_probability,
                "risk_band": content.risk_band,
                "score_source": content.score_source,
                "decided_at": rfc3339(content.decided_at),
                "position": dict(sorted(content.position.items())),
                "versions": content.versions,
            }
        )
    data: dict[str, object] = {}
    for name in content.__struct_fields__:
        value = getattr(content, name)
        if value is None or value == () or name == "id":
            continue
        if name in INSTANTS:
            value = rfc3339(value)
        elif name == "position":
            value = dict(sorted(value.items()))
        data[name] = value
    if withheld is not None:
        data["withheld"] = withheld
    return _encode(data)


def decode_alert(identity: str, value: bytes) -> Alert:
    """The alert that :func:`encode` wrote, with its event's id.

    Raises msgspec.DecodeError when the bytes are none.
    """
    return msgspec.convert({**_read(value), "id": identity}, Alert)


def decode_score(value: bytes) -> Score:
    """The score that :func:`encode` wrote. Raises msgspec.DecodeError when the bytes are none."""
    return msgspec.convert(_read(value), Score)


def _read(value: bytes) -> dict[str, Any]:
    data = _decode_any(value)
    for name in INSTANTS & data.keys():
        data[name] = to_micros(msgspec.convert(data[name], Time))
    return data


def alert_id(
    application: str, customer: str, kind: Kind, opened_at: Micros, transition: Transition, ordinal: int
) -> str:
    """The id of one transition of one episode, the same whenever and wherever it is decided again.

    ``opened_at`` is the episode's opening instant, ``ordinal`` tells repeated transitions of one
    episode apart.
    """
    # As a JSON array: no two different lists of parts are written the same.
    parts = _encode([application, customer, kind, opened_at, transition, ordinal])
    return hashlib.sha256(parts).hexdigest()[:32]


def alert_message(
    alert: Alert, prefix: str, application: str, withheld: str | None = None, traceparent: str | None = None
) -> Message:
    """The alert as a CloudEvent 1.0 in Kafka's binary mode, keyed by customer.

    ``prefix`` is the first part of its type (``io.churnwatch``). An alert that is ``withheld``
    (``history``, ``silent``, ``ceiling``, ``paused``, ``shadow``) goes to ``decisions`` with the reason, any other to the
    topic of its kind. ``traceparent``: the trace of the event that caused it.
    """
    headers = _headers(
        alert.id,
        f"{prefix}.{alert.kind}.{alert.transition}.v1",
        application,
        alert.customer,
        alert.decided_at,
    )
    if alert.cause_event is not None:
        headers = (*headers, ("ce_causationid", alert.cause_event.encode()))
    if traceparent is not None:
        headers = (*headers, ("ce_traceparent", traceparent.encode()))
    topic = TOPIC_OF_KIND[alert.kind] if withheld is None else topics.DECISIONS
    return Message(topic, alert.customer.encode(), encode(alert, withheld), headers)


def score_message(score: Score, prefix: str, application: str) -> Message:
    """The score as a CloudEvent for ``customer-scores``, keyed by customer."""
    parts = [application, score.customer, score.decided_at, score.churn_probability, score.risk_band]
    identity = hashlib.sha256(_encode(parts)).hexdigest()[:32]
    headers = _headers(
        identity, f"{prefix}.customer.scored.v1", application, score.customer, score.decided_at
    )
    return Message(topics.CUSTOMER_SCORES, headers[4][1], encode(score), headers)


def _headers(
    identity: str, kind: str, application: str, customer: str, decided_at: Micros
) -> tuple[tuple[str, bytes], ...]:
    subject = customer.encode()
    return (
        ("ce_id", identity.encode()),
        *_fixed(kind, application),
        ("ce_subject", subject),
        ("ce_time", rfc3339(decided_at).encode()),
        ("content-type", b"application/json"),
        ("ce_partitionkey", subject),
    )


@lru_cache(maxsize=256)
def _fixed(kind: str, application: str) -> tuple[tuple[str, bytes], ...]:
    """The headers that are the same for all of a kind."""
    return (
        ("ce_source", f"/churnwatch/{application}".encode()),
        ("ce_specversion", b"1.0"),
        ("ce_type", kind.encode()),
    )
