"""Snapshots: what is known of the whole shop at one instant, as a document that a person can read.

Snapshot 0 is :class:`Prior`, from the settings. Every later one is a :class:`Snapshot`, which the trainer
publishes to the topic ``models``: JSON, of a numbered format, named by the instant of its newest label and a
digest of all it holds. Two that differ never share a name, and one that was changed on the way is refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from models.purchase_rate import Rates
from models.spend import Spend
from streams.alerts import ScoreSource
from streams.events import Micros, rfc3339

Positive = Annotated[float, Meta(gt=0)]

FORMAT: Final = 1
"""Of :class:`Snapshot`. A change of its fields is a new number."""
STATISTICAL: Final = ("rhythm", "purchase_rate")
"""The models that learn from no label: the score of the settings' prior, and buy-till-you-die."""

CHAMPION: Final = "additive"
"""The model that is made to decide."""


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


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a snapshot: nothing in it is unknown."""


class Usual(_Part, frozen=True, kw_only=True):
    """What is usual for an input over the shop, of customers who then came again within the leading horizon:
    the quartiles, in the unit of the input."""

    low: float
    middle: float
    high: float


class Calibration(_Part, frozen=True, kw_only=True):
    """The log-odds that are stated are ``scale`` times the model's own plus ``shift``; 1 and 0 where repair
    would not have lowered the log-loss of labels it had not seen. ``gain``: by how much it did, in nats a
    label, faded over the last labels; negative: it would have cost."""

    scale: float = 1.0
    shift: float = 0.0
    gain: float = 0.0


class Learned(_Part, frozen=True, kw_only=True):
    """One model as it may be scored: its ``calibration``, and its own plain ``data`` (see ``models.learned``)."""

    calibration: Calibration = Calibration()
    data: dict[str, Any] = {}


class Figures(_Part, frozen=True, kw_only=True):
    """How good one model was on labels that it learned only afterwards: the last ``labels``, the oldest of
    them matured at ``since``. What cannot be said yet is absent."""

    model: str
    labels: int
    since: Micros
    log_loss: float | None = None
    auc: float | None = None
    brier: float | None = None
    expected: float | None = None
    """The mean probability it stated; ``happened`` the share that churned."""
    happened: float | None = None


class Reliability(_Part, frozen=True, kw_only=True):
    """One tenth of the probabilities that the promoted model stated: how many, their mean, the share that churned."""

    above: float
    labels: int
    stated: float | None = None
    churned: float | None = None


class Promotion(_Part, frozen=True, kw_only=True):
    """Which model decides, ``since`` the label that matured then, and ``why``."""

    model: str
    since: Micros
    why: str


class Gate(_Part, frozen=True, kw_only=True):
    """Whether there are labels enough for a learned model to decide: of each outcome ``needed``.

    ``until`` is when it opens at the present pace; absent when it is open, or when nothing tells the pace.
    """

    open: bool
    needed: int
    churned: int
    stayed: int
    until: Micros | None = None


class Drift(_Part, frozen=True, kw_only=True):
    """Something has moved: ``what`` is ``error``, ``score`` or ``input:<name>``; its mean was ``before`` and is
    ``after`` over the labels that showed it, noticed at a label that matured ``at``."""

    what: str
    at: Micros
    before: float
    after: float


class Horizon(_Part, frozen=True, kw_only=True):
    """What was learned for one horizon of so many ``days``. ``labels``: learned so far; ``models``: the promoted
    one, if it is learned, and the champion; ``promotions``: the newest last."""

    days: float
    labels: int
    promoted: Promotion
    promotions: tuple[Promotion, ...]
    gate: Gate
    models: dict[str, Learned]
    figures: tuple[Figures, ...]
    reliability: tuple[Reliability, ...]
    drift: tuple[Drift, ...]


class Snapshot(_Part, frozen=True, kw_only=True):
    """All that is known of the shop as of ``effective``, the instant at which its newest label matured.

    ``made_at`` equals it: no wall clock has a part in a snapshot. ``source``: what decides under the leading
    horizon, which is the first of ``horizons``. ``features``: the version of the inputs, named in ``inputs`` in
    their order. ``purchase_rate``: how often the shop's customers buy and leave; ``spend``: what they pay,
    None until there are customers enough.
    """

    format: int = FORMAT
    version: str = ""
    effective: Micros
    made_at: Micros
    source: ScoreSource
    features: str
    inputs: tuple[str, ...]
    horizons: Annotated[tuple[Horizon, ...], Meta(min_length=1)]
    purchase_rate: Rates
    spend: Spend | None
    usual: dict[str, Usual]

    @property
    def leading(self) -> Horizon:
        """The horizon that decides."""
        return self.horizons[0]

    @property
    def horizon_days(self) -> float:
        """Days of the leading horizon."""
        return self.horizons[0].days

    @property
    def promoted(self) -> str:
        """The model that decides under the leading horizon."""
        return self.horizons[0].promoted.model


class UnknownSnapshot(ValueError):
    """A snapshot cannot be used; the message says why and what to do."""


class Pin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator has said which snapshot decides. It carries the snapshot, which may be deleted meanwhile.

    ``pinned_at`` is the wall clock of the operator's machine; nothing is decided by it.
    """

    format: int = FORMAT
    pinned_at: Micros
    snapshot: msgspec.Raw


PIN: Final = b"pin"
"""The key of the pin in ``models``; every other key is a version."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Snapshot)
_pin_decoder = msgspec.json.Decoder(Pin)


class _Format(msgspec.Struct):
    format: int
    version: str = "without a name"


_format_decoder = msgspec.json.Decoder(_Format)


def named(snapshot: Snapshot) -> Snapshot:
    """The snapshot under its name: the instant of its newest label and 16 digits of its digest."""
    # As it will be read: a whole number that stands for a float is written in another way then.
    snapshot = _decoder.decode(encode(snapshot))
    instant = rfc3339(snapshot.effective)[:19].replace("-", "").replace(":", "")
    return msgspec.structs.replace(snapshot, version=f"{instant}-{_digest(snapshot)}")


def encode(snapshot: Snapshot) -> bytes:
    """As it travels: JSON, the same bytes for the same snapshot."""
    return _encoder.encode(snapshot)


def readable(snapshot: Snapshot) -> str:
    """The same, laid out for a person."""
    return msgspec.json.format(encode(snapshot), indent=2).decode()


def decode(value: bytes) -> Snapshot:
    """The snapshot that :func:`encode` wrote. Raises :class:`UnknownSnapshot`."""
    _known(value)
    try:
        snapshot = _decoder.decode(value)
    except msgspec.DecodeError as error:
        raise UnknownSnapshot(f"This is no model snapshot of churnwatch: {error}.") from error
    if snapshot.version.rpartition("-")[2] != _digest(snapshot):
        raise UnknownSnapshot(
            f"The model snapshot {snapshot.version} was changed after it was made: its content does not fit the digest "
            f"in its name. Take another (churnwatch model list)."
        )
    return snapshot


def encode_pin(snapshot: Snapshot, pinned_at: Micros) -> bytes:
    """The record that pins a snapshot."""
    return _encoder.encode(Pin(pinned_at=pinned_at, snapshot=msgspec.Raw(encode(snapshot))))


def decode_pin(value: bytes) -> tuple[Snapshot, Micros]:
    """The snapshot that is pinned, and since when. Raises :class:`UnknownSnapshot`."""
    _known(value)
    try:
        pin = _pin_decoder.decode(value)
    except msgspec.DecodeError as error:
        raise UnknownSnapshot(
            f"The pin in `models` is none of churnwatch's ({error}). Remove it: churnwatch model unpin."
        ) from error
    return decode(bytes(pin.snapshot)), pin.pinned_at


def _known(value: bytes) -> None:
    try:
        found = _format_decoder.decode(value)
    except msgspec.DecodeError as error:
        raise UnknownSnapshot(f"This is no model snapshot of churnwatch: {error}.") from error
    if found.format != FORMAT:
        raise UnknownSnapshot(
            f"The model snapshot {found.version} has format {found.format}, this churnwatch knows {FORMAT}: run the "
            f"release that wrote it, or pin one that is known (churnwatch model list)."
        )


def _digest(snapshot: Snapshot) -> str:
    bare = msgspec.structs.replace(snapshot, version="")
    return hashlib.sha256(_encoder.encode(bare)).hexdigest()[:16]


class Known(msgspec.Struct, frozen=True, gc=False):
    """The snapshots that ``models`` holds, oldest first, and the one that is pinned."""

    snapshots: tuple[Snapshot, ...] = ()
    pinned: Snapshot | None = None

    def at(self, clock: Micros) -> Snapshot | None:
        """The one that decides at an instant of the record clock: the pinned one, or the newest that had learned
        no label matured later. None: there is none, so the prior decides."""
        if self.pinned is not None:
            return self.pinned
        found = None
        for snapshot in self.snapshots:
            if snapshot.effective > clock:
                break
            found = snapshot
        return found

    def newest(self) -> Snapshot | None:
        """The one that decides now, under the wall clock."""
        return self.pinned or (self.snapshots[-1] if self.snapshots else None)

    def get(self, version: str) -> Snapshot | None:
        """The one of that name."""
        if self.pinned is not None and self.pinned.version == version:
            return self.pinned
        return next((s for s in self.snapshots if s.version == version), None)


def known(snapshots: Iterable[Snapshot], pinned: Snapshot | None) -> Known:
    """Snapshots in their order: by the instant of the newest label, the one that learned more later."""
    found: Mapping[str, Snapshot] = {s.version: s for s in snapshots}
    return Known(tuple(sorted(found.values(), key=_age)), pinned)


def _age(snapshot: Snapshot) -> tuple[Micros, int, str]:
    return snapshot.effective, sum(h.labels for h in snapshot.horizons), snapshot.version


class Book:
    """The records of ``models`` taken together, whoever read them.

    ``horizon_days`` and ``features`` are what a snapshot must be for; None takes any.
    """

    def __init__(self, horizon_days: float | None = None, features: str | None = None) -> None:
        self._horizon = horizon_days
        self._features = features
        self._snapshots: dict[str, Snapshot] = {}
        self._pinned: Snapshot | None = None
        self.pinned_at: int | None = None
        self.refused: Counter[str] = Counter()
        """Why snapshots were not taken, and how often."""

    def take(self, key: bytes | None, value: bytes | None) -> str | None:
        """One record. Why it was refused, or None."""
        try:
            if key == PIN:
                pinned, at = (None, None) if value is None else decode_pin(value)
                if pinned is not None:
                    self._check(pinned)
                self._pinned, self.pinned_at = pinned, at
            elif value is None:
                self._snapshots.pop((key or b"").decode(errors="replace"), None)
            else:
                snapshot = decode(value)
                self._check(snapshot)
                self._snapshots[snapshot.version] = snapshot
        except UnknownSnapshot as error:
            self.refused[str(error)] += 1
            return str(error)
        return None

    def known(self) -> Known:
        """What there is now."""
        return known(self._snapshots.values(), self._pinned)

    def refusal(self, snapshot: Snapshot) -> str | None:
        """Why a snapshot that can be read cannot be used here, or None."""
        if self._features is not None and snapshot.features != self._features:
            return (
                f"A model snapshot was learned from inputs of version {snapshot.features}, this churnwatch has "
                f"{self._features}: labels of the new version must mature first (docs/learning.md)."
            )
        if self._horizon is not None and snapshot.horizon_days != self._horizon:
            return (
                f"A model snapshot was learned for {snapshot.horizon_days:g} days, policy.horizon_days is "
                f"{self._horizon:g}: labels of the new horizon must mature first (docs/learning.md)."
            )
        return None

    def _check(self, snapshot: Snapshot) -> None:
        why = self.refusal(snapshot)
        if why is not None:
            raise UnknownSnapshot(why)
