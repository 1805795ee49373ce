from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from agents.files import Reading, Refusal, count, read
from agents.simulator import simulate
from streams.codec import Codec
from streams.events import rfc3339, to_micros
from tests.agents.command_line import CommandLine
from tests.servers import ROOT, KafkaServer

SMALL = ("--customers", "60", "--days", "40")


def test_the_same_arguments_give_the_same_bytes_and_another_seed_gives_others(
    churnwatch: CommandLine,
) -> None:
    for name in ("a", "b"):
        assert churnwatch("simulate", f"{name}.ndjson", "--truth", f"{name}.truth", *SMALL).code == 0
    assert Path("a.ndjson").read_bytes() == Path("b.ndjson").read_bytes()
    assert Path("a.truth").read_bytes() == Path("b.truth").read_bytes()
    churnwatch("simulate", "c.ndjson.gz", *SMALL)
    churnwatch("simulate", "d.ndjson.gz", *SMALL)
    assert Path("c.ndjson.gz").read_bytes() == Path("d.ndjson.gz").read_bytes()
    assert gzip.decompress(Path("c.ndjson.gz").read_bytes()) == Path("a.ndjson").read_bytes()
    churnwatch("simulate", "e.ndjson", "--seed", "2", *SMALL)
    assert Path("e.ndjson").read_bytes() != Path("a.ndjson").read_bytes()


def test_the_file_is_read_without_a_refusal_and_holds_what_the_simulator_makes(
    churnwatch: CommandLine,
) -> None:
    said = churnwatch("simulate", "shop.ndjson", "--start", "2026-02-01", *SMALL)
    shop = simulate(1, 60, 40, datetime(2026, 2, 1, tzinfo=UTC))
    reading = Reading(Codec("USD", 2, {}, frozenset()))
    refused: list[Refusal] = []
    entries = list(read(Path("shop.ndjson"), reading, refused.append))
    assert not refused
    assert count(Path("shop.ndjson"), reading) == len(entries) == sum(1 for _ in shop) > 1000
    assert f"Wrote {len(entries):,} events of 60 customers over 40 days to shop.ndjson." in said.err
    assert rfc3339(entries[0].at) >= "2026-02-01"
    assert {entry.kind for entry in entries} >= {"purchase", "view", "cart", "profile"}


def test_the_truth_says_who_leaves_when_and_why(churnwatch: CommandLine) -> None:
    said = churnwatch("simulate", "shop.ndjson", "--truth", "truth.ndjson", *SMALL)
    told = [json.loads(line) for line in Path("truth.ndjson").read_text().splitlines()]
    shop = simulate(1, 60, 40)
    assert [one["customer"] for one in told] == list(shop.truth)
    assert f"why {len(told)} of them leave" in said.err
    bought: dict[str, str] = {}
    for line in Path("shop.ndjson").read_text().splitlines():
        event = json.loads(line)
        if event["type"] == "purchase":
            bought[event["customer"]] = event["time"]
    for one in told:
        departure = shop.truth[one["customer"]]
        assert (one["at"], one["why"]) == (rfc3339(departure.at), departure.why)
        assert one["last_purchase"] == bought[one["customer"]] <= one["at"]
        assert ("signs_from" in one) == (not departure.silent)


def test_it_writes_to_standard_output_and_says_the_rest_beside_it(churnwatch: CommandLine) -> None:
    said = churnwatch("simulate", "--customers", "5", "--days", "20")
    assert said.code == 0
    assert len(said.lines) == sum(1 for _ in simulate(1, 5, 20))
    assert "to standard output" in said.err


def test_what_would_lie_in_the_future_is_said(
    churnwatch: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: int(datetime(2026, 1, 20, tzinfo=UTC).timestamp() * 1e9))
    said = churnwatch("simulate", "shop.ndjson", "--customers", "5", "--days", "30")
    assert "They end on 2026-02-04, which is still to come" in said.err
    assert "--start" in said.err
    assert "future" not in churnwatch("simulate", "-", "--customers", "5", "--days", "10").err


def test_files_that_are_there_are_left_alone(churnwatch: CommandLine) -> None:
    Path("truth.ndjson").write_text("mine")
    said = churnwatch(
        "simulate", "shop.ndjson", "--truth", "truth.ndjson", "--customers", "5", "--days", "10"
    )
    assert said.code == 2
    assert "truth.ndjson is there already" in said.err
    assert Path("truth.ndjson").read_text() == "mine"
    assert [each.name for each in Path().iterdir()] == ["truth.ndjson"], "nor is half of the events left"
    said = churnwatch("simulate", "one.ndjson", "--truth", "./one.ndjson")
    assert said.code == 2
    assert "name another file" in said.err


def test_a_simulated_shop_can_be_sent(churnwatch: CommandLine, kafka: KafkaServer, prefix: str) -> None:
    where = ("--brokers", kafka.brokers, "--prefix", prefix)
    assert churnwatch(*where, "topics", "create", "--partitions", "2").code == 0
    assert churnwatch("simulate", "shop.ndjson.gz", *SMALL).code == 0
    said = churnwatch(*where, "send", "shop.ndjson.gz")
    assert said.code == 0, said.err
    made = sum(1 for _ in simulate(1, 60, 40))
    assert f"Sent {made:,} events" in said.out
    assert "refused" not in said.out
    names = [prefix + name for name in ("purchases", "browses", "complaints", "contacts", "customers")]
    arrived = [record for record in kafka.read_all(names) if record.key() != b"clock"]
    assert len(arrived) == made
    written = gzip.decompress(Path("shop.ndjson.gz").read_bytes()).splitlines()
    assert {msgspec.json.decode(record.value() or b"")["id"] for record in arrived} == {
        msgspec.json.decode(line)["id"] for line in written
    }


def test_a_live_shop_writes_what_has_happened_at_once_and_the_rest_when_it_happens() -> None:
    opened = datetime.now(UTC) - timedelta(hours=14)  # so that it is afternoon there now
    command = ["simulate", "--live", "--customers", "30000", "--days", "2", "--start", opened.isoformat()]
    began = time.time_ns() // 1000
    past = live = 0
    with subprocess.Popen(
        [sys.executable, "-m", "agents.cli", *command], cwd=ROOT, stdout=subprocess.PIPE
    ) as shop:
        try:
            assert shop.stdout is not None
            for line in shop.stdout:
                happened = to_micros(datetime.fromisoformat(json.loads(line)["time"]))
                assert happened <= time.time_ns() // 1000, "nothing is told before its time"
                past += happened <= began
                live += happened > began
                if live == 2:
                    break
        finally:
            shop.kill()
    assert past > 100
    assert live == 2
