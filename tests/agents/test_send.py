from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka import Message

from agents.files import Entry, Refusal
from agents.send import CLOCK_EVERY, DAY, Outgoing, Route, Sender, SendError, feed
from agents.settings import Kafka
from streams.codec import CLOCK_KEY
from streams.events import rfc3339, to_micros
from tests.servers import KafkaServer

NEW_YEAR = to_micros(datetime(2026, 1, 1, tzinfo=UTC))
HOUR = DAY // 24
ONE = Route({"purchases": 2})
ALL = Route(dict.fromkeys(("purchases", "browses", "complaints", "contacts", "customers"), 3), "shop.")


def entry(at: int, kind: str = "purchase", customer: str = "c1") -> Entry:
    value = json.dumps({"type": kind, "customer": customer, "time": rfc3339(NEW_YEAR + at)}).encode()
    return Entry(1, NEW_YEAR + at, kind, customer, value)


def at(out: Outgoing) -> int:
    assert out.value is not None
    return to_micros(datetime.fromisoformat(json.loads(out.value)["time"])) - NEW_YEAR


def is_clock(out: Outgoing) -> bool:
    return out.key == CLOCK_KEY


def test_everything_goes_to_the_one_input_topic_there_is() -> None:
    out = [o for o in feed([entry(0), entry(1, "view"), entry(2, "profile")], ONE) if not is_clock(o)]
    assert {o.topic for o in out} == {"purchases"}
    assert {o.partition for o in out} == {None}
    assert {o.key for o in out} == {b"c1"}


def test_each_event_goes_to_its_own_topic_where_there_are_several() -> None:
    kinds = ["purchase", "view", "complaint", "contact", "profile"]
    out = list(feed([entry(0, kind) for kind in kinds], ALL, clock=False))
    assert [o.topic for o in out] == [
        "shop.purchases", "shop.browses", "shop.complaints", "shop.contacts", "shop.customers",
    ]  # fmt: skip


def test_a_type_whose_topic_is_not_read_goes_to_one_that_is() -> None:
    route = Route({"customers": 1, "complaints": 1})
    assert route.topic("view") == "complaints"
    assert route.topic("profile") == "customers"
    assert Route({"customers": 1, "complaints": 1}, only="complaints").topic("profile") == "complaints"


def test_what_a_compacted_topic_would_lose_is_refused() -> None:
    refused: list[Refusal] = []
    assert list(feed([entry(0)], Route({"customers": 1}), refuse=refused.append)) == []
    assert "compacted" in refused[0].reason


def test_the_clock_is_told_to_every_partition_of_every_input_each_day_that_passes_and_at_the_end() -> None:
    out = list(feed([entry(6 * HOUR), entry(3 * DAY + HOUR)], ALL))
    told: dict[tuple[str, int | None], list[int]] = defaultdict(list)
    for o in out:
        if is_clock(o):
            told[o.topic, o.partition].append(at(o))
    assert len(told) == 15
    assert set(map(tuple, told.values())) == {(DAY, 2 * DAY, 3 * DAY, 3 * DAY + HOUR)}


def test_the_clock_is_told_after_a_thousand_events_of_one_day() -> None:
    out = list(feed([entry(n) for n in range(2500)], ONE))
    since = most = 0
    for o in out:
        since = 0 if is_clock(o) else since + 1
        most = max(most, since)
    assert most == CLOCK_EVERY
    assert sum(map(is_clock, out)) == 2 * 3


def test_no_clock_is_ahead_of_an_event_that_follows() -> None:
    times = [0, 0, DAY, DAY, DAY + 1, 2 * DAY - 1, 5 * DAY, *(5 * DAY + n // 600 for n in range(2000))]
    newest: dict[tuple[str, int | None], int] = {}
    for o in feed([entry(t) for t in times], ONE):
        if is_clock(o):
            assert at(o) >= newest.get((o.topic, o.partition), 0), "clocks do not go back"
            newest[o.topic, o.partition] = at(o)
        else:
            assert at(o) >= max(newest.values(), default=0)


def test_the_clock_goes_on_to_where_it_is_told_to() -> None:
    out = list(feed([entry(HOUR)], Route({"purchases": 1}), until=NEW_YEAR + 2 * DAY + HOUR))
    assert [at(o) for o in out if is_clock(o)] == [HOUR, DAY, 2 * DAY, 2 * DAY + HOUR]


def test_history_marks_the_clock_too_and_without_a_clock_there_is_none() -> None:
    out = [o for o in feed([entry(0), entry(DAY)], ONE, history=True) if is_clock(o)]
    assert all(json.loads(o.value or b"")["history"] is True for o in out)
    assert not any(is_clock(o) for o in feed([entry(0), entry(DAY)], ONE, clock=False))


def test_a_clock_in_the_file_goes_to_every_partition() -> None:
    out = list(feed([entry(0), entry(HOUR, "clock", "")], ALL, clock=False))
    assert len(out) == 1 + 15
    assert {o.key for o in out[1:]} == {CLOCK_KEY}


def test_records_arrive_in_order_where_java_would_put_them(
    kafka: KafkaServer, prefix: str, topics: Callable[..., list[str]]
) -> None:
    (name,) = topics("purchases", partitions=3)
    paced: list[Outgoing] = []
    route = Route({"purchases": 3}, prefix)
    sender = Sender(Kafka(brokers=(kafka.brokers,)), pace=paced.append)
    records = list(feed([entry(n, customer=f"c{n % 50}") for n in range(3000)], route))
    assert sender.run(records) == len(records) == len(paced)
    arrived: dict[int, list[Message]] = defaultdict(list)
    for message in kafka.read_all([name]):
        arrived[message.partition()].append(message)
    assert sum(map(len, arrived.values())) == len(records)
    for partition, messages in arrived.items():
        for message in messages:
            key = message.key() or b""
            if key != CLOCK_KEY:
                assert (murmur2(key) & 0x7FFFFFFF) % 3 == partition
        times = [at(Outgoing("", None, None, m.value())) for m in messages]
        assert all(a <= b for a, b in pairwise(times))


def test_a_record_that_is_not_taken_ends_the_sending_with_the_reason(
    kafka: KafkaServer, prefix: str, topics: Callable[..., list[str]]
) -> None:
    topics("purchases", partitions=1, max_message_bytes="1000")
    sender = Sender(Kafka(brokers=(kafka.brokers,)))
    with pytest.raises(SendError, match="MSG_SIZE_TOO_LARGE"):
        sender.run([Outgoing(prefix + "purchases", None, b"c", os.urandom(5000))])
    sender = Sender(Kafka(brokers=(kafka.brokers,)), config={"message.max.bytes": 2000})
    with pytest.raises(SendError, match="MSG_SIZE_TOO_LARGE"):
        sender.run([Outgoing(prefix + "purchases", None, b"c", os.urandom(5000))])


def test_a_broker_that_is_away_is_reported() -> None:
    kafka = Kafka(brokers=("127.0.0.1:1",), session_timeout=1, request_timeout=2)
    with pytest.raises(SendError, match=r"not|timed out|unavailable"):
        Sender(kafka).run([Outgoing("purchases", None, b"c", b"{}")])
