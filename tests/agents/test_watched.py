"""A worker and a trainer as Prometheus sees them: really scraped, with the rules of ``deploy/prometheus/``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import aiohttp
import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from agents.metrics import Metrics
from agents.trainer import TrainerWorker
from agents.worker import Worker
from alerts.policy import Policy
from alerts.tally import TENTHS, psi
from models.learning import Learning
from models.snapshot import Prior
from tests.agents.shell import START, Shell, eventually, producer_of, run
from tests.agents.test_runbooks import PAGES, lines
from tests.conftest import missing
from tests.servers import ROOT, KafkaServer, PrometheusServer, RedisServer

PARTITIONS = 4
Series = frozenset[tuple[str, tuple[tuple[str, str], ...]]]


class Shop(Shell):
    """An application with the real core, whose workers are scraped."""

    until = 0

    def purchases(self, customers: int, day: float) -> None:
        """Each buys once at that day, and the clock goes there."""
        at = START + timedelta(days=day)
        producer = producer_of(self.brokers)
        for n in range(customers):
            event = {"type": "purchase", "customer": f"c{n}", "time": at.isoformat()}
            event |= {"id": f"p{n}-{day}", "lines": [{"amount": 10.0}]}  # type: ignore[dict-item]
            producer.produce(self.prefix + "purchases", json.dumps(event), f"c{n}")
            producer.poll(0)
        assert producer.flush(30) == 0
        self.tick("purchases", at + timedelta(minutes=1), PARTITIONS)
        self.until = round((at + timedelta(minutes=1)).timestamp()) * 1_000_000

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[tuple[Worker, TrainerWorker]]:
        """A worker and a trainer that serve /metrics."""
        worker = msgspec.structs.replace(self.settings().worker, http_host="127.0.0.1")
        learning = Learning(snapshot_days=7, publish_seconds=0.5)
        # A shop where people come often, so that a month of silence moves a score.
        settings = self.settings(
            worker=worker, policy=Policy(horizon_days=14), learning=learning, prior=Prior(gap_days=4.0)
        )
        both = (
            Worker(settings, metrics=Metrics(CollectorRegistry(), strict=True)),
            TrainerWorker(settings, metrics=Metrics(CollectorRegistry(), strict=True)),
        )
        try:
            await asyncio.wait_for(asyncio.gather(*(each.start() for each in both)), 40)
            await eventually(lambda: len(both[0].ownership.numbers()) == PARTITIONS)
            yield both
            for each in both:
                if each.failed.done():
                    raise each.failed.result()
        finally:
            await asyncio.gather(*(asyncio.wait_for(each.stop(), 20) for each in both))

    def all_applied(self, worker: Worker) -> bool:
        """Whether all that was sent is applied: nothing is unread, and clocks stand where ``purchases`` sent them."""
        name = self.prefix + "purchases"
        for number in range(PARTITIONS):
            owned, seen = worker.ownership.get(number), worker.app.consumer.seen(name, number)
            if owned is None or owned.state.clock < self.until or seen is None:
                return False
            if not seen.at_end or seen.popped != worker.applied(name, number):
                return False
        return True


async def scraped(of: Worker) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{of.http_port}/metrics") as answer,
    ):
        assert answer.status == 200
        return await answer.text()


def series(text: str) -> Series:
    return frozenset(
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )


def swept(worker: Worker) -> int:
    """Customers with a deadline, as the last sweep has found them."""
    return sum(int(worker.metrics.timers.labels(str(n))._value.get()) for n in range(PARTITIONS))


def shown(of: Worker, name: str) -> float:
    """The sum of a metric that a worker shows now."""
    return value(of.metrics.exposition().decode(), name)


def value(text: str, name: str, **labels: str) -> float:
    """The sum over the series that bear these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"churnwatch_{name}" and labels.items() <= sample.labels.items()
    )


@pytest.fixture
def shop(
    kafka: KafkaServer,
    redis_server: RedisServer,
    prefix: str,
    application: str,
    topics: Callable[..., list[str]],
) -> Shop:
    topics("purchases", partitions=PARTITIONS)
    topics("alerts", "customer-scores", "decisions", "dead-letters", partitions=PARTITIONS)
    topics("models", "brakes", partitions=1)
    return Shop(kafka.brokers, redis_server.url, application, prefix)


def test_ten_thousand_customers_have_the_series_of_a_hundred_and_promtool_has_nothing_to_say(
    shop: Shop,
) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        missing("promtool (of the Debian package prometheus) is not on the PATH")
    found: list[str] = []

    async def body() -> None:
        async with shop.watched() as (worker, trainer):
            for customers, day in ((100, 0), (100, 45), (10_000, 46)):
                shop.purchases(customers, day)
                await eventually(lambda: shop.all_applied(worker), 120, "all applied")
                await eventually(lambda: swept(worker) == customers, 30, "swept")  # noqa: B023
                found.append(await scraped(worker))
            await eventually(
                lambda: shown(trainer, "model_labels") == shown(worker, "examples_total") > 0,
                30,
                "a snapshot of all labels",
            )
            found.append(await scraped(trainer))

    run(body())
    _, hundred, many, trainer = found
    assert series(hundred) == series(many)
    assert len(series(many)) < 900
    assert len(series(trainer)) < 900
    assert not re.search(r'"c\d+"', many + trainer), "a customer in a label"
    for text in (many, trainer):
        said = subprocess.run(
            [promtool, "check", "metrics"], check=False, input=text.encode(), capture_output=True
        )
        assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")
    # What the whole looks like is exact, without anybody having looked through the customers.
    assert value(many, "customers") == 10_000
    assert value(many, "customers_in_band") == value(many, "customers_by_score") == 10_000
    assert value(many, "customers_in_stage", stage="first_purchase") == 9_900
    assert value(many, "labels_pending") > 0
    assert value(hundred, "labels_pending") > 0
    assert value(many, "state_bytes", part="hot") > 10_000 * 100
    assert value(many, "decoded_total") == value(many, "stage_out_total", stage="decode") > 10_000
    # All is applied; what was decided may still be leaving.
    assert all(value(many, "stage_in_progress", stage=of) == 0 for of in ("decode", "apply", "commit"))
    assert value(many, "lag_records") == value(many, "lag_seconds") == 0
    assert value(many, "timers") == 10_000
    assert 1 <= value(many, "rebalance_duration_seconds_count") <= value(many, "rebalances_total")
    assert value(many, "redis_memory_used_bytes") > 0
    assert value(many, "process_memory_limit_bytes") > value(many, "process_resident_memory_bytes") > 0
    assert value(trainer, "model_labels") == value(many, "examples_total") > 0


def test_the_figures_of_the_whole_are_the_same_after_a_restart(shop: Shop) -> None:
    figures = ("customers", "customers_in_band", "customers_by_score", "labels_pending", "state_bytes")
    found: list[dict[str, float]] = []

    async def body() -> None:
        async with shop.watched() as (worker, trainer):
            shop.purchases(50, 0)
            shop.purchases(20, 30)
            await eventually(lambda: shop.all_applied(worker), 60)
            labels = shown(worker, "examples_total")
            await eventually(lambda: shown(trainer, "model_labels") == labels, 30, "learned")
            found.append({name: shown(worker, name) for name in figures} | {"model_labels": labels})
        async with shop.watched() as (worker, trainer):
            await eventually(lambda: shown(trainer, "model_labels") == labels, 30, "recalled")
            found.append({name: shown(worker, name) for name in figures} | {"model_labels": labels})

    run(body())
    assert found[0] == found[1]
    assert all(found[0].values())


def tenth(sample: tuple[dict[str, str], float]) -> str:
    return sample[0]["tenth"]


def hurried(rules: Path, folder: Path) -> Path:
    """The rules, but that nothing has to last before it is an alarm."""
    hasty = folder / rules.name
    text = re.sub(r"\n        for: \w+\n", "\n        for: 1s\n", rules.read_text())
    hasty.write_text(re.sub(r"\n    interval: 1m\n", "\n    interval: 1s\n", text))
    return hasty


def test_prometheus_follows_the_rules_and_sounds_an_alarm_when_something_breaks(
    shop: Shop,
    own_redis: Callable[..., RedisServer],
    prometheus: Callable[..., PrometheusServer],
    tmp_path: Path,
) -> None:
    redis = own_redis()
    shop.redis_url, shop.patience = redis.url, 1.5
    rules = [hurried(ROOT / "deploy/prometheus" / name, tmp_path) for name in ("rules.yml", "alerts.yml")]

    async def body() -> None:
        async with shop.watched() as (worker, trainer):
            assert worker.http_port
            assert trainer.http_port
            jobs = {"churnwatch-worker": [worker.http_port], "churnwatch-trainer": [trainer.http_port]}
            server = await asyncio.to_thread(prometheus, jobs, rules)

            async def told(what: Callable[[], object]) -> None:
                """Wait until Prometheus says so, while the workers' loop turns."""
                end = asyncio.get_running_loop().time() + 120
                while not await asyncio.to_thread(what):
                    assert asyncio.get_running_loop().time() < end, server.alerts()
                    await asyncio.sleep(0.2)

            groups = (await asyncio.to_thread(server.ask, "rules"))["groups"]
            assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
            for customers, day in ((300, 0), (100, 8), (100, 40)):
                shop.purchases(customers, day)
            await told(lambda: server.value("sum(churnwatch_customers) == 300"))
            await told(lambda: server.value("churnwatch:score_psi > 0"))

            # What the rule makes of all workers together is what the worker makes of its own customers.
            def psi_of_the_counts() -> float:
                now, before = (
                    [int(n) for _, n in sorted(server.value(f"sum by (tenth) ({name})"), key=tenth)]
                    for name in ("churnwatch_customers_by_score", "churnwatch_customers_by_score_reference")
                )
                assert len(now) == TENTHS
                return psi(now, before)

            await told(
                lambda: server.value("churnwatch:score_psi")[0][1] == pytest.approx(psi_of_the_counts())
            )
            await told(lambda: server.alerts() == {})

            # What the runbooks ask of Prometheus it understands.
            asked = [line for page in PAGES for line in lines(page, "promql")]
            assert len(asked) > 40
            for expression in dict.fromkeys(asked):
                await asyncio.to_thread(server.value, expression)

            for n in range(60):
                producer_of(shop.brokers).produce(shop.prefix + "purchases", b"{", f"c{n}")
            producer_of(shop.brokers).flush(20)
            await told(lambda: "ChurnwatchDeadLetters" in server.alerts())
            said = (await asyncio.to_thread(server.alerts))["ChurnwatchDeadLetters"]
            assert said["summary"].endswith("of what churnwatch-worker reads cannot be used")
            assert (ROOT / said["runbook_url"]).exists()

            await asyncio.to_thread(redis.stop)
            await told(lambda: "ChurnwatchPartitionsUnclaimed" in server.alerts())
            await asyncio.to_thread(redis.start)
            await told(lambda: "ChurnwatchPartitionsUnclaimed" not in server.alerts())
            health = {
                rule["health"]
                for g in (await asyncio.to_thread(server.ask, "rules"))["groups"]
                for rule in g["rules"]
            }
            assert health == {"ok"}

    run(body())
