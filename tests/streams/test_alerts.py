from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.alerts import (
    INSTANTS,
    TRANSITIONS,
    Alert,
    Kind,
    Offer,
    Reason,
    Score,
    Transition,
    Versions,
    alert_id,
    alert_message,
    decode_alert,
    decode_score,
    encode,
    score_message,
)
from streams.message import pack, unpack

GOLDEN = Path(__file__).parents[1] / "golden" / "alerts"
OPENED = 1_772_000_000_000_000
DECIDED = 1_773_480_413_250_000
VERSIONS = Versions(policy="3f1c0a2b9d4e", model="0", features="1")
POSITION = {"purchases": 812, "browses": 44, "complaints": 3}


def bare(**more: Any) -> Alert:
    fields: dict[str, Any] = {
        "id": alert_id("shop", "C-1001", "churn", OPENED, "raised", 0),
        "customer": "C-1001",
        "kind": "churn",
        "transition": "raised",
        "episode": OPENED,
        "sequence": 1,
        "decided_at": DECIDED,
        "history": False,
        "position": POSITION,
        "versions": VERSIONS,
    }
    return Alert(**{**fields, **more})


def full() -> Alert:
    return bare(
        churn_probability=0.812345,
        horizon_days=28.0,
        risk_band="high",
        score_source="statistical",
        reasons=(
            Reason(
                feature="recency_days",
                value=61.5,
                usual=20.25,
                contribution=1.75,
                text="No purchase for 62 days. Usual for this customer: 20 days.",
            ),
            Reason(feature="open_complaint", value="delivery", contribution=0.5, text="A complaint is open."),
        ),
        cause="lost_rhythm",
        action="service_recovery_call",
        contact_allowed=True,
        not_before=DECIDED + 3_600_000_000,
        revenue_at_risk=120.5,
        lifecycle_stage="at_risk",
        rfm_segment="At Risk",
        predicted_clv=310.0,
        expected_next_order=DECIDED - 86_400_000_000,
        offers=(Offer(type="replenish", category="home", probability=0.4, reason="Due by own rhythm."),),
        cause_event="purchase:A-77001",
        experiment="spring",
        arm="treated",
    )


SCORE = Score(
    customer="C-1001",
    churn_probability=0.5,
    risk_band="medium",
    score_source="statistical",
    decided_at=DECIDED,
    position=POSITION,
    versions=VERSIONS,
)


def written(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    return read


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("churn_raised.json", alert_message(full(), "io.churnwatch", "shop")),
        ("bare.json", alert_message(bare(), "io.churnwatch", "shop")),
        ("withheld.json", alert_message(bare(), "io.churnwatch", "shop", withheld="ceiling")),
        ("score.json", score_message(SCORE, "io.churnwatch", "shop")),
    ],
)
def test_the_message_is_the_golden_one_byte_for_byte(name: str, message: Any) -> None:
    golden = written(name)
    assert message.topic == golden["topic"]
    assert message.key == golden["key"].encode()
    assert message.value.decode() == json.dumps(golden["data"], separators=(",", ":"), ensure_ascii=False)
    assert [[header, value.decode()] for header, value in message.headers] == golden["headers"]
    assert unpack(pack(message)) == message


def test_the_fields_have_the_order_of_the_contract() -> None:
    contract = (
        "customer kind transition episode sequence decided_at history churn_probability horizon_days risk_band"
        " score_source reasons cause action contact_allowed not_before revenue_at_risk lifecycle_stage rfm_segment"
        " predicted_clv expected_next_order offers cause_event position versions experiment arm"
    )
    assert list(json.loads(encode(full()))) == contract.split()


def test_what_is_not_known_is_absent() -> None:
    data = json.loads(encode(bare()))
    assert set(data) == {
        "customer",
        "kind",
        "transition",
        "episode",
        "sequence",
        "decided_at",
        "history",
        "position",
        "versions",
    }
    assert data["history"] is False


def test_equal_alerts_are_equal_bytes_in_whatever_order_their_position_was_gathered() -> None:
    assert encode(bare(position=dict(reversed(POSITION.items())))) == encode(bare())


def test_an_alert_and_a_score_are_read_back_as_they_were() -> None:
    for alert in (bare(), full()):
        assert decode_alert(alert.id, encode(alert)) == alert
    assert decode_alert(bare().id, encode(bare(), withheld="history")) == bare()
    assert decode_score(encode(SCORE)) == SCORE


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"{}", b'{"decided_at":"yesterday"}', b'{"decided_at":7}', b"\xff"]
)
def test_what_is_no_alert_is_not_read(value: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        decode_alert("0" * 32, value)


def test_every_instant_is_written_in_utc_with_z() -> None:
    data = json.loads(encode(full()))
    assert {data[name][-1] for name in INSTANTS} == {"Z"}
    assert data["decided_at"] == "2026-03-14T09:26:53.250000Z"
    assert (
        dict(alert_message(full(), "io.churnwatch", "shop").headers)["ce_time"] == data["decided_at"].encode()
    )


def test_an_alert_without_a_causing_event_names_none() -> None:
    names = [name for name, _ in alert_message(bare(), "io.churnwatch", "shop").headers]
    assert "ce_causationid" not in names


def test_a_follow_up_is_a_task() -> None:
    message = alert_message(bare(kind="follow_up", transition="due"), "org.shop", "shop")
    assert message.topic == "tasks"
    assert dict(message.headers)["ce_type"] == b"org.shop.follow_up.due.v1"


def test_every_kind_and_transition_is_of_the_contract() -> None:
    assert set(TRANSITIONS) == set(get_args(Kind))
    assert {name for names in TRANSITIONS.values() for name in names} == set(get_args(Transition))


def test_the_id_is_fixed_for_ever() -> None:
    assert alert_id("shop", "C-1001", "churn", OPENED, "raised", 0) == "87b4ab460a44decd72479b185e8449fb"


_parts = st.tuples(
    st.text(max_size=6),
    st.text(max_size=6),
    st.sampled_from(get_args(Kind)),
    st.integers(0, 2**53),
    st.sampled_from(get_args(Transition)),
    st.integers(0, 1000),
)


@settings(deadline=None)  # how busy the machine is proves nothing
@given(_parts, _parts)
def test_an_id_never_names_two_transitions(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert (alert_id(*one) == alert_id(*other)) == (one == other)
    assert len(alert_id(*one)) == 32
