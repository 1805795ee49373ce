from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import topics
from streams.events import (
    CLASS_OF,
    EVENT_CLASSES,
    Cart,
    Clock,
    Event,
    Line,
    Purchase,
    rfc3339,
    to_datetime,
    to_micros,
    type_name,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "events"
decode = msgspec.json.Decoder(Event | Clock).decode

REQUIRED = {
    "purchase": {"lines"},
    "return": {"lines"},
    "complaint": {"complaint", "kind"},
    "complaint_update": {"complaint", "status"},
    "inquiry": {"inquiry"},
    "inquiry_update": {"inquiry", "status"},
    "cart": {"action"},
    "survey": {"score", "scale"},
    "review": {"rating"},
    "alert_feedback": {"alert", "action"},
    "merge": {"into"},
}


def golden(kind: str) -> dict[str, object]:
    read: dict[str, object] = json.loads((GOLDEN / f"{kind}.json").read_text(encoding="utf-8"))
    return read


def test_every_type_of_the_contract_has_a_class_a_golden_example_and_a_topic() -> None:
    contract = [
        "purchase",
        "return",
        "view",
        "search",
        "cart",
        "checkout",
        "review",
        "use",
        "complaint",
        "complaint_update",
        "inquiry",
        "inquiry_update",
        "survey",
        "customer_lost",
        "referral",
        "profile",
        "contact",
        "alert_feedback",
        "merge",
        "forget",
        "clock",
    ]
    assert set(CLASS_OF) == set(contract)
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(contract)
    assert set(topics.TOPIC_OF) == set(contract) - {"clock"}
    assert set(topics.TOPIC_OF.values()) == set(topics.INPUTS)


@pytest.mark.parametrize("kind", CLASS_OF)
def test_the_golden_example_shows_every_field_and_is_read_without_loss(kind: str) -> None:
    example = golden(kind)
    event = decode(json.dumps(example).encode())
    assert type_name(event) == kind
    known = {field.encode_name for field in msgspec.structs.fields(type(event))} | {"type"}
    # These two may be anywhere; one example of each is enough.
    assert known - set(example) <= {"source", "history", "id"}
    again = json.loads(msgspec.json.encode(event))
    again["time"], example["time"] = (
        to_micros(event.time),
        to_micros(datetime.fromisoformat(str(example["time"]))),
    )
    assert again == example


@pytest.mark.parametrize("cls", EVENT_CLASSES, ids=type_name)
def test_what_the_contract_requires_is_required_and_all_else_is_optional(cls: type[Event]) -> None:
    required = {field.encode_name for field in msgspec.structs.fields(cls) if field.required}
    assert required == {"id", "customer", "time"} | REQUIRED.get(type_name(cls), set())


@pytest.mark.parametrize("kind", CLASS_OF)
def test_an_optional_field_may_be_null_or_absent_and_an_unknown_one_is_ignored(kind: str) -> None:
    example = golden(kind)
    optional = [field for field in msgspec.structs.fields(CLASS_OF[kind]) if not field.required]
    bare = {name: value for name, value in example.items() if name not in {f.encode_name for f in optional}}
    nulls = {field.encode_name: None for field in optional if field.encode_name != "history"}
    expected = decode(json.dumps(bare).encode())
    assert decode(json.dumps({**bare, **nulls, "later": {"version": [1]}}).encode()) == expected


@pytest.mark.parametrize("kind", CLASS_OF)
def test_every_text_list_and_number_is_bounded(kind: str) -> None:
    unbounded = []
    for field in msgspec.structs.fields(CLASS_OF[kind]):
        unbounded += [
            field.name for part in _parts(msgspec.inspect.type_info(field.type)) if not _bounded(part)
        ]
    assert unbounded == []


def _parts(info: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    found: list[msgspec.inspect.Type] = [info]
    if isinstance(info, msgspec.inspect.UnionType):
        return [part for option in info.types for part in _parts(option)]
    if isinstance(info, msgspec.inspect.Metadata):
        return _parts(info.type)
    if isinstance(info, msgspec.inspect.DictType):
        found += _parts(info.key_type) + _parts(info.value_type)
    if isinstance(info, msgspec.inspect.VarTupleType):
        found += _parts(info.item_type)
    if isinstance(info, msgspec.inspect.StructType):
        found += [part for field in info.fields for part in _parts(field.type)]
    return found


def _bounded(info: msgspec.inspect.Type) -> bool:
    if isinstance(info, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        return (info.ge is not None or info.gt is not None) and info.le is not None
    if isinstance(info, msgspec.inspect.StrType | msgspec.inspect.DictType | msgspec.inspect.VarTupleType):
        return info.max_length is not None
    if isinstance(info, msgspec.inspect.DateTimeType):
        return info.tz is True
    return isinstance(
        info,
        msgspec.inspect.BoolType
        | msgspec.inspect.NoneType
        | msgspec.inspect.LiteralType
        | msgspec.inspect.StructType,
    )


def test_optional_fields_that_are_absent_are_not_written() -> None:
    time = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    event = Purchase(id="p", customer="c", time=time, lines=(Line(amount=5.0),))
    assert msgspec.json.encode(event) == (
        b'{"type":"purchase","id":"p","customer":"c","time":"2026-01-31T09:30:00Z","lines":[{"amount":5.0}]}'
    )


def test_an_event_cannot_be_changed() -> None:
    event = Cart(id="c", customer="c", time=datetime(2026, 1, 1, tzinfo=UTC), action="add")
    with pytest.raises(AttributeError):
        event.action = "remove"  # type: ignore[misc]


@settings(deadline=None)  # how busy the machine is proves nothing
@given(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001  # zones follow
    st.integers(min_value=-14 * 60, max_value=14 * 60),
)
def test_an_instant_is_exact_to_the_microsecond_in_any_zone(naive: datetime, offset: int) -> None:
    time = naive.replace(tzinfo=timezone(timedelta(minutes=offset)))
    at = to_micros(time)
    assert to_datetime(at) == time
    assert to_micros(datetime.fromisoformat(rfc3339(at))) == at
    assert rfc3339(at).endswith("Z")


def test_the_prefix_is_put_before_a_topic_and_taken_off_again() -> None:
    assert topics.kafka_name("shop1.", topics.PURCHASES) == "shop1.purchases"
    assert topics.logical_name("shop1.", "shop1.purchases") == topics.PURCHASES
    with pytest.raises(ValueError, match="does not start with the prefix"):
        topics.logical_name("shop1.", "purchases")
