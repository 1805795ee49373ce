"""The soak works, whatever it is run for; and its checks can fail."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from agents.transport import partition_of
from bench import bursts
from bench.bursts import HEAVY, SHARE, Shop
from bench.soak import FAULTS, SHORT, growth, soak
from bench.soak_page import keep
from bench.stage import PARTITIONS
from streams.codec import Codec, Decoded, Tick
from tests.chaos.history import Record
from tests.conftest import missing
from tests.servers import Missing

MEGA = 2**20


def test_every_fault_once_and_nothing_is_lost(tmp_path: Path) -> None:
    try:
        found = soak(SHORT, 1, lambda _what, _passed: None)
    except Missing as error:
        missing(str(error))
    assert {fault["name"] for fault in found["faults"]} == set(FAULTS)
    assert found["equal"]["alerts"] > 0
    assert found["equal"]["dead_letters"] >= 1_200
    assert found["to_outbox_ms"]["all"]["events"] > 1_000
    assert found["to_alert_ms"]["all"]["p99"] > 0
    keep(found, tmp_path)
    page = (tmp_path / "soak.md").read_text()
    assert "Equal" in page
    assert all(name in page for name in FAULTS)
    assert (tmp_path / "soak.svg").stat().st_size > 1_000


def test_memory_that_leaks_is_not_flat_and_memory_that_swings_is() -> None:
    steady = [(float(at), 200.0 * MEGA + (at % 7) * MEGA) for at in range(600)]
    assert growth(steady, 600.0).flat
    leaking = [(at, value + at * 0.2 * MEGA) for at, value in steady]
    assert not growth(leaking, 600.0).flat
    # What is filled at the beginning is no leak.
    filling = [(at, value * min(1.0, 0.3 + at / 150)) for at, value in steady]
    assert growth(filling, 600.0).flat


def test_one_customer_has_a_fifth_and_that_partition_ten_times_each_of_the_others() -> None:
    shop = Shop(3, 400)
    events = [event for event in islice(shop.events(), 40_000) if event.number >= 0]
    parts = Counter(event.partition for event in events)
    for number in range(PARTITIONS):
        if number != HEAVY:
            assert parts[HEAVY] / parts[number] == pytest.approx(10, rel=0.15)
    share = sum(event.key == shop.heavy for event in events) / len(events)
    assert share == pytest.approx(SHARE, abs=0.01)
    assert all(partition_of(event.key, PARTITIONS) == event.partition for event in events)


def test_the_same_seed_is_the_same_load_and_every_event_of_it_is_valid() -> None:
    one, same, other = (list(islice(Shop(seed, 100).events(), 3_000)) for seed in (1, 1, 2))
    assert one == same != other
    codec = Codec("USD", 2, {}, frozenset())
    items = [
        codec.decode(Record("purchases", e.partition, i, bursts.START // 1000 * 2, e.key, e.value))
        for i, e in enumerate(one)
    ]
    assert all(isinstance(item, Decoded | Tick) for item in items)


def test_bursts_are_twice_the_rest_and_the_average_is_what_was_asked_for() -> None:
    rates = [bursts._burst(at / 100) for at in range(int(bursts.PERIOD * 100))]
    assert sum(rates) / len(rates) == pytest.approx(1)
    assert max(rates) == pytest.approx(2 * min(rates))
