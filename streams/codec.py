"""From a Kafka record to an event, and from an event to bytes.

:meth:`Codec.decode` is total: whatever bytes, key and headers a record has, the answer is one of
:class:`Decoded`, :class:`Tick`, :class:`Tombstone` and :class:`Refused`, and the same record always
has the same answer. Plain JSON takes one pass of one decoder; a CloudEvent is first rewritten as the
plain JSON it stands for, so that both have identical results.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import cache
from types import UnionType
from typing import Any, Final, Literal, Protocol, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec

from streams import topics
from streams.events import (
    CLASS_OF,
    CONTROL,
    EPOCH,
    Cart,
    Checkout,
    Clock,
    Event,
    Merge,
    Micros,
    Profile,
    Purchase,
    Return,
    Survey,
    to_datetime,
    to_micros,
    type_name,
)
from streams.message import Message

Reason: TypeAlias = Literal[
    "empty",
    "too_large",
    "not_json",
    "invalid",
    "unknown_type",
    "missing_key",
    "key_mismatch",
    "future_time",
    "wrong_topic",
    "unknown_currency",
    "not_yet_supported",
    "not_applicable",
]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
"""Why a record was refused, in the order in which the codec looks; ``not_applicable`` is the core's."""

CLOCK_KEY: Final = b"clock"
MAX_BYTES: Final = 1_048_576
MAX_DEPTH: Final = 128
MAX_FUTURE: Final[Micros] = 5 * 60 * 1_000_000
# 0 stands for "never" in a customer.
MIN_AT: Final[Micros] = 1_000_000
MAX_AT: Final[Micros] = 2**53 - 1
"""Instants are scores of a sorted set, which are exact up to here (June 2255)."""
MAX_MINOR: Final = 2**53 - 1
SHOWN: Final = 80


class Record(Protocol):
    """A record as it was read."""

    @property
    def topic(self) -> str:
        """The Kafka name, prefix included."""

    @property
    def partition(self) -> int:
        """The partition's number."""

    @property
    def offset(self) -> int:
        """Where it lies in the partition."""

    @property
    def timestamp(self) -> int:
        """Kafka's time of the record, milliseconds since the epoch."""

    @property
    def key(self) -> bytes | None:
        """The customer in UTF-8, or :data:`CLOCK_KEY`."""

    @property
    def value(self) -> bytes | None:
        """The event; None is a tombstone."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Names and values in the order in which they were sent."""


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """An event of a customer, valid as far as a single record can tell.

    ``minor`` is the sum of the amounts in minor units of the base currency (purchase, return, cart,
    checkout; otherwise 0), ``discount`` what a purchase's lines cost less than their list value.
    """

    offset: int
    customer: str
    key: bytes
    at: Micros
    event: Event
    minor: int = 0
    discount: int = 0


class Tick(msgspec.Struct, frozen=True, gc=False):
    """A ``clock`` record: no later record of its partition has an earlier time."""

    offset: int
    at: Micros
    history: bool = False


class Tombstone(msgspec.Struct, frozen=True, gc=False):
    """A null value on a compacted topic: the customer's profile is cleared."""

    offset: int
    customer: str
    key: bytes


class Refused(msgspec.Struct, frozen=True):
    """A record that cannot be processed, whole; ``message`` says which field, what it is, what is allowed."""

    offset: int
    reason: Reason
    message: str
    record: Record


Item: TypeAlias = Decoded | Tick | Tombstone | Refused


class _NotAllowedError(Exception):
    """Carries a refusal to the one place that makes it a value."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.message = message


_decode_event = msgspec.json.Decoder(Event | Clock).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_decode_str = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

# What the decoder raises on bytes of any kind; ValidationError is a DecodeError. A ValueError is an
# integer of more digits than Python converts, or text that is not UTF-8.
_BROKEN = (msgspec.DecodeError, ValueError, RecursionError, OverflowError)

_is_control = re.compile(CONTROL).search
_is_version = re.compile(r"v?\d+", re.IGNORECASE).fullmatch
_split_path = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]").finditer
_required_field = re.compile(r"Object missing required field `([^`]+)`").fullmatch
_string = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_EXACT: Final = Context(prec=80, rounding=ROUND_HALF_EVEN)


class Codec:
    """Decodes the records of all input topics by one shop's currency and rates.

    ``currency`` is the base currency, ``minor_units`` its decimal places, ``rates`` what one unit of
    another currency is worth in it; ``compacted`` are the Kafka names of the compacted inputs, where
    a null value is a tombstone and only profiles and clocks are legal. Raises ValueError on a rate
    outside 1e-9 to 1e9.
    """

    def __init__(
        self, currency: str, minor_units: int, rates: Mapping[str, float], compacted: frozenset[str]
    ) -> None:
        self._compacted = compacted
        unit = 10**minor_units
        # Of every currency: minor units of the base currency for one, as a float and exact.
        self._scales: dict[str | None, tuple[float, Decimal]] = {}
        for name, rate in rates.items():
            if not 1e-9 <= rate <= 1e9:
                raise ValueError(f"rates.{name}: {rate!r} is not allowed; allowed is 1e-9 to 1e9")
            exact = Decimal(repr(float(rate))) * unit
            self._scales[name] = (float(exact), exact)
        self._base = (float(unit), Decimal(unit))
        self._scales[None] = self._scales[currency] = self._base

    def decode(self, record: Record) -> Item:
        """What the record means. Never raises, whatever its bytes."""
        try:
            value = record.value
            compacted = record.topic in self._compacted
            if value is None and compacted:
                return Tombstone(record.offset, *_customer_of(record.key))
            if value and len(value) > MAX_BYTES:
                raise _NotAllowedError("too_large", f"value: {len(value)} bytes; allowed are {MAX_BYTES}")
            if record.headers:
                value = _plain(record.headers, value)
            if not value:
                raise _NotAllowedError("empty", "value: empty; allowed is an event as JSON")
            if len(value) > 2 * MAX_DEPTH:
                _check_depth(value)
            try:
                event = _decode_event(value)
            except _BROKEN as error:
                raise _explain(value, error) from None

            key = record.key
            # `type(...) is` and the instant spelled out: isinstance and a call cost a tenth of the whole each.
            kind = type(event)
            since = event.time - EPOCH
            at = since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds
            if type(event) is Clock:
                if key != CLOCK_KEY:
                    raise _wrong_key(key, CLOCK_KEY)
                if at > record.timestamp * 1000 + MAX_FUTURE or not MIN_AT <= at <= MAX_AT:
                    raise _wrong_instant(event.time, record)
                return Tick(record.offset, at, event.history)
            customer = event.customer
            if not customer.isprintable() and _is_control(customer):
                raise _NotAllowedError(
                    "invalid", f"customer: {_shown(customer)} is not allowed; it has control characters"
                )
            expected = customer.encode()
            if key != expected:
                raise _wrong_key(key, expected)
            if at > record.timestamp * 1000 + MAX_FUTURE or not MIN_AT <= at <= MAX_AT:
                raise _wrong_instant(event.time, record)

            if compacted and kind is not Profile:
                raise _NotAllowedError(
                    "wrong_topic",
                    f"type: {type_name(event)!r} is not allowed on a compacted topic;"
                    f" allowed are {_listed(topics.ONLY_ON_CUSTOMERS)}",
                )
            minor = discount = 0
            if type(event) is Purchase or type(event) is Return:
                minor, discount = self._money(event)
            elif type(event) is Cart or type(event) is Checkout:
                if event.amount is not None:
                    minor = _to_minor(event.amount, self._base)
            elif kind in _CHECKED:
                _check_rare(event)
            return Decoded(record.offset, customer, expected, at, event, minor, discount)
        except _NotAllowedError as no:
            return Refused(record.offset, no.reason, no.message, record)

    def _money(self, event: Purchase | Return) -> tuple[int, int]:
        """What was paid, and how much less than the list value (where a line of a purchase tells)."""
        scale = self._scales.get(event.currency)
        if scale is None:
            allowed = _listed(name for name in self._scales if name is not None)
            raise _NotAllowedError(
                "unknown_currency",
                f"currency: {_shown(event.currency)} is not allowed; allowed are {allowed}",
            )
        minor = discount = 0
        factor = scale[0]
        for line in event.lines:
            product = line.amount * factor
            paid = round(product)
            # As in _to_minor: only what may lie at a half needs the exact way.
            if product > 1e12 or abs(product - paid) > 0.49:
                paid = _to_minor(line.amount, scale)
            minor += paid
            if line.list_price is not None:
                pieces = 1.0 if line.quantity is None else line.quantity
                discount += max(0, _to_minor(line.list_price * pieces, scale) - paid)
            elif line.discount is not None:
                discount += _to_minor(line.discount, scale)
        if minor > MAX_MINOR or discount > MAX_MINOR:
            raise _NotAllowedError(
                "invalid", f"lines: {max(minor, discount)} minor units in all; allowed are {MAX_MINOR}"
            )
        return minor, 0 if type(event) is Return else discount


def traceparent(record: Record) -> str | None:
    """The trace that a record belongs to, as W3C's Trace Context writes it: the CloudEvents attribute (binary or
    structured), Kafka's header, or a field of a plain event, the first that is there. None: there is none, or it is
    not valid."""
    said = dict(record.headers)
    found = said.get("ce_traceparent") or said.get("traceparent")
    if found is None and record.value is not None and b"traceparent" in record.value:
        try:
            found = (_traced.decode(record.value).traceparent or "").encode()
        except _BROKEN:
            return None
    if found is None or (valid := _TRACEPARENT.fullmatch(found)) is None:
        return None
    version, trace, parent = valid.group(1, 2, 3)
    if version == b"ff" or not trace.strip(b"0") or not parent.strip(b"0"):
        return None
    return found.decode()


class _Traced(msgspec.Struct):
    traceparent: str | None = None


_traced: Final = msgspec.json.Decoder(_Traced)
_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def encode(event: Event) -> bytes:
    """The event as plain JSON, without the optional fields that it does not have."""
    return _encode(event)


def encode_clock(at: Micros, history: bool) -> bytes:
    """A ``clock`` record's value; its key is :data:`CLOCK_KEY`."""
    return _encode(Clock(time=to_datetime(at), history=history))


PREFIX: Final = "churnwatch-"


def dead_letter(refused: Refused, source_topic: str, stage: str, attempts: int | None = None) -> Message:
    """The record with its original key, value and headers, and why it could not be processed.

    ``source_topic`` is the logical name, ``stage`` where it stopped (``decode``, ``apply``),
    ``attempts`` how often it was tried, this time included: by default one more than the record's
    own headers say. What an earlier attempt said of itself is replaced.
    """
    record = refused.record
    if attempts is None:
        attempts = attempts_of(record) + 1
    kept = [
        (name, value if isinstance(value, bytes) else b"")
        for name, value in record.headers
        if not name.startswith(PREFIX)
    ]
    said = {
        "topic": source_topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": str(record.timestamp),
        "stage": stage,
        "error": refused.reason,
        "message": refused.message,
        "attempts": str(attempts),
    }
    added = [(PREFIX + name, text.encode(errors="backslashreplace")) for name, text in said.items()]
    return Message(topics.DEAD_LETTERS, record.key, record.value, (*kept, *added))


def attempts_of(record: Record) -> int:
    """How often the record was tried before, as a replayed dead letter's headers say; 0 for any other."""
    for name, value in record.headers:
        if name == PREFIX + "attempts" and value is not None and value.isdigit():
            return min(int(value[:9]), 1_000_000)
    return 0


# --- checks ------------------------------------------------------------------------------------


def _wrong_key(key: bytes | None, expected: bytes) -> _NotAllowedError:
    if not key:
        return _NotAllowedError("missing_key", f"key: missing; allowed is {_shown(expected)}")
    return _NotAllowedError(
        "key_mismatch", f"key: {_shown(key)} is not allowed; it must be {_shown(expected)}"
    )


def _wrong_instant(time: datetime, record: Record) -> _NotAllowedError:
    """Only a record's own Kafka timestamp bounds its time, so that a re-read decides the same."""
    at = to_micros(time)
    field = f"time: {_shown(time.isoformat())} is not allowed;"
    if not MIN_AT <= at <= MAX_AT:
        low, high = to_datetime(MIN_AT).isoformat(), to_datetime(MAX_AT).isoformat()
        return _NotAllowedError("invalid", f"{field} allowed is {low} to {high}")
    if record.timestamp < 0:
        return _NotAllowedError("future_time", f"{field} the record has no Kafka timestamp to judge it by")
    written = to_datetime(record.timestamp * 1000).isoformat()
    return _NotAllowedError(
        "future_time", f"{field} at most 5 minutes after the record's Kafka timestamp, {written}"
    )


def _customer_of(key: bytes | None) -> tuple[str, bytes]:
    """The customer that a tombstone's key names, and the key."""
    if not key:
        raise _NotAllowedError("missing_key", "key: missing; allowed is the customer in UTF-8")
    try:
        customer = key.decode()
    except UnicodeDecodeError:
        raise _NotAllowedError("invalid", f"key: {_shown(key)} is not allowed; it is not UTF-8") from None
    if len(customer) > 128 or _is_control(customer):
        raise _NotAllowedError(
            "invalid",
            f"key: {_shown(key)} is not allowed; at most 128 characters and no control characters",
        )
    return customer, key


_CHECKED: Final = frozenset({Survey, Profile, Merge})


def _check_rare(event: Event) -> None:
    """What a single field's bounds cannot say, for the types of :data:`_CHECKED`."""
    if isinstance(event, Survey) and event.score > event.scale:
        raise _NotAllowedError(
            "invalid", f"score: {event.score!r} is not allowed; at most the scale, {event.scale!r}"
        )
    if isinstance(event, Profile) and event.contract_end is not None:
        try:
            datetime.fromisoformat(event.contract_end)
        except ValueError:
            raise _NotAllowedError(
                "invalid",
                f"contract_end: {_shown(event.contract_end)} is not allowed;"
                " allowed is a date or an instant of RFC 3339",
            ) from None
    if isinstance(event, Merge) and (_is_control(event.into) or event.into == event.customer):
        raise _NotAllowedError(
            "invalid",
            f"into: {_shown(event.into)} is not allowed; another customer without control characters is",
        )
    if isinstance(event, Merge):
        raise _NotAllowedError(
            "not_yet_supported", f"type: {type_name(event)!r} is kept until it is supported"
        )


def _check_depth(value: bytes) -> None:
    """Refuses what nests too deep, before the decoder does: its own limit depends on its caller's stack."""
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return
    brackets = _string.sub(b"", value).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return
        inner = brackets.replace(b"{}", b"").replace(b"[]", b"")
        if len(inner) == len(brackets):
            raise _NotAllowedError("not_json", "not JSON: the brackets do not match")
        brackets = inner
    if brackets:
        raise _NotAllowedError("invalid", f"value: nested too deep; allowed are {MAX_DEPTH} levels")


def _to_minor(amount: float, scale: tuple[float, Decimal]) -> int:
    """The amount as it was written, times the rate, rounded half to even.

    The float product decides unless it lies so near to a half that its own error could.
    """
    product = amount * scale[0]
    minor = round(product)
    if abs(abs(product - minor) - 0.5) > 1e-9 + product * 2e-15:
        return minor
    return int(_EXACT.to_integral_value(_EXACT.multiply(Decimal(repr(amount)), scale[1])))


# --- CloudEvents -------------------------------------------------------------------------------


def _plain(headers: Sequence[tuple[str, bytes | None]], value: bytes | None) -> bytes | None:
    """The plain JSON that a CloudEvent stands for; the value itself when it is none."""
    content_type = b""
    attributes: dict[str, bytes] = {}
    for name, content in headers:
        if name.startswith("ce_"):
            if content is not None:
                attributes[name[3:]] = content
        elif content is not None and name.lower() == "content-type":
            content_type = content
    media = content_type.partition(b";")[0].strip().lower()
    if media.startswith(b"application/cloudevents"):
        if not value:
            return value
        if media != b"application/cloudevents+json":
            raise _NotAllowedError(
                "invalid",
                f"content-type: {_shown(media)} is not allowed; allowed is application/cloudevents+json",
            )
        return _structured(value)
    if "specversion" not in attributes:
        return value
    if media and not _is_json(media):
        raise _NotAllowedError(
            "invalid", f"content-type: {_shown(media)} is not allowed; allowed is application/json"
        )
    texts: dict[str, str] = {}
    for name in ("specversion", "id", "type", "source", "subject", "time"):
        if name in attributes:
            try:
                texts[name] = attributes[name].decode()
            except UnicodeDecodeError:
                raise _NotAllowedError(
                    "invalid", f"ce_{name}: {_shown(attributes[name])} is not allowed; it is not UTF-8"
                ) from None
    return _merged(texts, _fields("value", value) if value else {})


def _structured(value: bytes) -> bytes:
    """The plain JSON of a structured CloudEvent."""
    _check_depth(value)
    envelope = _fields("value", value)
    texts: dict[str, str] = {}
    for name in ("specversion", "id", "type", "source", "subject", "time"):
        raw = bytes(envelope.get(name, msgspec.Raw(b"null")))
        if raw.strip() != b"null":
            try:
                texts[name] = _decode_str(raw)
            except _BROKEN:
                raise _NotAllowedError("invalid", f"{name}: {_shown(raw)} is not allowed; text is") from None
    if "data" in envelope:
        return _merged(texts, _fields("data", bytes(envelope["data"])))
    if "data_base64" in envelope:
        try:
            data = base64.b64decode(_decode_str(bytes(envelope["data_base64"])), validate=True)
        except (*_BROKEN, binascii.Error):
            raise _NotAllowedError(
                "invalid", "data_base64: not base64; allowed is an object in base64"
            ) from None
        _check_depth(data)
        return _merged(texts, _fields("data_base64", data))
    return _merged(texts, {})


def _merged(attributes: dict[str, str], data: dict[str, msgspec.Raw]) -> bytes:
    """The data with what the attributes say; they win, except ``source``, which the data may know better."""
    version = attributes.get("specversion")
    if version != "1.0":
        raise _NotAllowedError("invalid", f"specversion: {_shown(version)} is not allowed; allowed is '1.0'")
    for name in ("id", "type"):
        if name not in attributes:
            raise _NotAllowedError("invalid", f"{name}: missing; a CloudEvent requires it")
    parts = [part for part in attributes["type"].split(".") if not _is_version(part)]
    said = {"type": parts[-1] if parts else attributes["type"], "id": attributes["id"]}
    if "subject" in attributes:
        said["customer"] = attributes["subject"]
    if "time" in attributes:
        said["time"] = attributes["time"]
    if "source" in attributes and "source" not in data:
        said["source"] = attributes["source"]
    return _encode({**data, **{name: msgspec.Raw(_encode(text)) for name, text in said.items()}})


def _fields(where: str, value: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode_fields(value)
    except msgspec.ValidationError as error:
        raise _NotAllowedError("invalid", f"{where}: {error}") from None
    except _BROKEN as error:
        raise _NotAllowedError("not_json", f"{where}: not JSON: {error}") from None


def _is_json(media: bytes) -> bool:
    return media in (b"application/json", b"text/json") or media.endswith(b"+json")


# --- messages ----------------------------------------------------------------------------------


def _explain(value: bytes, error: Exception) -> _NotAllowedError:
    """Why the decoder refused the bytes: which field, its value, what is allowed."""
    try:
        whole = _decode_any(value)
    except _BROKEN as broken:
        if not isinstance(error, msgspec.ValidationError):
            return _NotAllowedError("not_json", f"not JSON: {error}")
        if not isinstance(broken, msgspec.ValidationError):
            return _NotAllowedError("not_json", f"not JSON: {broken}")
        whole = None
    if isinstance(whole, dict):
        kind = whole.get("type")
        if "type" in whole and (not isinstance(kind, str) or kind not in CLASS_OF):
            return _NotAllowedError(
                "unknown_type", f"type: {_shown(kind)} is not allowed; allowed are {_listed(CLASS_OF)}"
            )
    text = str(error)
    what, _, where = text.rpartition(" - at ")
    if not what:
        what, where = text, ""
    path = where[where.find("$") + 1 : where.rfind("`")].removeprefix(".")
    required = _required_field(what)
    if required is not None:
        field = f"{path}.{required[1]}" if path else required[1]
        return _NotAllowedError("invalid", f"{field}: missing; it is required")
    allowed = what[:1].lower() + what[1:]
    if whole is None:
        return _NotAllowedError("invalid", f"{path or 'value'}: {allowed}")
    found: Any = whole
    for name, index in (match.groups() for match in _split_path("." + path)):
        try:
            found = found[name] if name is not None else found[int(index)]
        except (KeyError, IndexError, TypeError):
            break
    if what.startswith("Invalid enum value") and isinstance(whole, dict):
        allowed = "allowed are " + _listed(_words(str(whole.get("type")), path))
    elif what == "Invalid RFC3339 encoded datetime":
        allowed = "allowed is RFC 3339 with an offset, like 2026-01-31T09:30:00Z"
    return _NotAllowedError("invalid", f"{path or 'value'}: {_shown(found)} is not allowed; {allowed}")


@cache
def _words(kind: str, field: str) -> tuple[str, ...]:
    """The words that a field of the event type allows."""
    hint = get_type_hints(CLASS_OF[kind]).get(field)
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(word for option in options if get_origin(option) is Literal for word in get_args(option))


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def _shown(value: object) -> str:
    """The value as it is written in a message, at most :data:`SHOWN` characters."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    try:
        text = repr(value[: SHOWN + 1] if isinstance(value, str | bytes) else value)
    except ValueError:  # an integer of more digits than Python converts
        return "a number"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
