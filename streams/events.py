"""The events that churnwatch reads: one tagged union, with bounds on every field.

Each class is one ``type`` of the contract. Unknown fields are ignored, an optional field may be
absent or ``null``, and whatever breaks a bound is refused before it reaches a customer. What a
single field cannot say (the key is the customer, a known currency, no time from the future) is
checked by :mod:`streams.codec`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final, Literal, TypeAlias, final

import msgspec
from msgspec import Meta

Micros: TypeAlias = int
"""An instant: microseconds since the Unix epoch, UTC."""

CONTROL: Final = r"[\x00-\x1f\x7f-\x9f]"
_NO_CONTROL: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"

Id = Annotated[str, Meta(min_length=1, max_length=64)]
# The codec looks for control characters itself: a regular expression here would cost as much as
# decoding the rest of the event.
Customer = Annotated[str, Meta(min_length=1, max_length=128, extra_json_schema={"pattern": _NO_CONTROL})]
Time = Annotated[datetime, Meta(tz=True)]
Name = Annotated[str, Meta(max_length=128)]
Source = Annotated[str, Meta(max_length=512)]
Text = Annotated[str, Meta(max_length=20_000)]
Currency = Annotated[str, Meta(min_length=1, max_length=16)]
Amount = Annotated[float, Meta(ge=0, le=1e12)]
Quantity = Annotated[float, Meta(ge=0, le=1e9)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Points = Annotated[float, Meta(ge=-1e12, le=1e12)]
Score = Annotated[float, Meta(ge=0, le=1e6)]
Scale = Annotated[float, Meta(gt=0, le=1e6)]
Severity = Annotated[int, Meta(ge=0, le=10)] | Annotated[str, Meta(max_length=32)]
Level = Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] | Name
Day = Annotated[str, Meta(max_length=40, pattern=r"^\d{4}-\d{2}-\d{2}([Tt ].+)?$")]
"""A date, or an instant in RFC 3339."""
Key = Annotated[str, Meta(min_length=1, max_length=64)]
Value = (
    bool
    | Annotated[int, Meta(ge=-(2**53), le=2**53)]
    | Annotated[float, Meta(ge=-1e15, le=1e15)]
    | Annotated[str, Meta(max_length=1024)]
    | None
)
Attributes = Annotated[dict[Key, Value], Meta(max_length=100)]
ChannelConsent = Annotated[dict[Key, bool], Meta(max_length=32)]
Consent = Annotated[dict[Key, bool | ChannelConsent], Meta(max_length=32)]
"""Purpose to yes or no, or purpose to channel class to yes or no."""
ExternalIds = Annotated[dict[Key, Name], Meta(max_length=32)]

ComplaintKind = Literal["product", "service", "price", "delivery", "other"]
ComplaintChannel = Literal["phone", "chat", "social", "store", "web"]
Status = Literal["answered", "resolved", "reopened", "closed"]


class Line(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One line of an order; ``amount`` is what was paid for the whole line, in the order's currency.
    ``list_price`` is for one piece, ``discount`` and ``cost`` for the line. A line without ``sku``
    and ``category`` counts as money only.
    """

    amount: Amount
    sku: Name | None = None
    category: Name | None = None
    quantity: Quantity | None = None
    brand: Name | None = None
    list_price: Amount | None = None
    discount: Amount | None = None
    coupon: Name | None = None
    cost: Amount | None = None


Lines = Annotated[tuple[Line, ...], Meta(min_length=1, max_length=1000)]


class Parts(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a survey's score is made of, each on the survey's scale."""

    quality: Score | None = None
    price: Score | None = None
    service: Score | None = None
    environment: Score | None = None
    delivery: Score | None = None


class _Common(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag_field="type"):
    """What every event of a customer has; ``history`` marks what comes from an archive."""

    id: Id
    customer: Customer
    time: Time
    source: Source | None = None
    history: bool = False


class Purchase(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="purchase"):
    """An order that was paid."""

    lines: Lines
    order: Name | None = None
    channel: Name | None = None
    store: Name | None = None
    region: Name | None = None
    currency: Currency | None = None


class Return(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="return"):
    """Goods that came back; amounts are positive."""

    lines: Lines
    order: Name | None = None
    reason: Name | None = None
    currency: Currency | None = None


class View(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="view"):
    """A look at a product or a category."""

    sku: Name | None = None
    category: Name | None = None
    channel: Name | None = None
    device: Name | None = None


class Search(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="search"):
    """A search in the shop and how many results it had."""

    query: Annotated[str, Meta(max_length=1024)] | None = None
    results: Count | None = None


class Cart(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="cart"):
    """Something was put into the cart or taken out; ``amount`` is in the base currency."""

    action: Literal["add", "remove"]
    sku: Name | None = None
    category: Name | None = None
    quantity: Quantity | None = None
    amount: Amount | None = None


class Checkout(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="checkout"):
    """The checkout was opened; ``amount`` is the cart's value in the base currency."""

    amount: Amount | None = None


class Review(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="review"):
    """A product was rated, 1 to 5."""

    rating: Annotated[float, Meta(ge=1, le=5)]
    sku: Name | None = None
    text: Text | None = None


class Use(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="use"):
    """A product or service was used, for ``duration`` seconds."""

    sku: Name | None = None
    duration: Seconds | None = None
    context: Name | None = None


class Complaint(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="complaint"):
    """A complaint was opened; ``complaint`` is its id. ``severity`` is a number 0 to 10 or a word."""

    complaint: Id
    kind: ComplaintKind
    severity: Severity | None = None
    sku: Name | None = None
    category: Name | None = None
    region: Name | None = None
    representative: Name | None = None
    department: Name | None = None
    channel: ComplaintChannel | None = None
    text: Text | None = None


class ComplaintUpdate(
    _Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="complaint_update"
):
    """A complaint went on or ended."""

    complaint: Id
    status: Status
    resolution: Text | None = None
    root_cause: Text | None = None


class Inquiry(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="inquiry"):
    """A question was asked; ``inquiry`` is its id."""

    inquiry: Id
    topic: Name | None = None
    severity: Severity | None = None
    sku: Name | None = None
    category: Name | None = None
    region: Name | None = None
    representative: Name | None = None
    department: Name | None = None
    channel: ComplaintChannel | None = None
    text: Text | None = None


class InquiryUpdate(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="inquiry_update"):
    """An inquiry went on or ended."""

    inquiry: Id
    status: Status
    resolution: Text | None = None
    root_cause: Text | None = None


class Survey(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="survey"):
    """An answer to a survey; ``scale`` is the highest possible ``score``."""

    score: Score
    scale: Scale
    instrument: Literal["csat", "nps", "ces", "other"] | None = None
    parts: Parts | None = None
    sku: Name | None = None
    region: Name | None = None
    comment: Text | None = None


class CustomerLost(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="customer_lost"):
    """The customer said that they leave."""

    reason: Text | None = None
    competitor: Name | None = None


class Referral(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="referral"):
    """The customer recommended the shop to ``referee``."""

    referee: Name | None = None
    channel: Name | None = None
    converted: bool | None = None


class Profile(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="profile"):
    """What is known of the customer beside events; the newest replaces the one before, whole."""

    attributes: Attributes | None = None
    tier: Name | None = None
    key_account: bool | None = None
    owner: Name | None = None
    superior: Name | None = None
    region: Name | None = None
    store: Name | None = None
    time_zone: Key | None = None
    locale: Annotated[str, Meta(max_length=35)] | None = None
    consent: Consent | None = None
    external_ids: ExternalIds | None = None
    level: Level | None = None
    points: Points | None = None
    contract_end: Day | None = None


class Contact(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="contact"):
    """Somebody of the shop got in touch; ``alert`` is the id of the alert it answers."""

    department: Name | None = None
    channel: Name | None = None
    kind: Literal["campaign", "visit", "call", "service"] | None = None
    campaign: Name | None = None
    alert: Id | None = None
    note: Text | None = None
    outcome: Text | None = None
    next_step: Text | None = None


class AlertFeedback(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="alert_feedback"):
    """What staff made of an alert; ``until`` ends a snooze."""

    alert: Id
    action: Literal["acknowledged", "dismissed", "snoozed"]
    reason: Text | None = None
    until: Time | None = None


class Merge(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="merge"):
    """``customer`` is the same person as ``into``."""

    into: Customer


class Forget(_Common, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag="forget"):
    """An erasure request."""


@final
class Clock(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="clock"
):
    """No later record of this partition has an earlier time. No customer; the key is ``clock``."""

    time: Time
    history: bool = False
    id: Id | None = None
    source: Source | None = None


Event: TypeAlias = (
    Purchase
    | Return
    | View
    | Search
    | Cart
    | Checkout
    | Review
    | Use
    | Complaint
    | ComplaintUpdate
    | Inquiry
    | InquiryUpdate
    | Survey
    | CustomerLost
    | Referral
    | Profile
    | Contact
    | AlertFeedback
    | Merge
    | Forget
)
"""Every event of a customer; a :class:`Clock` is of none."""

EVENT_CLASSES: Final[tuple[type[Event], ...]] = (
    Purchase,
    Return,
    View,
    Search,
    Cart,
    Checkout,
    Review,
    Use,
    Complaint,
    ComplaintUpdate,
    Inquiry,
    InquiryUpdate,
    Survey,
    CustomerLost,
    Referral,
    Profile,
    Contact,
    AlertFeedback,
    Merge,
    Forget,
)


def type_name(event: type[Event] | type[Clock] | Event | Clock) -> str:
    """The ``type`` of an event or of its class, as it is written: ``complaint_update``."""
    return str(event.__struct_config__.tag)


CLASS_OF: Final[dict[str, type[Event] | type[Clock]]] = {
    type_name(cls): cls for cls in (*EVENT_CLASSES, Clock)
}
"""The class of each ``type``, ``clock`` included."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(time: datetime) -> Micros:
    """The instant of an aware ``time``, exact."""
    delta = time - EPOCH
    return delta.days * 86_400_000_000 + delta.seconds * 1_000_000 + delta.microseconds


def to_datetime(at: Micros) -> datetime:
    """The instant as an aware datetime in UTC, exact. Raises OverflowError outside years 1 to 9999."""
    return EPOCH + timedelta(microseconds=at)


@lru_cache(maxsize=4_096)
def rfc3339(at: Micros) -> str:
    """The instant as ``2026-01-31T09:30:00Z``, with six decimals where it has a fraction."""
    # Spelled out: it costs a third of what datetime's own way does, and is asked for each message that leaves.
    days, rest = divmod(at, 86_400_000_000)
    second, micros = divmod(rest, 1_000_000)
    minute, second = divmod(second, 60)
    fraction = f".{micros:06d}" if micros else ""
    return f"{_date(days)}T{minute // 60:02d}:{minute % 60:02d}:{second:02d}{fraction}Z"


@lru_cache(maxsize=1_024)
def _date(days: int) -> str:
    return (EPOCH + timedelta(days=days)).date().isoformat()
