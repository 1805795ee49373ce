"""A customer is forgotten on a real Kafka and a real Redis: what is gone, what stays, and who may not come back."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import xxhash
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from agents.commands.expiry import expiry
from agents.settings import Settings
from agents.worker import Worker
from features.customer import unpack_hot
from streams.message import Message, pack
from tests.agents.command_line import CommandLine
from tests.agents.shell import run
from tests.servers import ROOT, KafkaServer, RedisServer, read_all, wait_until

CANARY = "canary-7c1d5be0a94f"
OTHERS = ("bystander-1", "bystander-2")
SECRET = "the secret of a test, long enough"
START = datetime(2026, 1, 1, tzinfo=UTC)
INPUTS = ("purchases", "contacts", "customers")
KEPT = ("alerts", "decisions", "dead-letters", "examples")
COMPACTED = ("customer-scores", "forgotten")


def traces(customer: str) -> list[bytes]:
    """The customer's id as it may lie in some bytes: plain (as MessagePack has it too), or by a hash without a key."""
    name = customer.encode()
    return [
        name,
        name.hex().encode(),
        base64.b64encode(name).rstrip(b"=")[:-1],
        customer.encode("utf-16-le"),
        hashlib.sha256(name).digest(),
        hashlib.sha256(name).hexdigest().encode(),
        xxhash.xxh3_64_digest(name),
    ]


def found_in(content: bytes, customer: str = CANARY) -> bool:
    return any(trace in content for trace in traces(customer))


class Shop:
    """An application with a secret, one partition, and the settings as variables."""

    def __init__(self, kafka: KafkaServer, redis: RedisServer, application: str, prefix: str) -> None:
        self.kafka, self.redis, self.application, self.prefix = kafka, redis, application, prefix
        self.env = {
            "CHURNWATCH_APPLICATION": application,
            "CHURNWATCH_KAFKA__BROKERS": kafka.brokers,
            "CHURNWATCH_KAFKA__PREFIX": prefix,
            "CHURNWATCH_KAFKA__INPUTS": ",".join(INPUTS),
            "CHURNWATCH_KAFKA__SESSION_TIMEOUT": "6",
            "CHURNWATCH_REDIS__URL": redis.url,
            "CHURNWATCH_CLOCK__MODE": "record",
            "CHURNWATCH_PRIVACY__KEY": SECRET,
            "CHURNWATCH_WORKER__HTTP_PORT": "0",
            "CHURNWATCH_WORKER__SWEEP_INTERVAL": "0.1",
            "CHURNWATCH_LEARNING__SNAPSHOT_DAYS": "7",
        }
        self.producer = Producer(
            {
                "bootstrap.servers": kafka.brokers,
                "partitioner": "murmur2_random",
                "log_level": 0,
                "linger.ms": 1,
            }
        )
        self.looker = Consumer({"bootstrap.servers": kafka.brokers, "group.id": "looker", "log_level": 0})
        self.sent = 0

    @property
    def settings(self) -> Settings:
        return Settings.load(None, self.env)

    def topic(self, name: str) -> str:
        return self.prefix + name

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        worker = Worker(self.settings, serve_http=False)
        try:
            await asyncio.wait_for(worker.start(), 60)
            yield worker
            if worker.failed.done():
                raise worker.failed.result()
        finally:
            await asyncio.wait_for(worker.stop(), 30)

    # ---- what goes in

    def put(self, topic: str, key: str, value: bytes) -> None:
        self.producer.produce(self.topic(topic), value, key)
        assert self.producer.flush(30) == 0
        self.sent += 1

    def event(self, topic: str, kind: str, customer: str, at: datetime, **fields: Any) -> None:
        self.sent_id = f"e{self.sent}"
        said = {"type": kind, "id": self.sent_id, "customer": customer, "time": at.isoformat(), **fields}
        self.put(topic, customer, json.dumps(said).encode())

    def purchase(self, customer: str, at: datetime) -> None:
        lines = [{"amount": 20.0, "category": "tea"}]
        self.event("purchases", "purchase", customer, at, lines=lines)

    def forget(self, customer: str, at: datetime, topic: str = "contacts") -> None:
        self.event(topic, "forget", customer, at)

    def tick(self, at: datetime) -> None:
        for topic in INPUTS:
            self.put(topic, "clock", json.dumps({"type": "clock", "time": at.isoformat()}).encode())

    def history(self) -> datetime:
        """Everybody buys every week, is heard of otherwise, and falls silent; the instant it has come to."""
        for customer in (CANARY, *OTHERS):
            self.event("customers", "profile", customer, START, tier="gold")
        for week in range(9):
            for customer in (CANARY, *OTHERS):
                self.purchase(customer, START + timedelta(weeks=week))
            self.tick(START + timedelta(weeks=week))
        for customer in (CANARY, *OTHERS):
            self.put("purchases", customer, b'{"type":"purchase","customer":"' + customer.encode() + b'",')
        end = START + timedelta(weeks=9, days=50)
        self.tick(end)
        return end

    # ---- what came of it

    def key(self, part: str) -> str:
        return f"{{{self.application}:p0}}:{part}"

    def applied(self) -> int:
        with self.redis.client() as client:
            meta: Any = client.hgetall(self.key("meta"))
        return sum(int(value) for name, value in meta.items() if name.startswith(b"off:"))

    async def quiet(self, worker: Worker) -> None:
        """Waits until all that was sent is applied and has left."""
        end = time.monotonic() + 120
        while not await asyncio.to_thread(self.is_quiet):
            if worker.failed.done():
                raise worker.failed.result()
            assert time.monotonic() < end, "not applied"
            await asyncio.sleep(0.1)

    def is_quiet(self) -> bool:
        with self.redis.client() as client:
            if client.xlen(self.key("out")):
                return False
        return self.applied() == sum(
            self.looker.get_watermark_offsets(TopicPartition(self.topic(topic), 0), 20)[1] for topic in INPUTS
        )

    def stored(self, customer: str) -> dict[str, Any]:
        with self.redis.client() as client:
            return {
                "hot": client.hget(self.key("hot"), customer),
                "cold": client.hget(self.key("cold"), customer),
                "due": client.zscore(self.key("due"), customer),
            }

    def everything(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key of Redis with all that is in it, by its type."""
        with self.redis.client() as client:
            for key in client.scan_iter():
                kind: Any = client.type(key)
                content: Any = {
                    b"string": lambda key=key: client.get(key),
                    b"hash": lambda key=key: client.hgetall(key),
                    b"zset": lambda key=key: client.zrange(key, 0, -1, withscores=True),
                    b"stream": lambda key=key: client.xrange(key),
                    b"set": lambda key=key: client.smembers(key),
                    b"list": lambda key=key: client.lrange(key, 0, -1),
                }[kind]()
                yield key, b" ".join(flat(content))

    def records(self, topic: str) -> list[Any]:
        return read_all(self.kafka.brokers, [self.topic(topic)])

    def traced(self, topic: str) -> list[tuple[int, bytes | None]]:
        """Offset and value of the records of a topic that show the canary."""
        return [
            (message.offset(), message.value())
            for message in self.records(topic)
            if found_in(b" ".join(flat([message.key(), message.value(), message.headers()])))
        ]


def flat(content: Any) -> Iterator[bytes]:
    """All bytes in a nested answer."""
    if isinstance(content, bytes):
        yield content
    elif isinstance(content, dict):
        for pair in content.items():
            yield from flat(pair)
    elif isinstance(content, list | tuple | set):
        for each in content:
            yield from flat(each)
    elif content is not None:
        yield str(content).encode()


@pytest.fixture
def shop(
    kafka: KafkaServer,
    own_redis: Callable[..., RedisServer],
    application: str,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    shop = Shop(kafka, own_redis(settings={"rdbcompression": "no"}), application, prefix)
    for name in (*INPUTS[:2], *KEPT):
        kafka.create_topics([prefix + name], 1, {"retention.ms": "86400000"})
    kept = {"cleanup.policy": "compact"}
    kafka.create_topics([prefix + name for name in (INPUTS[2], *COMPACTED)], 1, kept)
    return shop


def compact(shop: Shop) -> None:
    """From now on compacted topics are as small as it gets, so that their compaction can be waited for."""
    small = {
        "segment.ms": "200",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "1000",
        "delete.retention.ms": "0",
    }
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in small.items()
    ]
    admin = shop.kafka.admin()
    for topic in ("customers", "customer-scores"):
        resource = ConfigResource(ResourceType.TOPIC, shop.topic(topic), incremental_configs=entries)
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(20)


@pytest.fixture
def eager_cleaner(kafka: KafkaServer) -> Iterator[None]:
    """The broker looks for what is to be compacted more often than every fifteen seconds."""

    def alter(operation: AlterConfigOpType) -> None:
        admin = kafka.admin()
        (broker,) = admin.list_topics(timeout=20).brokers
        entry = ConfigEntry("log.cleaner.backoff.ms", "300", incremental_operation=operation)
        resource = ConfigResource(ResourceType.BROKER, str(broker), incremental_configs=[entry])
        for future in admin.incremental_alter_configs([resource]).values():
            future.result(20)

    alter(AlterConfigOpType.SET)
    yield
    alter(AlterConfigOpType.DELETE)


def test_nothing_of_a_forgotten_customer_is_left_in_redis_and_on_topics_only_what_ages_out(
    shop: Shop,
    churnwatch: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    eager_cleaner: None,
) -> None:
    for name, value in shop.env.items():
        monkeypatch.setenv(name, value)

    async def body() -> dict[str, Any]:
        async with shop.worker() as worker:
            await asyncio.to_thread(shop.history)
            await shop.quiet(worker)
            parked = Message("alerts", CANARY.encode(), b'{"customer":"' + CANARY.encode() + b'"}')
            with shop.redis.client() as client:
                client.xadd(shop.key("parked"), {"m": pack(parked)})
            before = {customer: shop.stored(customer) for customer in OTHERS}
            assert shop.stored(CANARY)["hot"]
            exported = await asyncio.to_thread(churnwatch, "export", CANARY, "--topics", "--json")
            assert exported.code == 0, exported.err
            unknown = await asyncio.to_thread(churnwatch, "forget", "nobody-at-all")
            assert unknown.code == 3
            assert "No customer 'nobody-at-all'" in unknown.err
            said = await asyncio.to_thread(churnwatch, "forget", CANARY, "--json", "--rewrite")
            assert said.code == 0, said.err
            assert shop.is_quiet(), "the answer comes when all of it has left"
            assert {customer: shop.stored(customer) for customer in OTHERS} == before, "byte for byte"
            (answer,) = said.lines
            again = await asyncio.to_thread(churnwatch, "forget", CANARY)
            assert again.code == 3
            return {"exported": exported.lines[0], "answer": answer}

    found = run(body())
    _check_export(shop, found["exported"])
    _check_answer(shop, found["answer"])
    # Redis: every key, every value, and the files that it has rewritten.
    for key, content in shop.everything():
        assert not found_in(key + content), key
    files = [path for path in shop.redis.data.rglob("*") if path.is_file()]
    assert any(path.stat().st_size for path in files)
    for path in files:
        assert not found_in(path.read_bytes()), path
    everything = [content for _, content in shop.everything()] + [path.read_bytes() for path in files]
    assert any(found_in(content, OTHERS[0]) for content in everything), "the search finds who is there"
    # Kafka: nothing on what can be taken out; on the others what ages out, as the answer says.
    assert shop.traced("dead-letters") == []
    letters = shop.records("dead-letters")
    assert sorted(message.key().decode() for message in letters) == sorted(OTHERS), (
        "those of others stay, once"
    )
    assert shop.traced("examples") == []
    assert shop.traced("forgotten") == []
    aging = {each["topic"] for each in found["answer"]["ages_out"] if each["how"] == "retention"}
    for topic in ("purchases", "contacts", "alerts"):
        assert shop.traced(topic), topic
        assert shop.topic(topic) in aging
    compact(shop)
    # Compacted topics: null values at once, and when Kafka has compacted not even the key.
    for topic in ("customer-scores", "customers"):
        assert shop.traced(topic)[-1][1] is None

        def compacted(topic: str = topic) -> bool:
            shop.put(topic, "filler", b'{"type":"profile"}')  # what is in the newest segment stays
            time.sleep(0.3)
            return not shop.traced(topic)

        wait_until(compacted, 120, f"{topic} is compacted")
        assert shop.records(topic), "others are still there"


def _check_export(shop: Shop, exported: dict[str, Any]) -> None:
    assert exported["customer"] == CANARY
    assert exported["state"]["orders"] == 9
    assert exported["state"]["spend"] == 180.0
    assert exported["state"]["first_purchase"] == "2026-01-01T00:00:00Z"
    assert exported["now"]["orders"] == 9
    assert exported["habits"]["basket"]["tea"]["events"] == 9
    assert exported["habits"]["tiers"] == {"customers": {"at": "2026-01-01T00:00:00Z", "name": "gold"}}
    assert exported["labels"][0]["inputs"]["repeats"] > 0
    assert exported["deadlines"]
    assert exported["parked"][0]["value"]["customer"] == CANARY
    for topic in ("purchases", "customers", "customer-scores", "dead-letters", "alerts"):
        records = exported["topics"][shop.topic(topic)]
        assert records, topic
        assert all(CANARY in json.dumps(record) or topic == "customer-scores" for record in records)
    assert OTHERS[0] not in json.dumps(exported)


def _check_answer(shop: Shop, answer: dict[str, Any]) -> None:
    assert answer["customer"] == CANARY
    removed = answer["removed"]
    assert {name: removed[name] for name in ("states", "timers", "parked", "dead_letters")} == dict.fromkeys(
        ("states", "timers", "parked", "dead_letters"), 1
    )
    assert removed["labels"] > 0
    assert answer["null_values"] == [shop.topic("customer-scores"), shop.topic("customers")]
    assert answer["redis"]["rewritten"] is True
    by = {each["topic"]: each for each in answer["ages_out"]}
    day = datetime.fromisoformat(by[shop.topic("purchases")]["by"]) - datetime.now(UTC)
    assert timedelta(days=1) < day < timedelta(days=9), "retention, and seven days until a segment closes"
    assert by[shop.topic("customers")]["how"] == "compaction"
    recorded = shop.records("forgotten")[-1]
    assert json.loads(recorded.value())["removed"]["states"] == 1
    assert json.loads(recorded.value())["offset"] == answer["request"]["offset"]


def test_whoever_restores_redis_or_reads_kafka_again_does_not_bring_a_customer_back(shop: Shop) -> None:
    def alerts() -> int:
        return len([message for message in shop.records("alerts") if message.key() == CANARY.encode()])

    async def body() -> None:
        end = shop.history()
        async with shop.worker() as worker:
            await shop.quiet(worker)
        backup = shop.redis.backup()
        shop.forget(CANARY, end)
        async with shop.worker() as worker:
            await shop.quiet(worker)
        said, letters = alerts(), shop.traced("dead-letters")
        others = [unpack_hot(shop.stored(customer)["hot"]).orders for customer in OTHERS]
        assert said > 0
        assert not shop.stored(CANARY)["hot"]
        # Restored by hand to before the request: gone before anything else is done, and what follows is the same.
        shop.redis.restore(backup)
        shop.redis.start()
        assert shop.stored(CANARY)["hot"]
        async with shop.worker() as worker:
            await shop.quiet(worker)
            assert worker.metrics.erased.labels("forget")._value.get() >= 1
        assert not any(found_in(key + content) for key, content in shop.everything())
        # Wiped: everything is read from the beginning.
        shop.redis.wipe()
        async with shop.worker() as worker:
            await shop.quiet(worker)
            assert worker.metrics.events_suppressed._value.get() == 11
        assert not any(found_in(key + content) for key, content in shop.everything())
        assert alerts() == said, "nothing is said of them again"
        assert [unpack_hot(shop.stored(customer)["hot"]).orders for customer in OTHERS] == others
        assert shop.traced("dead-letters") == letters, "what cannot be read does not come back either"
        # Who comes back is a new customer.
        shop.purchase(CANARY, end + timedelta(days=1))
        async with shop.worker() as worker:
            await shop.quiet(worker)
        assert shop.stored(CANARY)["hot"]

    run(body())


async def refusal(shop: Shop) -> BaseException:
    """What ends a worker."""
    worker = Worker(shop.settings, serve_http=False)
    try:
        await asyncio.wait_for(worker.start(), 60)
        return await asyncio.wait_for(asyncio.shield(worker.failed), 60)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    finally:
        await asyncio.wait_for(worker.stop(), 30)


def test_a_worker_without_the_secret_of_the_list_refuses_to_start(shop: Shop) -> None:
    async def body() -> None:
        shop.purchase(CANARY, START)
        shop.forget(CANARY, START)
        async with shop.worker() as worker:
            await shop.quiet(worker)
        for secret, why in (
            ("another secret that is long enough", "another secret"),
            ("", "is not set"),
        ):
            shop.env["CHURNWATCH_PRIVACY__KEY"] = secret
            assert why in str(await refusal(shop))

    run(body())


@pytest.mark.parametrize("step", ["before the commit", "after the commit", "before sending", "after sending"])
def test_a_worker_killed_while_it_forgets_somebody_has_forgotten_them_after_the_next_start(
    shop: Shop, step: str
) -> None:
    shop.purchase(CANARY, START)
    shop.purchase(OTHERS[0], START)
    shop.tick(START + timedelta(days=1))
    shop.forget(CANARY, START + timedelta(days=1), "purchases")  # behind what it is about
    command = [sys.executable, "-m", "tests.agents.dying", step]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **shop.env}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()

    async def body() -> None:
        async with shop.worker() as worker:
            await shop.quiet(worker)

    run(body())
    assert not any(found_in(key + content) for key, content in shop.everything())
    assert shop.stored(OTHERS[0])["hot"]
    assert shop.traced("customer-scores")[-1][1] is None
    assert shop.traced("customers")[-1][1] is None
    entries = {message.key(): json.loads(message.value()) for message in shop.records("forgotten")}
    assert len(entries) == 1
    assert next(iter(entries.values()))["removed"]["states"] == 1


def test_what_is_said_of_a_topic_follows_from_its_settings() -> None:
    now, day = 1_700_000_000_000, 86_400_000
    plain = {"cleanup.policy": "delete", "retention.ms": str(7 * day), "segment.ms": str(day)}
    said = expiry("t", plain, now)
    assert said.by is not None
    assert 8 * day * 1000 < said.by - now * 1000 < 8.1 * day * 1000
    assert "retention.ms 7 days" in said.why
    assert expiry("t", {**plain, "retention.ms": "-1"}, now).by is None
    kept = {"cleanup.policy": "compact", "max.compaction.lag.ms": str(2**63 - 1)}
    assert expiry("t", kept, now).by is None
    limited = expiry("t", {**kept, "max.compaction.lag.ms": str(day)}, now)
    assert limited.by is not None
    assert limited.compacted


def test_an_archive_brings_nobody_back(
    shop: Shop, churnwatch: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither whom it says itself to forget, nor whom the list of these topics has, under whatever application."""
    shop.kafka.create_topics([shop.topic("models")], 1)
    for name, value in shop.env.items():
        monkeypatch.setenv(name, value)
    lines = [
        {"type": "purchase", "id": f"a{k}", "customer": customer, "lines": [{"amount": 5}]}
        | {"time": (START + timedelta(days=k)).isoformat()}
        for k in range(3)
        for customer in (CANARY, OTHERS[0])
    ]
    Path("archive.ndjson").write_text("\n".join(map(json.dumps, lines)))
    asked = {"type": "forget", "id": "f", "customer": CANARY, "time": (START + timedelta(days=9)).isoformat()}
    Path("asking.ndjson").write_text("\n".join(map(json.dumps, [*lines, asked])))
    monkeypatch.setenv("CHURNWATCH_PRIVACY__KEY", "")
    said = churnwatch("import", "asking.ndjson")
    assert said.code == 6
    assert "privacy.key must be set" in said.err
    monkeypatch.setenv("CHURNWATCH_PRIVACY__KEY", SECRET)
    said = churnwatch("import", "asking.ndjson")
    assert said.code == 0, said.err
    assert "of 1 customers" in said.out

    async def body() -> None:
        async with shop.worker() as worker:
            await shop.quiet(worker)

    run(body())
    assert shop.stored(OTHERS[0])["hot"]
    assert not any(found_in(key + content) for key, content in shop.everything())
    assert len(shop.records("forgotten")) == 1
    monkeypatch.setenv("CHURNWATCH_APPLICATION", f"{shop.application}-2")
    said = churnwatch("import", "archive.ndjson")
    assert said.code == 0, said.err
    assert "of 1 customers" in said.out
    assert not any(found_in(key + content) for key, content in shop.everything())
