"""Pausing and resuming alerts, and shadow mode, on workers that run against a real Kafka and a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from agents.files import Entry, Reading, Refusal, read
from agents.overview import Watcher
from agents.send import Route, Sender, feed
from agents.status import troubles
from agents.worker import Worker
from alerts.brakes import KINDS
from streams.codec import Codec
from streams.events import to_micros
from tests.agents.command_line import CommandLine
from tests.agents.shell import Shell, eventually
from tests.servers import ROOT, KafkaServer, RedisServer, read_all

PARTITIONS = 2
OUTPUTS = ("alerts", "decisions", "customer-scores")


@pytest.fixture
def shop(
    kafka: KafkaServer,
    redis_server: RedisServer,
    prefix: str,
    application: str,
    topics: Callable[..., list[str]],
) -> Shell:
    topics("purchases", *OUTPUTS, partitions=PARTITIONS)
    topics("brakes", partitions=1, cleanup_policy="compact")
    return Shell(kafka.brokers, redis_server.url, application, prefix)


def flags(shop: Shell) -> tuple[str, ...]:
    return (
        "--brokers", shop.brokers, "--redis", shop.redis_url, "--prefix", shop.prefix, "--application",
        shop.application, "--set", "kafka.inputs=purchases", "--set", "clock.mode=record",
    )  # fmt: skip


def say(shop: Shell, *words: str) -> str:
    """What a command says, in a process of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("CHURNWATCH_")} | {"COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "agents.cli", *flags(shop), *words],
        capture_output=True, text=True, check=False, cwd=ROOT, env=env, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def day(month: int, number: int = 1) -> int:
    return to_micros(datetime(2026, month, number, tzinfo=UTC))


class Orders:
    """The orders of the examples, sent stretch by stretch, each with the clock to its end."""

    def __init__(self, shop: Shell) -> None:
        self.shop = shop
        self.sent = 0
        self._entries = list(
            read(ROOT / "examples/orders.csv", Reading(Codec("USD", 2, {}, frozenset())), _never)
        )
        self._begin = 0

    async def until(self, end: int) -> None:
        """All before an instant; returns when it is applied and has left."""
        some: Iterator[Entry] = (e for e in self._entries if self._begin <= e.at < end)
        route = Route({"purchases": PARTITIONS}, self.shop.prefix)
        sender = Sender(self.shop.settings().kafka)
        self.sent += await asyncio.to_thread(lambda: sender.run(feed(some, route, until=end)))
        self._begin = end
        await eventually(lambda: sum(self.shop.offsets(PARTITIONS).values()) == self.sent, 60)
        await eventually(lambda: self.shop.waiting(PARTITIONS) == 0, 60)


def _never(refusal: Refusal) -> None:
    raise AssertionError(refusal)


@contextlib.asynccontextmanager
async def worker(shop: Shell, **changes: Any) -> AsyncIterator[Worker]:
    found = Worker(shop.settings(**changes), serve_http=False)
    try:
        await asyncio.wait_for(found.start(), 30)
        yield found
        if found.failed.done():
            raise found.failed.result()
    finally:
        await asyncio.wait_for(found.stop(), 15)


def left(shop: Shell, topic: str) -> dict[str, str | None]:
    """The alerts on a topic by id, and why each was withheld."""
    found: dict[str, str | None] = {}
    for record in read_all(shop.brokers, [shop.prefix + topic]):
        identity = dict(record.headers() or ())["ce_id"].decode()
        assert identity not in found, "it left once"
        found[identity] = json.loads(record.value() or b"").get("withheld")
    return found


def paused(one: Worker, kind: str = "churn") -> bool:
    return bool(one.metrics.registry.get_sample_value("churnwatch_alerts_paused", {"kind": kind}))


def test_a_pause_takes_effect_at_once_holds_across_restarts_and_rebalances_and_what_it_kept_back_stays_back(
    shop: Shell,
) -> None:
    orders = Orders(shop)

    async def body() -> None:
        async with worker(shop) as first:
            await orders.until(day(3))
            before = left(shop, "alerts")
            assert before
            said = await asyncio.to_thread(say, shop, "alerts", "pause", "--reason", "new prices")
            assert "Paused: churn, upsell" in said
            assert "churnwatch alerts resume" in said
            await eventually(lambda: paused(first) and paused(first, "upsell"))
            await orders.until(day(3, 20))
            assert left(shop, "alerts") == before
            async with worker(shop) as second:
                await eventually(lambda: second.ownership.numbers() and first.ownership.numbers(), 60)
                assert paused(second)
                await orders.until(day(4))
                assert left(shop, "alerts") == before
        async with worker(shop) as third:
            assert paused(third), "before it decides anything"
            await orders.until(day(4, 15))
            assert left(shop, "alerts") == before
            kept = left(shop, "decisions")
            assert set(kept.values()) == {"paused"}
            async with Watcher(shop.settings()) as watcher:
                (found,) = (f for f in troubles(await watcher.look()) if f.check == "paused")
            assert "(new prices)" in found.found
            assert found.do.startswith("churnwatch alerts resume")
            said = await asyncio.to_thread(say, shop, "alerts", "pause", "churn")
            assert "churn: paused already" in said
            said = await asyncio.to_thread(say, shop, "alerts", "resume")
            assert f"Resumed: {', '.join(KINDS)}." in said
            counts = [int(word) for word in said.partition("meanwhile: ")[2].split() if word.isdigit()]
            assert sum(counts) == len(kept)
            await eventually(lambda: not paused(third) and not paused(third, "upsell"))
            await orders.until(day(7))
            after = left(shop, "alerts")
            assert len(after) > len(before)
            assert not after.keys() & kept.keys()
            assert left(shop, "decisions") == kept
            preview = json.loads(
                await asyncio.to_thread(
                    say, shop, "policy", "preview", "--propose", "high=0.9", "--last", "52w", "--json"
                )
            )
            recorded = [
                json.loads(record.value() or b"")
                for topic in ("alerts", "decisions")
                for record in read_all(shop.brokers, [shop.prefix + topic])
            ]
            raised = [a for a in recorded if (a["kind"], a["transition"]) == ("churn", "raised")]
            assert preview["today"]["warnings"] == len(raised), "those that were kept back too"
            assert preview["proposed"]["at_least"]["warnings"] <= len(raised)
            assert len(preview["limits"]) == 3
            async with Watcher(shop.settings()) as watcher:
                assert not [f for f in troubles(await watcher.look()) if f.check == "paused"]

    asyncio.run(body())


def test_what_a_restored_redis_decides_again_of_a_pause_that_has_ended_is_not_delivered_either(
    shop: Shell,
) -> None:
    orders = Orders(shop)

    async def body() -> None:
        async with worker(shop):
            await orders.until(day(4))
        backups = [shop.snapshot(number) for number in range(PARTITIONS)]
        say(shop, "alerts", "pause", "churn")
        async with worker(shop):
            await orders.until(day(6))
        kept = {identity for identity, why in left(shop, "decisions").items() if why == "paused"}
        assert kept
        say(shop, "alerts", "resume", "churn")
        for number, backup in enumerate(backups):
            shop.roll_back(number, backup)
        async with worker(shop):
            await eventually(lambda: sum(shop.offsets(PARTITIONS).values()) == orders.sent, 60)
            await eventually(lambda: shop.waiting(PARTITIONS) == 0, 60)
        alerts = {
            dict(record.headers() or ())["ce_id"].decode()
            for record in read_all(shop.brokers, [shop.prefix + "alerts"])
        }
        assert not alerts & kept

    asyncio.run(body())


def test_in_shadow_mode_everything_is_decided_and_recorded_and_nothing_is_delivered(shop: Shell) -> None:
    orders = Orders(shop)
    shadow = msgspec.structs.replace(shop.settings().worker, shadow=True)

    async def body() -> None:
        async with worker(shop, worker=shadow) as one:
            assert one.metrics.registry.get_sample_value("churnwatch_shadow_mode") == 1
            await orders.until(day(6))
        assert not left(shop, "alerts")
        assert set(left(shop, "decisions").values()) == {"shadow"}
        async with Watcher(shop.settings()) as watcher:
            seen = await watcher.look()
        (found,) = (f for f in troubles(seen) if f.check == "shadow")
        assert "a worker in shadow mode" in found.found
        (found,) = (
            f for f in troubles(seen._replace(settings=shop.settings(worker=shadow))) if f.check == "shadow"
        )
        assert "by these settings" in found.found

    asyncio.run(body())


def test_resuming_what_is_not_paused_says_so_and_without_the_topic_it_is_said_how_to_make_it(
    churnwatch: CommandLine, shop: Shell
) -> None:
    said = churnwatch(*flags(shop), "alerts", "resume", "upsell")
    assert (said.code, said.out) == (0, "upsell is not paused.\n")
    said = churnwatch(*flags(shop), "--prefix", "nowhere.", "alerts", "pause")
    assert said.code == 5
    assert "churnwatch topics create" in said.err


def test_a_pause_needs_no_redis(churnwatch: CommandLine, shop: Shell) -> None:
    said = churnwatch(*flags(shop), "--redis", "redis://127.0.0.1:1/0", "alerts", "pause", "churn")
    assert said.code == 0
    assert "Paused: churn." in said.out
    said = churnwatch(*flags(shop), "--redis", "redis://127.0.0.1:1/0", "alerts", "resume", "churn")
    assert (said.code, said.out) == (0, "Resumed: churn.\n")


def test_alerts_are_still_listed_by_the_command_alone(churnwatch: CommandLine, shop: Shell) -> None:
    said = churnwatch(*flags(shop), "alerts", "--json", "--kind", "churn")
    assert (said.code, said.out) == (0, "")
