from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis as sync_redis
from confluent_kafka import Producer

from agents import loading
from agents.core import engine_of, usable
from agents.failure import LayoutRefused
from agents.files import Reading, read
from agents.loading import Ends, Interrupted
from agents.metrics import Metrics
from agents.overview import open_store
from agents.ownership import IMPORTING, Ownership
from agents.settings import Clock, Kafka, Redis, Settings
from agents.settings import Worker as WorkerSettings
from agents.store import SNAPSHOT, Layout, Store, trainer_of
from agents.trainer import Lessons
from agents.transport import partition_of
from agents.worker import Worker
from alerts.engine import Engine
from alerts.partition import unpack
from alerts.policy import Policy
from features.customer import Customer, unpack_hot
from features.shop import DAY
from models.learning import Learning
from models.snapshot import PIN, Known, decode, encode_pin, named
from streams.codec import Codec
from tests.agents.backtest.conftest import written
from tests.agents.command_line import CommandLine
from tests.servers import KafkaServer, RedisServer, read_all

Topics = Callable[..., list[str]]
PARTITIONS = 3
FLAGS = (
    "--set",
    "learning.gate=50",
    "--set",
    "policy.medium=0.4",
    "--set",
    "policy.rise=0.2",
    "--set",
    "clock.mode=record",
)
NAMES = ("alerts", "customer-scores", "decisions", "dead-letters", "customer-changes", "tasks")


class Shop:
    """An application on real servers, with the archive of a small shop."""

    def __init__(
        self, kafka: KafkaServer, redis: RedisServer, prefix: str, application: str, archive: Path
    ) -> None:
        self.kafka, self.redis, self.prefix, self.application, self.archive = (
            kafka,
            redis,
            prefix,
            application,
            archive,
        )
        self.settings = Settings(
            application=application,
            kafka=Kafka(brokers=(kafka.brokers,), prefix=prefix, inputs=("purchases", "complaints"), session_timeout=6.0, request_timeout=20.0),
            redis=Redis(url=redis.url),
            clock=Clock(mode="record"),
            policy=Policy(medium=0.4, rise=0.2),
            learning=Learning(gate=50),
            worker=WorkerSettings(http_port=0, sweep_interval=0.1),
        )  # fmt: skip

    def on_the_wall_clock(self) -> None:
        self.settings = msgspec.structs.replace(self.settings, clock=Clock(mode="wall"))

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            *FLAGS, "--set", f"clock.mode={self.settings.clock.mode}", "--application", self.application, "--brokers", self.kafka.brokers, "--prefix", self.prefix,
            "--redis", self.redis.url, "--set", "kafka.inputs=purchases,complaints",
        )  # fmt: skip

    def stored(self, number: int, part: str) -> Any:
        with sync_redis.Redis.from_url(self.redis.url) as client:
            return client.hgetall(f"{{{self.application}:p{number}}}:{part}")

    def customers(self) -> dict[str, Customer]:
        return {
            key.decode(): unpack_hot(raw)
            for number in range(PARTITIONS)
            for key, raw in self.stored(number, "hot").items()
        }

    def alerts(self, topic: str = "alerts") -> list[dict[str, Any]]:
        found = []
        for record in read_all(self.kafka.brokers, [self.prefix + topic]):
            kind = next(value for name, value in record.headers() if name == "ce_type").decode()
            found.append(
                {
                    **json.loads(record.value()),
                    "step": kind.removeprefix("io.churnwatch.").removesuffix(".v1"),
                }
            )
        return found

    async def live(self, events: list[dict[str, Any]], until: datetime) -> None:
        """A worker that applies what arrives now, up to a clock record of ``until``."""
        producer = Producer(
            {"bootstrap.servers": self.kafka.brokers, "partitioner": "murmur2_random", "linger.ms": 1}
        )
        for event in events:
            producer.produce(self.prefix + "purchases", json.dumps(event), event["customer"])
        tick = json.dumps({"id": f"clock-{until}", "type": "clock", "time": until.isoformat()})
        for topic in ("purchases", "complaints"):
            for number in range(PARTITIONS):
                producer.produce(self.prefix + topic, tick, "clock", partition=number)
        assert producer.flush(20) == 0
        worker = Worker(self.settings, serve_http=False)
        try:
            await asyncio.wait_for(worker.start(), 30)
            end = asyncio.get_running_loop().time() + 30
            wanted = round(until.timestamp() * 1e6)
            while (
                not all(
                    unpack(self.stored(n, "meta").get(b"part"), n).clock >= wanted for n in range(PARTITIONS)
                )
                or self._waiting()
            ):
                assert asyncio.get_running_loop().time() < end, "the worker did not come to the end"
                if worker.failed.done():
                    raise worker.failed.result()
                await asyncio.sleep(0.05)
        finally:
            await asyncio.wait_for(worker.stop(), 15)

    def _waiting(self) -> int:
        with sync_redis.Redis.from_url(self.redis.url) as client:
            return sum(client.xlen(f"{{{self.application}:p{n}}}:out") for n in range(PARTITIONS))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("archive") / "archive.csv", customers=120, days=200)


@pytest.fixture
def shop(
    kafka: KafkaServer,
    redis_server: RedisServer,
    topics: Topics,
    prefix: str,
    application: str,
    archive: Path,
) -> Shop:
    topics("purchases", "complaints", *NAMES, partitions=PARTITIONS)
    topics("models", partitions=1)
    return Shop(kafka, redis_server, prefix, application, archive)


def archived(shop: Shop) -> loading.Archive:
    codec = Codec("USD", 2, {}, frozenset())
    entries = read(shop.archive, Reading(codec, history=True), lambda refusal: pytest.fail(refusal.reason))
    return loading.replayed(shop.settings, entries, PARTITIONS)


def test_a_shop_starts_warm_and_quiet_after_an_import(shop: Shop, churnwatch: CommandLine) -> None:
    said = churnwatch(*shop.flags, "import", str(shop.archive))
    assert said.code == 0, said.err
    assert "of 120 customers" in said.out
    assert "labels were learned" in said.out
    known = shop.customers()
    assert len(known) == 120
    for number in range(PARTITIONS):
        assert all(partition_of(key, PARTITIONS) == number for key in shop.stored(number, "hot"))
    ends = {unpack(shop.stored(n, "meta")[b"part"], n).clock for n in range(PARTITIONS)}
    (end,) = ends
    assert end % DAY == 0
    last = datetime.fromtimestamp(end / 1e6, UTC)
    told = churnwatch(*shop.flags, "model", "list", "--json").lines
    assert len(told) == 1

    at_risk = {name for name, c in known.items() if c.standing.churn is not None}
    assert len(at_risk) > 5
    purchases = [
        {
            "id": f"live-{name}", "type": "purchase", "customer": name,
            "time": (last + timedelta(hours=2)).isoformat(), "lines": [{"amount": 12.5}],
        }
        for name in sorted(at_risk)
    ]  # fmt: skip
    asyncio.run(shop.live(purchases, last + timedelta(days=2)))

    now = shop.customers()
    assert all(now[name].orders == c.orders + (name in at_risk) for name, c in known.items())
    alerts = shop.alerts()
    # Of what was known before nothing is told; of what happened since, everything. Who lapsed on the archive's last
    # day had no warning left to resolve.
    lapsed = {each["customer"] for each in shop.alerts("decisions") if each["step"] == "churn.expired"}
    assert at_risk - lapsed
    assert {each["customer"] for each in alerts if each["step"] == "churn.resolved"} == at_risk - lapsed
    raised = {each["customer"] for each in alerts if each["step"] == "churn.raised"}
    assert not raised & {name for name, c in known.items() if c.standing.churn is not None}
    assert not any(each["history"] for each in alerts)
    first = min((datetime.fromisoformat(each["decided_at"]) for each in alerts), default=last)
    assert first >= last
    scored = {
        record.key().decode() for record in read_all(shop.kafka.brokers, [shop.prefix + "customer-scores"])
    }
    assert scored >= {name for name, c in known.items() if c.orders}


def test_what_fell_due_between_the_archive_and_now_is_no_news_either(
    shop: Shop, churnwatch: CommandLine
) -> None:
    shop.on_the_wall_clock()
    assert churnwatch(*shop.flags, "import", str(shop.archive)).code == 0
    known = shop.customers()
    now = datetime.now(UTC)
    back = next(iter(known))
    purchase = {
        "id": "live-1", "type": "purchase", "customer": back, "time": now.isoformat(), "lines": [{"amount": 12.5}],
    }  # fmt: skip
    asyncio.run(shop.live([purchase], now))
    after = shop.customers()
    assert after[back].orders == known[back].orders + 1
    # Long silent by now, all of them; and nobody was told so.
    assert sum(c.standing.written_band != known[name].standing.written_band for name, c in after.items()) > 20
    assert shop.alerts() == []


def test_learning_goes_on_where_the_archive_ends(shop: Shop, churnwatch: CommandLine) -> None:
    assert churnwatch(*shop.flags, "import", str(shop.archive)).code == 0
    with sync_redis.Redis.from_url(shop.redis.url) as client:
        name = f"{{{trainer_of(shop.application)}:p0}}"
        head = client.hget(f"{name}:meta", "part")
        offset = client.hget(f"{name}:meta", f"off:{shop.prefix}examples")
        blocks = client.hgetall(f"{name}:cold")
    assert offset == b"0"
    state = msgspec.msgpack.decode(head, strict=False)
    lessons = Lessons(shop.settings)
    turn = lessons.events(lessons.open(head, 0), "examples", (), [], {}, blocks, 0)
    assert turn.partition is not None
    for number in range(PARTITIONS):
        partition = unpack(shop.stored(number, "meta")[b"part"], number)
        assert partition.examples == state["sequences"][number]


def test_whoever_looks_is_told_by_the_score_that_decides_with_kafka_without_it_and_when_one_is_pinned(
    shop: Shop, churnwatch: CommandLine
) -> None:
    assert churnwatch(*shop.flags, "import", str(shop.archive)).code == 0
    with sync_redis.Redis.from_url(shop.redis.url) as client:
        kept = client.hget(f"{{{trainer_of(shop.application)}:p0}}:cold", SNAPSHOT)
    snapshot = decode(kept)
    assert snapshot.source == "learned"
    ((_, published),) = ((r.key(), r.value()) for r in read_all(shop.kafka.brokers, [shop.prefix + "models"]))
    assert published == kept

    def scored(engine: Engine) -> dict[str, object]:
        cold = {k: v for n in range(PARTITIONS) for k, v in shop.stored(n, "cold").items()}
        at = unpack(shop.stored(0, "meta")[b"part"], 0).clock
        return {
            key.decode(): engine.describe(key.decode(), raw, cold.get(key), at).get("churn_probability")
            for n in range(PARTITIONS)
            for key, raw in shop.stored(n, "hot").items()
        }

    def told(*flags: str) -> dict[str, object]:
        said = churnwatch(*shop.flags, *flags, "customers", "--json")
        assert said.code == 0, said.err
        return {line["customer"]: line.get("churn_probability") for line in said.lines}

    by_prior = engine_of(shop.settings)
    learned = engine_of(shop.settings)
    learned.adopt(usable(shop.settings, Known((snapshot,))))
    right = scored(learned)
    assert right != scored(by_prior)
    assert told() == right
    assert told("--brokers", "127.0.0.1:1") == right
    status = churnwatch(*shop.flags, "status").out
    assert f"score  learned, {snapshot.promoted} of snapshot {snapshot.version}" in " ".join(
        status.split("\n")
    )
    model = churnwatch(*shop.flags, "status", "--json").lines[0]["model"]
    assert model["version"] == snapshot.version
    assert (model["score_source"], model["pinned"], model["gate"]["open"]) == ("learned", False, True)

    promoted = msgspec.structs.replace(snapshot.leading.promoted, model="rhythm")
    leading = msgspec.structs.replace(snapshot.leading, promoted=promoted)
    other = named(msgspec.structs.replace(snapshot, source="statistical", horizons=(leading,)))
    producer = Producer({"bootstrap.servers": shop.kafka.brokers})
    producer.produce(shop.prefix + "models", encode_pin(other, 1), PIN, partition=0)
    assert producer.flush(20) == 0
    assert told() == scored(by_prior)
    assert "which is pinned" in " ".join(churnwatch(*shop.flags, "status").out.split("\n"))


def test_an_application_that_is_not_empty_is_refused_with_what_to_do(
    shop: Shop, churnwatch: CommandLine
) -> None:
    with sync_redis.Redis.from_url(shop.redis.url) as client:
        client.hset(f"{{{shop.application}:p1}}:hot", "c1", b"x")
        said = churnwatch(*shop.flags, "import", str(shop.archive))
        assert said.code == 2
        assert "is not empty: nothing was imported" in said.err
        assert f"{{{shop.application}:p1}}:hot" in said.err
        assert "--application" in said.err
        assert client.exists(f"{shop.application}:layout") == 0


def test_a_file_without_events_imports_nothing(shop: Shop, churnwatch: CommandLine, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("event_type,customer_id,ts,amount\n")
    said = churnwatch(*shop.flags, "import", str(empty))
    assert said.code == 6
    assert "no event" in said.err


def test_missing_topics_are_named_before_anything_is_read(
    kafka: KafkaServer, redis_server: RedisServer, topics: Topics, prefix: str, application: str, archive: Path, churnwatch: CommandLine
) -> None:  # fmt: skip
    topics("purchases", "complaints", partitions=PARTITIONS)
    said = churnwatch(*Shop(kafka, redis_server, prefix, application, archive).flags, "import", str(archive))
    assert said.code == 5
    assert f"{prefix}models" in said.err
    assert "churnwatch topics create" in said.err


def test_what_was_loaded_goes_when_somebody_else_begins_to_write(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archived(shop)
    kafka = shop.settings.kafka
    ends = Ends(
        {(kafka.topic(t), n): 0 for t in kafka.inputs for n in range(PARTITIONS)},
        {(kafka.topic("examples"), 0): 0},
    )

    async def interrupted() -> None:
        store = open_store(shop.settings, 5.0)
        trainer = open_store(
            msgspec.structs.replace(shop.settings, application=trainer_of(shop.application)), 5.0
        )
        worker = Store(store.redis, shop.application, 5.0)
        await worker.claim(1, 7)
        keys = store.keys(1)
        # As if it had claimed after the look at what is there.
        monkeypatch.setattr(loading, "check_empty", _nothing)
        with pytest.raises(Interrupted):
            await loading.load(store, trainer, shop.settings, archive, ends)
        assert await store.layout() is None
        assert not await store.redis.exists(*store.keys(0), *store.keys(2), keys[1], keys[2])
        await store.close()
        await trainer.close()

    asyncio.run(interrupted())


async def _nothing(*_: object) -> None:
    return


def test_no_worker_begins_while_an_import_is_under_way(shop: Shop) -> None:
    class Logs:
        def partition_counts(self, topics: Any) -> dict[str, int]:
            return dict.fromkeys(topics, PARTITIONS)

    async def refused() -> None:
        store = open_store(shop.settings, 5.0)
        await store.layout(Layout(PARTITIONS, IMPORTING))
        from prometheus_client import CollectorRegistry

        ownership = Ownership(store, ("purchases",), "record", unpack, Metrics(CollectorRegistry()))
        with pytest.raises(LayoutRefused, match="is being imported"):
            await ownership.claim(Logs(), [("purchases", 0)], 1)  # type: ignore[arg-type]
        await store.close()

    asyncio.run(refused())
