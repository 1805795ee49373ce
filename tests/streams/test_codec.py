from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams import topics
from streams.codec import (
    CLOCK_KEY,
    MAX_BYTES,
    MAX_DEPTH,
    REASONS,
    Codec,
    Decoded,
    Item,
    Reason,
    Record,
    Refused,
    Tick,
    Tombstone,
    attempts_of,
    dead_letter,
    encode,
    encode_clock,
    traceparent,
)
from streams.events import (
    CLASS_OF,
    Cart,
    Event,
    Line,
    Merge,
    Profile,
    Purchase,
    Return,
    Search,
    Survey,
    to_datetime,
    to_micros,
)
from tests.application import Row

GOLDEN = Path(__file__).parents[1] / "golden"
NOW = datetime(2026, 4, 1, tzinfo=UTC)
CODEC = Codec("EUR", 2, {"USD": 0.9, "JPY": 0.0061}, frozenset({"shop.customers"}))


@dataclass(frozen=True)
class Read:
    """A record as a consumer hands it over."""

    value: bytes | None
    key: bytes | None = b"C-1001"
    topic: str = "shop.purchases"
    headers: Sequence[tuple[str, bytes | None]] = field(default=())
    timestamp: int = int(NOW.timestamp() * 1000)
    partition: int = 3
    offset: int = 41


def read(text: str | dict[str, Any], **more: Any) -> Read:
    return Read(text.encode() if isinstance(text, str) else json.dumps(text).encode(), **more)


def event(**fields: Any) -> dict[str, Any]:
    return {"type": "view", "id": "e1", "customer": "C-1001", "time": "2026-03-14T09:26:53Z", **fields}


def purchase(*lines: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return event(**{"type": "purchase", "lines": lines or ({"amount": 1},), **fields})


def decoded(record: Record) -> Decoded:
    item = CODEC.decode(record)
    assert isinstance(item, Decoded), item
    return item


def refused(record: Record) -> Refused:
    item = CODEC.decode(record)
    assert isinstance(item, Refused), item
    assert item.record is record
    return item


def golden(kind: str) -> dict[str, Any]:
    example: dict[str, Any] = json.loads((GOLDEN / "events" / f"{kind}.json").read_text(encoding="utf-8"))
    return example


def home_of(kind: str) -> str:
    return "shop." + topics.TOPIC_OF.get(kind, topics.PURCHASES)


# --- plain -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(set(CLASS_OF) - {"clock", "merge"}))
def test_the_golden_event_is_decoded_on_its_topic_and_comes_back_from_its_own_bytes(kind: str) -> None:
    item = decoded(read(golden(kind), topic=home_of(kind)))
    assert isinstance(item.event, CLASS_OF[kind])
    assert (item.offset, item.customer, item.key) == (41, "C-1001", b"C-1001")
    assert item.at == to_micros(item.event.time)
    assert decoded(Read(encode(item.event), topic=home_of(kind))) == item


def test_a_record_of_aiokafka_is_a_record() -> None:
    record: ConsumerRecord[bytes, bytes] = ConsumerRecord(
        topic="shop.purchases",
        partition=0,
        offset=7,
        timestamp=int(NOW.timestamp() * 1000),
        timestamp_type=0,
        key=b"C-1001",
        value=json.dumps(purchase()).encode(),
        checksum=None,
        serialized_key_size=6,
        serialized_value_size=1,
        headers=(),
    )
    assert decoded(record).offset == 7


def test_a_merge_is_kept_until_it_is_supported() -> None:
    assert refused(read(golden("merge"))).reason == "not_yet_supported"


def test_a_merge_that_is_wrong_is_invalid_rather_than_kept_for_later() -> None:
    assert refused(read(event(type="merge"))).reason == "invalid"
    assert refused(read(event(type="merge", into="C-1001"))).reason == "invalid"
    assert refused(read(event(type="merge", into="a\x00b"))).reason == "invalid"


def test_a_clock_record_is_a_tick_on_every_input_topic() -> None:
    value = encode_clock(1_770_000_000_000_001, history=True)
    for topic in topics.INPUTS:
        item = CODEC.decode(Read(value, key=CLOCK_KEY, topic="shop." + topic))
        assert item == Tick(41, 1_770_000_000_000_001, True)
    assert CODEC.decode(Read(encode_clock(1_000_000, history=False), key=CLOCK_KEY)) == Tick(
        41, 1_000_000, False
    )


def test_a_clock_record_under_another_key_is_refused() -> None:
    assert refused(Read(encode_clock(0, history=False))).reason == "key_mismatch"
    assert refused(Read(encode_clock(0, history=False), key=None)).reason == "missing_key"


def test_a_null_value_is_a_tombstone_on_a_compacted_topic_only() -> None:
    assert CODEC.decode(Read(None, topic="shop.customers")) == Tombstone(41, "C-1001", b"C-1001")
    assert refused(Read(None)).reason == "empty"
    assert refused(Read(b"", topic="shop.customers")).reason == "empty"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "missing_key"),
        (b"", "missing_key"),
        (b"\xff", "invalid"),
        (b"a\nb", "invalid"),
        (b"x" * 129, "invalid"),
    ],
)
def test_a_tombstone_needs_a_customer_for_its_key(key: bytes | None, reason: Reason) -> None:
    assert refused(Read(None, key=key, topic="shop.customers")).reason == reason


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason", "message"),
    [
        ("", "empty", "value: empty"),
        ("{", "not_json", "not JSON"),
        ('{"type":"view","id":NaN}', "not_json", "not JSON"),
        ('{"id":"\\ud800"}', "not_json", "not JSON"),
        ('[{"type":"view"}]', "invalid", "value: an array of 1 is not allowed; expected `object`"),
        ("7", "invalid", "value: 7 is not allowed; expected `object`"),
        (
            event(type="vieww"),
            "unknown_type",
            "type: 'vieww' is not allowed; allowed are alert_feedback, cart,",
        ),
        (event(type=None), "unknown_type", "type: None is not allowed"),
        ({"id": "e"}, "invalid", "type: missing; it is required"),
        ({"type": "view", "id": "e"}, "invalid", "customer: missing; it is required"),
        (event(id=""), "invalid", "id: '' is not allowed; expected `str` of length >= 1"),
        (event(id="e" * 165), "invalid", "e… is not allowed; expected `str` of length <= 64"),
        (event(id="e" * 65), "invalid", "id: 'eeee"),
        (event(id=5), "invalid", "id: 5 is not allowed; expected `str`, got `int`"),
        (event(customer="x" * 129), "invalid", "expected `str` of length <= 128"),
        (
            event(customer="a\x1fb"),
            "invalid",
            "customer: 'a\\x1fb' is not allowed; it has control characters",
        ),
        (
            event(time="2026-03-14T09:26:53"),
            "invalid",
            "time: '2026-03-14T09:26:53' is not allowed; expected `dat",
        ),
        (event(time="yesterday"), "invalid", "time: 'yesterday' is not allowed; allowed is RFC 3339"),
        (event(time=1700000000), "invalid", "time: 1700000000 is not allowed"),
        (event(time="1969-12-31T23:59:59Z"), "invalid", "allowed is 1970-01-01T00:00:01+00:00 to 2255-"),
        (event(type="purchase"), "invalid", "lines: missing; it is required"),
        (
            event(type="purchase", lines=[]),
            "invalid",
            "lines: an array of 0 is not allowed; expected `array` of",
        ),
        (purchase(*[{"amount": 1}] * 1001), "invalid", "lines: an array of 1001 is not allowed"),
        (purchase({"amount": 1}, {"sku": "x"}), "invalid", "lines[1].amount: missing; it is required"),
        (
            purchase({"amount": 1}, {"amount": -2}),
            "invalid",
            "lines[1].amount: -2 is not allowed; expected `float` >=",
        ),
        (
            purchase({"amount": "5"}),
            "invalid",
            "lines[0].amount: '5' is not allowed; expected `float`, got `str`",
        ),
        (purchase({"amount": 1e13}), "invalid", "lines[0].amount: 10000000000000.0 is not allowed"),
        (
            purchase(currency="GBP"),
            "unknown_currency",
            "currency: 'GBP' is not allowed; allowed are EUR, JPY, USD",
        ),
        (
            event(type="cart", action="put"),
            "invalid",
            "action: 'put' is not allowed; allowed are add, remove",
        ),
        (
            event(type="complaint", complaint="1", kind="x"),
            "invalid",
            "kind: 'x' is not allowed; allowed are delivery, other, price, product, service",
        ),
        (
            event(type="survey", instrument="x", score=1, scale=5),
            "invalid",
            "instrument: 'x' is not allowed; allowed are ces, csat, nps, other",
        ),
        (event(type="review", rating=6), "invalid", "rating: 6 is not allowed; expected `float` <= 5"),
        (
            event(type="survey", score=11, scale=10),
            "invalid",
            "score: 11.0 is not allowed; at most the scale, 10.0",
        ),
    ],
)
def test_a_refusal_names_the_field_its_value_and_what_is_allowed(
    value: str | dict[str, Any], reason: Reason, message: str
) -> None:
    item = refused(read(value))
    assert item.reason == reason
    assert message in item.message
    assert len(item.message) < 400


@pytest.mark.parametrize("value", ["soon", "2026-02-30", "2026-01-31Tx"])
def test_the_end_of_a_contract_is_a_date(value: str) -> None:
    item = refused(read(event(type="profile", contract_end=value), topic="shop.customers"))
    assert item.reason == "invalid"
    assert "contract_end" in item.message


def test_the_key_is_the_customer_in_utf_8() -> None:
    assert decoded(read(event(customer="Ünal"), key="Ünal".encode())).customer == "Ünal"
    assert refused(read(event(), key=b"C-1002")).reason == "key_mismatch"
    assert refused(read(event(), key=b"\xff\xfe")).reason == "key_mismatch"
    assert refused(read(event(), key=None)).reason == "missing_key"
    assert refused(read(event(), key=b"")).reason == "missing_key"


def test_only_profiles_and_clocks_travel_on_a_compacted_topic() -> None:
    item = refused(read(purchase(), topic="shop.customers"))
    assert (item.reason, "allowed are clock, profile" in item.message) == ("wrong_topic", True)
    assert isinstance(decoded(read(event(type="profile"), topic="shop.customers")).event, Profile)


def test_every_type_is_accepted_on_every_topic_that_is_not_compacted() -> None:
    for topic in set(topics.INPUTS) - topics.COMPACTED:
        for kind in set(CLASS_OF) - {"clock", "merge"}:
            assert decoded(read(golden(kind), topic="shop." + topic)).customer == "C-1001"


def test_the_time_is_at_most_five_minutes_after_the_records_own_timestamp() -> None:
    latest = NOW + timedelta(minutes=5)
    assert decoded(read(event(time=latest.isoformat()))).at == to_micros(latest)
    late = (latest + timedelta(microseconds=1)).isoformat()
    item = refused(read(event(time=late)))
    assert item.reason == "future_time"
    assert item.message == (
        f"time: '{late}' is not allowed; at most 5 minutes after the record's Kafka timestamp, 2026-04-01T00:00:00+00:00"
    )
    clock = encode_clock(to_micros(latest) + 1, history=False)
    assert refused(Read(clock, key=CLOCK_KEY)).reason == "future_time"


def test_a_record_without_a_timestamp_cannot_be_judged() -> None:
    assert refused(read(event(), timestamp=-1)).reason == "future_time"


def test_a_value_of_more_than_a_mebibyte_is_refused_before_it_is_read() -> None:
    full = read(event(unknown="x" * (MAX_BYTES - 200)))
    assert decoded(full).customer == "C-1001"
    assert refused(read(event(unknown="x" * MAX_BYTES))).reason == "too_large"


def test_how_deep_a_value_may_nest_does_not_depend_on_who_calls() -> None:
    def nested(levels: int) -> Read:
        deep = "[" * (levels - 1) + "]" * (levels - 1)
        return read(json.dumps(event())[:-1] + f',"note":"}}]{{[","unknown":{deep}}}')

    def at_depth(frames: int, record: Read) -> Item:
        return CODEC.decode(record) if frames == 0 else at_depth(frames - 1, record)

    assert isinstance(at_depth(400, nested(MAX_DEPTH)), Decoded)
    item = at_depth(400, nested(MAX_DEPTH + 1))
    assert isinstance(item, Refused)
    assert (item.reason, item.message) == ("invalid", "value: nested too deep; allowed are 128 levels")


def test_a_thousand_lines_are_not_deep() -> None:
    lines = [{"amount": 0.01, "sku": 'a "quoted" {name'}] * 1000
    assert decoded(read(purchase(*lines))).minor == 1000


@pytest.mark.parametrize(
    "value", ["[" * 200_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "]" * 1000, '"' * 1001]
)
def test_brackets_without_end_are_refused(value: str) -> None:
    assert refused(read(value)).reason in {"not_json", "invalid"}


def test_numbers_of_thousands_of_digits_are_refused_or_ignored() -> None:
    huge = "9" * 6000
    assert refused(read(json.dumps(event(type="search"))[:-1] + f',"results":{huge}}}')).reason == "invalid"
    assert isinstance(decoded(read(json.dumps(event(type="search"))[:-1] + f',"new":{huge}}}')).event, Search)


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    item = decoded(read(json.dumps(event())[:-1] + ',"id":"e2"}'))
    assert item.event.id == "e2"


# --- money -------------------------------------------------------------------------------------


def minor_of(*amounts: float, **fields: Any) -> int:
    return decoded(read(purchase(*({"amount": amount} for amount in amounts), **fields))).minor


def test_no_currency_is_the_base_currency_and_others_go_by_their_rate() -> None:
    assert minor_of(10, 5.5) == minor_of(10, 5.5, currency="EUR") == 1550
    assert minor_of(10, currency="USD") == 900
    assert minor_of(1000, currency="JPY") == 610


@pytest.mark.parametrize(
    ("amount", "minor"),
    [(0.005, 0), (0.015, 2), (0.025, 2), (1.015, 102), (1.005, 100), (2.675, 268), (0.285, 28)],
)
def test_a_half_is_rounded_to_even_by_the_amount_as_it_was_written(amount: float, minor: int) -> None:
    assert minor_of(amount) == minor


@settings(deadline=None)  # how busy the machine is proves nothing
@given(st.floats(min_value=0, max_value=1e12), st.floats(min_value=1e-6, max_value=1e4), st.integers(0, 4))
@example(0.125, 1.0, 2)
@example(1e12, 0.5, 0)
@example(4503599627.37, 1.1, 3)
def test_money_is_exact_decimal_arithmetic(amount: float, rate: float, places: int) -> None:
    codec = Codec("EUR", places, {"USD": rate}, frozenset())
    item = codec.decode(read(purchase({"amount": amount}, currency="USD")))
    exact = Fraction(repr(amount)) * Fraction(repr(rate)) * 10**places
    expected = round(exact)  # half to even, exactly
    if expected > 2**53 - 1:
        assert isinstance(item, Refused)
    else:
        assert isinstance(item, Decoded)
        assert item.minor == expected


@settings(deadline=None)  # how busy the machine is proves nothing
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=20))
def test_amounts_in_cents_add_up(cents: list[int]) -> None:
    assert minor_of(*(c / 100 for c in cents)) == sum(cents)


def test_each_line_is_rounded_before_the_sum() -> None:
    written = [0.333, 0.335, 0.345, 7.0049]
    expected = sum(int((Decimal(str(x)) * 100).to_integral_value(ROUND_HALF_EVEN)) for x in written)
    assert minor_of(*written) == expected


def test_the_sum_has_a_bound_too() -> None:
    item = Codec("EUR", 4, {}, frozenset()).decode(read(purchase({"amount": 9.1e11})))
    assert isinstance(item, Refused)
    assert item.reason == "invalid"


def test_the_discount_is_the_list_value_minus_what_was_paid() -> None:
    lines = (
        {"amount": 15, "list_price": 3, "quantity": 6, "discount": 99},
        {"amount": 4, "list_price": 5},
        {"amount": 6, "list_price": 5},
        {"amount": 1, "discount": 0.5},
        {"amount": 1},
    )
    assert decoded(read(purchase(*lines))).discount == 300 + 100 + 0 + 50
    assert decoded(read(purchase(*lines, type="return"))).discount == 0


def test_carts_checkouts_and_returns_have_their_money_and_others_none() -> None:
    assert decoded(read(event(type="cart", action="add", amount=2.5))).minor == 250
    assert decoded(read(event(type="cart", action="add"))).minor == 0
    assert decoded(read(event(type="checkout", amount=2.5))).minor == 250
    assert decoded(read(event(type="return", lines=[{"amount": 2.5}], currency="USD"))).minor == 225
    assert decoded(read(event())).minor == 0


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e10])
def test_a_rate_that_makes_no_sense_is_an_error_at_the_start(rate: float) -> None:
    with pytest.raises(ValueError, match=r"rates\.USD"):
        Codec("EUR", 2, {"USD": rate}, frozenset())


# --- CloudEvents -------------------------------------------------------------------------------


def structured(plain: dict[str, Any], kind: str, **more: Any) -> Read:
    data = {name: value for name, value in plain.items() if name not in {"id", "type", "customer", "time"}}
    envelope = {
        "specversion": "1.0",
        "id": plain.get("id", "clock-1"),
        "source": plain.get("source", "/shop"),
        "type": kind,
        "time": plain["time"],
        "datacontenttype": "application/json",
        **({"subject": plain["customer"]} if "customer" in plain else {}),
        "data": data,
    }
    return read(envelope, headers=[("content-type", b"application/cloudevents+json; charset=UTF-8")], **more)


def binary(record: Read) -> Read:
    envelope = json.loads(record.value or b"")
    data = envelope.pop("data")
    content_type = envelope.pop("datacontenttype").encode()
    headers = [("trace", b"\xff"), *((f"ce_{name}", text.encode()) for name, text in envelope.items())]
    return replace(
        record, value=json.dumps(data).encode(), headers=[*headers, ("content-type", content_type)]
    )


@pytest.mark.parametrize("kind", sorted(set(CLASS_OF) - {"merge"}))
@pytest.mark.parametrize("pattern", ["{}", "com.shop.{}.v1", "io.x.v2.{}.V10", "org.{}.v1.2"])
def test_a_cloud_event_is_what_its_plain_event_is(kind: str, pattern: str) -> None:
    plain = {**golden(kind), "source": "/shop"}
    where: dict[str, Any] = {"topic": home_of(kind), "key": CLOCK_KEY if kind == "clock" else b"C-1001"}
    expected = CODEC.decode(read(plain, **where))
    assert isinstance(expected, Decoded | Tick)
    record = structured(plain, pattern.format(kind), **where)
    assert CODEC.decode(record) == expected
    assert CODEC.decode(binary(record)) == expected


@pytest.mark.parametrize("path", sorted((GOLDEN / "cloudevents").glob("*.json")), ids=lambda path: path.name)
def test_the_golden_cloud_event_is_what_the_golden_event_is(path: Path) -> None:
    written = json.loads(path.read_text(encoding="utf-8"))
    kind = path.name.partition(".")[0]
    key = CLOCK_KEY if kind == "clock" else b"C-1001"
    headers = [(name, text.encode()) for name, text in written["headers"].items()]
    plain = {"source": "/shop/web", **golden(kind)}
    assert CODEC.decode(read(written["value"], key=key, headers=headers)) == CODEC.decode(
        read(plain, key=key)
    )


def test_the_attributes_win_over_the_data_and_the_data_fills_what_they_leave_out() -> None:
    attributes = [("ce_specversion", b"1.0"), ("ce_id", b"ce"), ("ce_type", b"view"), ("ce_source", b"/s")]
    item = decoded(read(event(source="/own"), headers=attributes))
    assert (item.event.id, item.event.source, item.customer) == ("ce", "/own", "C-1001")
    named = [*attributes, ("ce_subject", b"C-7"), ("ce_time", b"2026-03-01T00:00:00Z")]
    item = decoded(read(event(), headers=named, key=b"C-7"))
    assert (item.customer, item.event.time) == ("C-7", datetime(2026, 3, 1, tzinfo=UTC))


def test_a_structured_event_may_carry_its_data_in_base64() -> None:
    record = structured(golden("view"), "view")
    envelope = json.loads(record.value or b"")
    envelope["data_base64"] = base64.b64encode(json.dumps(envelope.pop("data")).encode()).decode()
    envelope["dataschema"] = None
    assert CODEC.decode(replace(record, value=json.dumps(envelope).encode())) == CODEC.decode(record)


def test_a_binary_event_needs_no_data_where_its_type_needs_none() -> None:
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"1"),
        ("ce_type", b"com.shop.view.v1"),
        ("ce_source", b"/s"),
        ("ce_subject", b"C-1001"),
        ("ce_time", b"2026-03-01T00:00:00Z"),
    ]
    assert decoded(Read(None, headers=headers)).event.id == "1"
    assert isinstance(CODEC.decode(Read(None, topic="shop.customers", headers=headers)), Tombstone)


def test_headers_that_are_no_cloud_event_leave_the_plain_event_alone() -> None:
    headers = [
        ("traceparent", b"00-1"),
        ("content-type", b"application/json"),
        ("ce_id", b"x"),
        ("empty", None),
    ]
    assert decoded(read(event(), headers=headers)) == decoded(read(event()))


@pytest.mark.parametrize(
    ("headers", "value", "message"),
    [
        (
            [("ce_specversion", b"0.3"), ("ce_id", b"1"), ("ce_type", b"view")],
            "{}",
            "specversion: '0.3' is not",
        ),
        ([("ce_specversion", b"1.0"), ("ce_type", b"view")], "{}", "id: missing; a CloudEvent requires it"),
        ([("ce_specversion", b"1.0"), ("ce_id", b"1")], "{}", "type: missing; a CloudEvent requires it"),
        (
            [("ce_specversion", b"1.0"), ("ce_id", b"\xff"), ("ce_type", b"view")],
            "{}",
            "ce_id: b'\\xff' is not",
        ),
        (
            [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_type", b"view")],
            "[]",
            "value: Expected `object`",
        ),
        (
            [("ce_specversion", b"1.0"), ("content-type", b"text/xml")],
            "<a/>",
            "content-type: b'text/xml' is not",
        ),
        ([("content-type", b"application/cloudevents-batch+json")], "[]", "content-type: b'application/clou"),
        (
            [("content-type", b"application/cloudevents+json")],
            '{"specversion":1.0}',
            "specversion: b'1.0' is not",
        ),
        (
            [("content-type", b"application/cloudevents+json")],
            '{"specversion":"1.0","id":"1","type":"view","data":[]}',
            "data: Expected `object`",
        ),
        (
            [("content-type", b"application/cloudevents+json")],
            '{"specversion":"1.0","id":"1","type":"view","data_base64":"*"}',
            "data_base64: not base64",
        ),
    ],
)
def test_a_cloud_event_that_is_none_is_invalid(
    headers: list[tuple[str, bytes | None]], value: str, message: str
) -> None:
    item = refused(read(value, headers=headers))
    assert item.reason == "invalid"
    assert message in item.message


def test_a_version_alone_is_no_type() -> None:
    headers = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_type", b"v1")]
    assert refused(read(event(), headers=headers)).reason == "unknown_type"


# --- any bytes ---------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_names = st.sampled_from(
    [
        "ce_specversion",
        "ce_id",
        "ce_type",
        "ce_source",
        "ce_subject",
        "ce_time",
        "content-type",
        "Content-Type",
        "x",
    ]
)
_contents = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from(
        [
            b"1.0",
            b"view",
            b"com.shop.purchase.v1",
            b"application/cloudevents+json",
            b"application/json",
            b"C-1001",
        ]
    )
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A golden event with one field replaced by anything, or with one byte changed."""
    written = golden(draw(st.sampled_from(sorted(CLASS_OF))))
    if draw(st.booleans()):
        written[draw(st.sampled_from(sorted(written)))] = draw(_json)
        return json.dumps(written).encode()
    value = bytearray(json.dumps(written, ensure_ascii=False).encode())
    value[draw(st.integers(0, len(value) - 1))] = draw(st.integers(0, 255))
    return bytes(value)


@settings(deadline=None)  # how busy the machine is proves nothing
@given(
    value=st.none() | st.binary() | mangled() | _json.map(lambda value: json.dumps(value).encode()),
    key=st.none() | st.binary(max_size=10) | st.just(b"C-1001") | st.just(b"clock"),
    headers=st.lists(st.tuples(_names, _contents), max_size=6),
    topic=st.sampled_from(["shop.purchases", "shop.customers"]),
    timestamp=st.integers(-1, 2**63 - 1),
)
def test_whatever_is_read_has_one_answer_and_never_raises(
    value: bytes | None,
    key: bytes | None,
    headers: list[tuple[str, bytes | None]],
    topic: str,
    timestamp: int,
) -> None:
    record = Read(value, key=key, headers=headers, topic=topic, timestamp=timestamp)
    item = CODEC.decode(record)
    assert isinstance(item, Decoded | Tick | Tombstone | Refused)
    assert CODEC.decode(record) == item
    if isinstance(item, Refused):
        assert item.reason in REASONS
        assert item.message
        letter = dead_letter(item, "purchases", "decode")
        assert (letter.key, letter.value) == (key, value)


@settings(deadline=None)  # how busy the machine is proves nothing
@given(st.binary(max_size=300))
def test_bytes_that_are_no_event_are_refused(value: bytes) -> None:
    assert isinstance(CODEC.decode(Read(value)), Refused)


_characters = st.characters(exclude_categories=["Cs", "Cc"])
_text = st.text(_characters, max_size=20)
_customer = st.text(_characters, min_size=1, max_size=128)
_time = st.integers(1_000_000, to_micros(NOW)).map(to_datetime)
_optional = st.none() | _text
_line = st.builds(
    Line,
    amount=st.floats(0, 1e6),
    sku=_optional,
    category=_optional,
    quantity=st.none() | st.floats(0, 1e6),
    list_price=st.none() | st.floats(0, 1e6),
    discount=st.none() | st.floats(0, 1e6),
)
_common: dict[str, Any] = {
    "id": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64),
    "customer": _customer,
    "time": _time,
    "source": _optional,
    "history": st.booleans(),
}
_lines = st.lists(_line, min_size=1, max_size=5).map(tuple)
_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Purchase, **_common, lines=_lines, order=_optional, currency=st.sampled_from([None, "EUR", "USD"])
    ),
    st.builds(Return, **_common, lines=_lines, reason=_optional),
    st.builds(Search, **_common, query=_optional, results=st.none() | st.integers(0, 10**9)),
    st.builds(
        Cart, **_common, action=st.sampled_from(["add", "remove"]), amount=st.none() | st.floats(0, 1e6)
    ),
    st.builds(Survey, **_common, score=st.floats(0, 5), scale=st.floats(5, 10)),
)


@settings(deadline=None)  # how busy the machine is proves nothing
@given(_events)
def test_what_is_encoded_is_decoded_to_the_same_event(sent: Event) -> None:
    item = decoded(Read(encode(sent), key=sent.customer.encode()))
    assert item.event == sent
    assert item.at == to_micros(sent.time)


@settings(deadline=None)  # how busy the machine is proves nothing
@given(st.integers(1_000_000, to_micros(NOW)), st.booleans())
def test_what_is_encoded_as_a_clock_is_decoded_to_the_same_tick(at: int, history: bool) -> None:
    assert CODEC.decode(Read(encode_clock(at, history), key=CLOCK_KEY)) == Tick(41, at, history)


@settings(deadline=None)  # how busy the machine is proves nothing
@given(_events)
def test_an_event_sent_as_a_cloud_event_is_the_same_event(sent: Event) -> None:
    plain = json.loads(encode(sent))
    plain.setdefault("source", "/shop")
    record = structured(plain, f"com.shop.{plain['type']}.v1", key=sent.customer.encode())
    expected = CODEC.decode(read(plain, key=sent.customer.encode()))
    assert CODEC.decode(record) == expected
    assert CODEC.decode(binary(record)) == expected


# --- dead letters ------------------------------------------------------------------------------


def test_a_dead_letter_keeps_the_record_whole_and_says_why() -> None:
    record = Read(b"\xff", key=b"\x00", headers=[("traceparent", b"00"), ("traceparent", b"01"), ("n", None)])
    letter = dead_letter(refused(record), "purchases", "decode", 2)
    assert (letter.topic, letter.key, letter.value) == ("dead-letters", b"\x00", b"\xff")
    assert letter.headers[:3] == (("traceparent", b"00"), ("traceparent", b"01"), ("n", b""))
    assert dict(letter.headers[3:]) == {
        "churnwatch-topic": b"purchases",
        "churnwatch-partition": b"3",
        "churnwatch-offset": b"41",
        "churnwatch-timestamp": str(record.timestamp).encode(),
        "churnwatch-stage": b"decode",
        "churnwatch-error": b"not_json",
        "churnwatch-message": refused(record).message.encode(),
        "churnwatch-attempts": b"2",
    }


def test_a_dead_letter_that_fails_again_counts_its_attempts_and_tells_of_the_last() -> None:
    first = dead_letter(refused(Read(b"{", headers=[("k", b"v")])), "purchases", "decode")
    again = Read(first.value, key=first.key, headers=first.headers, offset=99)
    assert attempts_of(again) == 1
    second = dead_letter(refused(again), "purchases", "decode")
    assert [name for name, _ in second.headers] == [name for name, _ in first.headers]
    assert dict(second.headers)["churnwatch-attempts"] == b"2"
    assert dict(second.headers)["churnwatch-offset"] == b"99"


def test_a_merge_can_be_replayed_from_its_dead_letter() -> None:
    record = read(golden("merge"))
    letter = dead_letter(refused(record), "contacts", "decode")
    assert letter.value is not None
    assert json.loads(letter.value)["into"] == "C-1000"
    assert CLASS_OF["merge"] is Merge


# --- traces

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "value", "found"),
    [
        ([], b"{}", None),
        ([("traceparent", TRACEPARENT.encode())], b"{}", TRACEPARENT),
        ([("traceparent", b"nonsense"), ("ce_traceparent", TRACEPARENT.encode())], b"{}", TRACEPARENT),
        ([], b'{"id":"e1","traceparent":"%b"}' % TRACEPARENT.encode(), TRACEPARENT),
        ([("content-type", b"application/cloudevents+json")], b'{"traceparent":"%b"}' % TRACEPARENT.encode(), TRACEPARENT),
        ([("traceparent", None)], b"{}", None),
        ([("traceparent", TRACEPARENT.upper().encode())], b"{}", None),
        ([("traceparent", b"ff" + TRACEPARENT[2:].encode())], b"{}", None),
        ([("traceparent", b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01")], b"{}", None),
        ([("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01")], b"{}", None),
        ([], b'{"traceparent":7}', None),
        ([], b'{"traceparent":"\xff"}', None),
        ([], b"traceparent", None),
        ([], None, None),
    ],
)  # fmt: skip
def test_the_trace_of_a_record_is_found_in_each_of_its_places_and_only_where_it_is_valid(
    headers: list[tuple[str, bytes | None]], value: bytes | None, found: str | None
) -> None:
    assert traceparent(Row("purchases", 0, 0, 0, b"c", value, headers)) == found
