"""``churnwatch doctor`` on real servers that have been set up wrongly, one way after the other."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from agents import cli
from agents.doctor import brokers, examine, greeting, store
from agents.embedded import Embedded
from agents.overview import open_store
from agents.privileges import Resource
from agents.settings import Kafka, Redis, Secret, Settings
from agents.store import Layout
from alerts.partition import Partition
from features.customer import VERSION, Customer, pack_hot
from streams.topics import ALERTS, COMPACTED, DECISIONS, INPUTS, OUTPUTS
from tests.agents.test_secure import SecureKafka
from tests.conftest import missing
from tests.servers import KafkaServer, Missing, RedisServer, free_port, wait_until

INPUT: Final = "purchases"
DAY = 86_400_000


class Report(NamedTuple):
    """What one run of the command has found."""

    code: int
    findings: list[dict[str, str]]

    def of(self, check: str) -> dict[str, str]:
        """The one finding of a check."""
        found = [f for f in self.findings if f["check"] == check]
        assert len(found) == 1, found or self.findings
        return found[0]

    def level(self, check: str) -> str:
        return self.of(check)["level"]

    @property
    def bad(self) -> set[str]:
        """The checks that found a problem."""
        return {f["check"] for f in self.findings if f["level"] == "problem"}


Doctor = Callable[..., Report]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """The command in this process, with no settings but those of its arguments."""
    for name in os.environ:
        if name.startswith("CHURNWATCH_"):
            monkeypatch.delenv(name)

    def call(*flags: str) -> Report:
        capsys.readouterr()
        code = cli.main([*flags, "doctor", "--json"])
        said = json.loads(capsys.readouterr().out)
        assert said["healthy"] == (code == 0)
        assert all(f["found"] for f in said["findings"])
        for finding in said["findings"]:
            if finding["level"] in {"warning", "problem"}:
                assert finding["why"], finding
                assert finding["do"], finding
        return Report(code, said["findings"])

    return call


@pytest.fixture
def flags(kafka: KafkaServer, redis_server: RedisServer, prefix: str, application: str) -> tuple[str, ...]:
    return (
        "--brokers", kafka.brokers, "--redis", redis_server.url, "--prefix", prefix, "--application", application,
        "--set", f"kafka.inputs={INPUT}",
    )  # fmt: skip


Complete = Callable[..., None]


@pytest.fixture
def complete(kafka: KafkaServer, prefix: str) -> Complete:
    """Makes all topics that an application with one input needs; ``purchases`` with the settings given."""

    def create(partitions: int = 1, **config: str) -> None:
        for compacted in (False, True):
            names = [prefix + t for t in OUTPUTS if (t in COMPACTED) == compacted]
            kafka.create_topics(names, 1, {"cleanup.policy": "compact" if compacted else "delete"})
        kafka.create_topics(
            [prefix + INPUT], partitions, {name.replace("_", "."): value for name, value in config.items()}
        )

    return create


# ---- all is well


def test_a_healthy_installation_has_no_problem_and_says_what_was_looked_at(
    doctor: Doctor, flags: tuple[str, ...], complete: Complete
) -> None:
    complete(2)
    report = doctor(*flags)
    assert report.code == 0
    assert report.of("kafka.version")["found"].startswith("Kafka 4.1")
    assert "2 partitions" in report.of("kafka.partitions")["found"]
    assert report.level("kafka.copies") == "warning"  # the broker of the tests is one
    assert "one copy" in report.of("kafka.copies")["found"]
    fine = {f["check"] for f in report.findings if f["level"] == "ok"}
    assert {
        "settings.valid", "kafka.reachable", "kafka.credentials", "kafka.topics", "kafka.cleanup", "kafka.retention",
        "kafka.timestamps", "kafka.sizes", "kafka.rights", "redis.reachable", "redis.credentials", "redis.version",
        "redis.role", "redis.persistence", "redis.eviction", "redis.memory", "redis.clock", "redis.rights",
    } <= fine  # fmt: skip
    # No worker has run yet: that is said, and what to do.
    assert report.level("state.layout") == "warning"
    assert "churnwatch worker" in report.of("state.layout")["do"]


def test_people_get_sections_with_what_to_do_and_only_what_is_wrong_when_they_ask_for_it(
    flags: tuple[str, ...], complete: Complete, capsys: pytest.CaptureFixture[str]
) -> None:
    complete()
    cli.main([*flags, "doctor"])
    whole = capsys.readouterr().out
    assert [line for line in whole.splitlines() if line in {"Settings", "Kafka", "Redis", "State and workers"}] == [
        "Settings", "Kafka", "Redis", "State and workers",
    ]  # fmt: skip
    assert "✓ Redis" in whole
    cli.main([*flags, "doctor", "--quiet"])
    short = capsys.readouterr().out
    assert "one copy of each record only" in short
    assert "→ In production use three brokers" in short
    assert "answers at" not in short


# ---- settings


def test_settings_that_are_wrong_are_findings_in_the_words_of_every_command(
    doctor: Doctor, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ("--set", "redis.timeout=soon", "--set", "kafka.brokers=nowhere")
    report = doctor(*wrong)
    assert report.code == 2
    assert cli.main([*wrong, "customers"]) == 2
    said = capsys.readouterr().err
    assert len(report.findings) == 2
    for finding in report.findings:
        assert finding["level"] == "problem"
        assert finding["found"] in said


# ---- nobody there


def test_with_nobody_there_it_says_so_of_both_and_does_not_hang(doctor: Doctor, tmp_path: Path) -> None:
    began = time.monotonic()
    report = doctor("--brokers", f"127.0.0.1:{free_port()}", "--redis", f"unix://{tmp_path}/none.sock")
    assert time.monotonic() - began < 15
    assert report.code == 1
    assert report.bad == {"kafka.reachable", "redis.reachable"}
    assert "refused" in report.of("kafka.reachable")["found"]
    assert "--redis" in report.of("redis.reachable")["do"]
    assert report.level("state.all") == "unknown"


@pytest.fixture
def mute() -> Iterator[str]:
    """An address where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()
        kept: list[socket.socket] = []

        def take() -> None:
            server.settimeout(0.1)
            while not stop.is_set():
                try:
                    kept.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=take)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        thread.join()
        for connection in kept:
            connection.close()


def test_servers_that_take_connections_and_say_nothing_are_given_up(doctor: Doctor, mute: str) -> None:
    began = time.monotonic()
    report = doctor("--brokers", mute, "--redis", f"redis://{mute}/0")
    assert time.monotonic() - began < 15
    assert report.bad == {"kafka.reachable", "redis.reachable"}
    assert "nothing comes back" in report.of("kafka.reachable")["found"]


def test_one_address_of_several_that_does_not_answer_is_a_warning(
    doctor: Doctor, flags: tuple[str, ...], kafka: KafkaServer, complete: Complete
) -> None:
    complete()
    dead = f"127.0.0.1:{free_port()}"
    report = doctor(*flags, "--brokers", f"{kafka.brokers},{dead}")
    assert dead in report.of("kafka.addresses")["found"]
    assert report.level("kafka.addresses") == "warning"


def test_a_broker_that_is_not_where_it_says_is_told_with_its_listener(kafka: KafkaServer) -> None:
    dead = f"127.0.0.1:{free_port()}"
    (found,) = brokers.advertised(Kafka(brokers=(kafka.brokers,)), {1: kafka.brokers, 2: dead})
    assert found.level == "problem"
    assert f"Broker 2 says that it is at {dead}" in found.found
    assert "advertised.listeners" in found.do


def test_an_embedded_broker_is_looked_at_as_far_as_it_goes_and_says_why_no_further(
    doctor: Doctor, embedded: Embedded
) -> None:
    embedded.touch([*INPUTS, *OUTPUTS])
    began = time.monotonic()
    report = doctor("--brokers", embedded.brokers, "--redis", embedded.redis_url)
    assert time.monotonic() - began < 15
    assert report.level("kafka.version") == "note"
    assert report.level("kafka.topics") == "ok"
    assert "4 partitions" in report.of("kafka.partitions")["found"]
    assert report.level("kafka.configs") == "unknown"
    assert "without an admin API" in report.of("kafka.configs")["why"]
    assert report.bad == {"redis.persistence"}  # it keeps nothing, by intention
    assert "does not tell who reads" in report.of("state.group")["why"]


# ---- topics


def test_missing_topics_and_unequal_partitions_are_problems(
    doctor: Doctor, flags: tuple[str, ...], topics: Callable[..., list[str]], prefix: str
) -> None:
    topics("purchases", partitions=2)
    topics("browses", partitions=3)
    report = doctor(*flags, "--set", "kafka.inputs=purchases,browses,complaints")
    assert report.code == 1
    said = [f["found"] for f in report.findings if f["check"] == "kafka.topics"]
    assert f"Kafka has no topic {prefix}complaints" in said[0]
    assert f"{prefix}alerts" in said[1]
    assert "waits in the outbox" in next(f["why"] for f in report.findings if f["found"] == said[1])
    unequal = report.of("kafka.partitions")
    assert unequal["level"] == "problem"
    assert f"{prefix}purchases has 2, {prefix}browses has 3" in unequal["found"]


@pytest.mark.parametrize(
    ("config", "check", "level", "said"),
    [
        ({"cleanup_policy": "compact"}, "kafka.cleanup", "problem", "cleanup.policy compacts"),
        ({"retention_ms": str(DAY // 2)}, "kafka.retention", "problem", "for 12 hours only"),
        ({"retention_ms": str(3 * DAY)}, "kafka.retention", "warning", "for 3 days only"),
        ({"retention_bytes": "1000000"}, "kafka.retention", "warning", "retention.bytes limits"),
        ({"retention_ms": "-1"}, "kafka.retention", "ok", "for ever"),
        ({"message_timestamp_type": "LogAppendTime"}, "kafka.timestamps", "ok", "the broker's clock"),
        ({"max_message_bytes": "5000000"}, "kafka.sizes", "warning", "inputs of 5.0 MB"),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else None,
)
def test_how_a_topic_keeps_its_records_is_judged(
    doctor: Doctor,
    flags: tuple[str, ...],
    complete: Complete,
    config: Mapping[str, str],
    check: str,
    level: str,
    said: str,
) -> None:
    complete(**config)
    found = doctor(*flags).of(check)
    assert (found["level"], said in found["found"]) == (level, True), found


@pytest.mark.parametrize(
    ("at", "level", "said"),
    [
        (datetime.now(UTC) + timedelta(minutes=40), "warning", "ahead of this machine's clock"),
        (datetime(1970, 1, 21, tzinfo=UTC), "problem", "before the year 2000"),
    ],
    ids=["ahead", "in seconds"],
)
def test_records_whose_time_cannot_be_are_noticed_without_writing_any(
    doctor: Doctor,
    flags: tuple[str, ...],
    complete: Complete,
    kafka: KafkaServer,
    prefix: str,
    at: datetime,
    level: str,
    said: str,
) -> None:
    complete(retention_ms="-1")
    producer = Producer({"bootstrap.servers": kafka.brokers, "log_level": 0})
    producer.produce(prefix + INPUT, b"{}", b"c", timestamp=int(at.timestamp() * 1000))
    assert producer.flush(10) == 0
    found = doctor(*flags).of("kafka.timestamps")
    assert found["level"] == level
    assert said in found["found"]


def test_copies_that_can_be_lost_or_stop_writing_are_warned_of(
    kafka: KafkaServer, flags: tuple[str, ...], complete: Complete, prefix: str, application: str
) -> None:
    """The broker of the tests is one, so its own answers are taken and given other copies."""
    complete()
    facts = facts_of(kafka, prefix, application)

    def with_copies(copies: int, up: int, needed: str, leader: int = 1) -> list[str]:
        class Place(NamedTuple):
            replicas: list[int]
            isrs: list[int]
            leader: int

        class Topic(NamedTuple):
            partitions: dict[int, Place]

        topic = Topic({0: Place(list(range(copies)), list(range(up)), leader)})
        configs = {t: {**(facts.configs or {})[t], "min.insync.replicas": needed} for t in facts.topics}
        changed = facts._replace(topics=dict.fromkeys(facts.topics, topic), configs=configs, brokers=3)
        return [f.found for f in brokers.copies(changed)]

    assert with_copies(3, 3, "2") == ["Every record has at least 3 copies, all up to date."]
    assert any("min.insync.replicas=1" in said for said in with_copies(3, 3, "1"))
    assert any("as many min.insync.replicas as copies" in said for said in with_copies(2, 2, "2"))
    assert any("do not keep up" in said for said in with_copies(3, 2, "2"))
    assert any("Without a leader" in said for said in with_copies(3, 0, "2", -1))


def facts_of(kafka: KafkaServer, prefix: str, application: str) -> brokers.Facts:
    settings = Settings(
        application=application, kafka=Kafka(brokers=(kafka.brokers,), prefix=prefix, inputs=(INPUT,))
    )
    admin = kafka.admin()
    return brokers._facts(settings, admin, admin.list_topics(timeout=5))


def test_rights_that_are_missing_are_named(
    kafka: KafkaServer, complete: Complete, prefix: str, application: str
) -> None:
    complete()
    facts = facts_of(kafka, prefix, application)
    assert [f.level for f in brokers.rights(facts)] == ["ok"]
    seen = frozenset({"DESCRIBE"})
    less = {(Resource.TOPIC, f"{prefix}{INPUT}"): seen, (Resource.GROUP, application): seen}
    (found,) = brokers.rights(facts._replace(rights={**(facts.rights or {}), **less}))
    assert found.level == "problem"
    assert f"READ on {prefix}{INPUT}, READ on the group {application}" in found.found


# ---- the first words with a broker


def test_releases_are_told_by_their_features() -> None:
    said = [greeting.release(level) for level in (0, 7, 19, 21, 25, 27, 29, 30)]
    assert said == ["", "3.3", "3.7", "3.9", "4.0", "4.1", "4.2", "newer than 4.2"]
    old = greeting.Greeting(dict.fromkeys(range(58), 1), 0, 0, None, 0.0)
    (found,) = brokers.version({"a": old})
    assert found.level == "problem"
    assert "older than 2.8" in found.found


def test_something_else_that_listens_is_not_taken_for_kafka(redis_server: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(greeting.NotKafka):
            greeting.greet("127.0.0.1", port, None, 2.0)
        thread.join()


def test_tls_and_passwords_of_kafka_are_tried_and_what_is_wrong_is_told_apart(
    doctor: Doctor, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.doctor.brokers.PATIENCE", 2.0)
    try:
        secure = SecureKafka(tmp_path / "kafka")
    except Missing as error:
        missing(str(error))
    secret = tmp_path / "password"
    secret.write_text("right\n")
    authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    with secure.properties.open("a") as properties:
        properties.write(
            f"authorizer.class.name={authorizer}\nsuper.users=User:broker;User:ANONYMOUS\n"
            "allow.everyone.if.no.acl.found=true\n"
        )
    base = ("--brokers", secure.brokers, "--redis", redis_server.url, "--set", f"kafka.inputs={INPUT}")
    login = (
        "--set", "kafka.sasl=PLAIN", "--set", "kafka.username=shop", "--set", f"kafka.password_file={secret}",
    )  # fmt: skip
    tls = ("--set", "kafka.tls=true", "--set", f"kafka.ca={secure.ca}")
    with secure:
        right = doctor(*base, *tls, *login)
        assert right.of("kafka.credentials")["found"] == "Kafka lets us in as shop with PLAIN, over TLS."
        assert right.level("kafka.certificate") == "warning"  # it was made for two days
        assert "valid for 47 hours only" in right.of("kafka.certificate")["found"]
        secure.create_topics([INPUT, *OUTPUTS], 1)
        allow_only(secure, ResourceType.TOPIC, INPUT, AclOperation.DESCRIBE)
        allow_only(secure, ResourceType.TOPIC, ALERTS, AclOperation.DESCRIBE)
        allow_only(secure, ResourceType.TOPIC, DECISIONS, AclOperation.READ, user="other")
        allow_only(secure, ResourceType.GROUP, "churnwatch", AclOperation.DESCRIBE)
        report = doctor(*base, *tls, *login)
        lacking = report.of("kafka.rights")
        assert lacking["level"] == "problem"
        assert (
            "READ on purchases, WRITE on alerts, WRITE on decisions, READ on the group churnwatch"
            in lacking["found"]
        )
        assert "churnwatch acl kafka worker --user worker=shop" in lacking["do"]
        assert "does not let this user see decisions" in report.of("kafka.topics")["found"]
        secret.write_text("wrong\n")
        wrong = doctor(*base, *tls, *login)
        assert wrong.level("kafka.credentials") == "problem"
        assert "kafka.password_file" in wrong.of("kafka.credentials")["do"]
        assert "wrong" not in json.dumps(wrong.findings)
        secret.write_text("right\n")
        stranger = doctor(*base, "--set", "kafka.tls=true", *login)
        assert "a certificate that we do not trust" in stranger.of("kafka.reachable")["found"]
        assert "kafka.ca" in stranger.of("kafka.reachable")["do"]
        plain = doctor(*base)
        assert plain.level("kafka.reachable") == "problem"
        assert "kafka.tls = true" in plain.of("kafka.reachable")["do"]


def allow_only(
    server: SecureKafka, kind: ResourceType, name: str, operation: AclOperation, user: str = "shop"
) -> None:
    """Allows one operation, and by that no other any more, as an administrator would; waits until it holds."""
    admin = AdminClient({**server.client(), "sasl.username": "broker", "sasl.password": "b"})
    acl = AclBinding(
        kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW
    )
    for future in admin.create_acls([acl]).values():
        future.result(10)
    wait_until(lambda: admin.describe_acls(acl_filter(acl)).result(10), 10, f"{operation} on {name} holds")


def acl_filter(acl: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        acl.restype,
        acl.name,
        acl.resource_pattern_type,
        acl.principal,
        acl.host,
        acl.operation,
        acl.permission_type,
    )


def test_a_listener_without_tls_is_told_from_one_that_is_away(doctor: Doctor, flags: tuple[str, ...]) -> None:
    report = doctor(*flags, "--set", "kafka.tls=true")
    assert "kafka.tls = false" in report.of("kafka.reachable")["do"]


# ---- Redis


def redis_report(doctor: Doctor, redis: RedisServer, *more: str, url: str = "") -> Report:
    """A run in which only Redis is of interest: there is no Kafka."""
    return doctor("--brokers", f"127.0.0.1:{free_port()}", "--redis", url or redis.url, *more)


@pytest.mark.parametrize(
    ("settings", "check", "level", "said"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "redis.eviction", "problem", "allkeys-lru"),
        ({"maxmemory-policy": "volatile-ttl"}, "redis.eviction", "warning", "volatile-ttl"),
        ({"appendonly": "no"}, "redis.persistence", "problem", "keeps nothing"),
        ({"appendonly": "no", "save": "300 100"}, "redis.persistence", "warning", "save 300 100"),
        ({"appendfsync": "no"}, "redis.persistence", "warning", "appendfsync no"),
        ({"maxmemory": "1000gb"}, "redis.memory", "warning", "its machine has"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else None,
)
def test_how_redis_keeps_what_it_holds_is_judged(
    doctor: Doctor,
    own_redis: Callable[..., RedisServer],
    settings: Mapping[str, str],
    check: str,
    level: str,
    said: str,
) -> None:
    found = redis_report(doctor, own_redis(settings=settings)).of(check)
    assert (found["level"], said in found["found"]) == (level, True), found


def test_a_wrong_password_of_redis_is_told_with_what_to_check(
    doctor: Doctor, own_redis: Callable[..., RedisServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_password = RedisWithPassword.started(own_redis)
    for password in ("", "wrong"):
        monkeypatch.setenv("CHURNWATCH_REDIS__PASSWORD", password)
        found = redis_report(doctor, with_password).of("redis.reachable")
        assert found["level"] == "problem"
        assert "let us in" in found["why"]
        assert "redis.password" in found["do"]
        assert "wrong" not in found["found"] + found["do"]
    monkeypatch.setenv("CHURNWATCH_REDIS__PASSWORD", "right")
    needless = redis_report(doctor, own_redis()).of("redis.reachable")
    assert "unset redis.password" in needless["do"]
    right = redis_report(doctor, with_password)
    assert right.of("redis.credentials")["found"] == "Redis lets us in as the default user, with a password."


class RedisWithPassword:
    """The fixture's servers are asked without a password until they answer; this one gets it afterwards."""

    @staticmethod
    def started(own_redis: Callable[..., RedisServer]) -> RedisServer:
        server = own_redis()
        with server.client() as client:
            client.config_set("requirepass", "right")
        return server


def test_a_user_that_may_not_write_is_found_out_without_writing(
    doctor: Doctor, own_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">p", "~*", "+@read", "+@connection")
    monkeypatch.setenv("CHURNWATCH_REDIS__PASSWORD", "p")
    report = redis_report(doctor, server, "--set", "redis.username=reader")
    assert "EVALSHA" in report.of("redis.rights")["found"]
    assert "ZADD" in report.of("redis.rights")["found"]
    assert "HGETALL" not in report.of("redis.rights")["found"]
    assert report.level("redis.info") == "unknown"
    with server.client() as client:
        assert client.dbsize() == 0


def test_trying_the_rights_leaves_nothing_behind(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis()
    settings = Settings(application="shop", redis=Redis(url=server.url))

    async def body() -> list[str]:
        opened = open_store(settings, 3.0)
        try:
            return [f.level for f in await store.rights(opened, settings)]
        finally:
            await opened.close()

    with server.client() as client:
        client.set("shop:layout", "kept")
        before = client.info("persistence")["aof_current_size"]
        assert asyncio.run(body()) == ["ok"]
        assert client.keys() == [b"shop:layout"]
        assert client.get("shop:layout") == b"kept"
        assert client.info("persistence")["aof_current_size"] == before


def test_a_full_redis_and_a_replica_refuse_to_write_and_that_is_found_out(
    doctor: Doctor, own_redis: Callable[..., RedisServer]
) -> None:
    server = own_redis()
    with server.client() as client:
        client.config_set("maxmemory", "1000000")
        full = redis_report(doctor, server)
        assert full.level("redis.writes") == "problem"
        assert "maxmemory" in full.of("redis.writes")["why"]
        assert full.level("redis.memory") == "problem"
        client.config_set("maxmemory", "0")
        client.replicaof("127.0.0.1", str(free_port()))
        replica = redis_report(doctor, server)
        assert replica.level("redis.role") == "problem"
        assert "master" in replica.of("redis.role")["do"]
        assert replica.level("redis.writes") == "problem"


def redis_facts(server: RedisServer) -> store.Facts:
    async def body() -> store.Facts:
        opened = open_store(Settings(redis=Redis(url=server.url)), 3.0)
        try:
            return await store._facts(opened, "Redis", {})
        finally:
            await opened.close()

    facts: store.Facts = asyncio.run(body())
    return facts


def test_what_a_healthy_redis_cannot_be_made_to_say_is_judged_too(redis_server: RedisServer) -> None:
    facts = redis_facts(redis_server)
    assert all(f.level == "ok" for check in store.CHECKS for f in check(facts))

    def judged(check: Callable[[store.Facts], Iterator[Any]], **info: Any) -> tuple[str, str]:
        found = list(check(facts._replace(info={**facts.info, **info})))
        return found[0].level, found[0].found

    assert judged(store.version, redis_version="6.0.16")[0] == "problem"
    assert judged(store.persistence, aof_last_write_status="err") == (
        "problem", "Redis failed at writing the append-only file.",
    )  # fmt: skip
    assert judged(store.eviction, evicted_keys=3)[0] == "warning"
    assert judged(store.memory, used_memory=85, maxmemory=100)[0] == "warning"
    assert judged(store.memory, used_memory_rss=60, total_system_memory=100)[0] == "warning"
    assert next(store.clock(facts._replace(skew=-30.0))).found == (
        "The clock of Redis is 29 seconds behind this machine's."
    )
    assert next(store.clock(facts._replace(skew=400.0))).level == "problem"
    no_config = facts._replace(config=None, info={**facts.info, "aof_enabled": 0})
    assert next(store.persistence(no_config)).level == "warning"


@pytest.mark.parametrize(
    ("ahead", "level", "found"),
    [(90, "warning", "behind this machine's"), (-7200, "problem", "ahead of this machine's")],
)
def test_a_process_whose_clock_is_another_than_that_of_redis_is_told(
    flags: tuple[str, ...], tmp_path: Path, ahead: int, level: str, found: str
) -> None:
    (tmp_path / "ahead").write_text(str(ahead))
    ran = subprocess.run(
        [sys.executable, "-m", "tests.chaos.stepped", str(tmp_path / "ahead"), *flags, "doctor", "--json"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=120,
        env={k: v for k, v in os.environ.items() if not k.startswith("CHURNWATCH_")},
    )  # fmt: skip
    (told,) = (f for f in json.loads(ran.stdout)["findings"] if f["check"] == "redis.clock")
    assert told["level"] == level
    assert told["found"].startswith("The clock of Redis is ")
    assert found in told["found"]


def test_tls_of_redis_is_tried_with_the_right_authority_and_without(
    doctor: Doctor, own_redis: Callable[..., RedisServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.doctor.store.PATIENCE", 1.5)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    try:
        server = own_redis(
            settings={
                "tls-port": str(port), "tls-cert-file": str(tmp_path / "cert.pem"), "tls-auth-clients": "no",
                "tls-key-file": str(tmp_path / "key.pem"), "tls-ca-cert-file": str(tmp_path / "cert.pem"),
            }
        )  # fmt: skip
    except AssertionError:
        missing("this redis-server was built without TLS")
    url = f"rediss://127.0.0.1:{port}/0"
    right = redis_report(doctor, server, "--set", f"redis.ca={tmp_path / 'cert.pem'}", url=url)
    assert right.level("redis.reachable") == "ok"
    assert "valid for 89 days" in right.of("redis.certificate")["found"]
    assert "over TLS" in right.of("redis.credentials")["found"]
    stranger = redis_report(doctor, server, url=url)
    assert "certificate" in stranger.of("redis.reachable")["why"]
    assert "redis.ca" in stranger.of("redis.reachable")["do"]
    plain = redis_report(doctor, server, url=f"redis://127.0.0.1:{port}/0")
    assert "write rediss://" in plain.of("redis.reachable")["do"], plain.of("redis.reachable")
    not_tls = redis_report(doctor, server, url=f"rediss://127.0.0.1:{server.port}/0")
    assert "write redis://" in not_tls.of("redis.reachable")["do"]


def test_of_a_cluster_every_master_is_looked_at(
    doctor: Doctor, own_redis: Callable[..., RedisServer]
) -> None:
    nodes = [own_redis(settings={"cluster-enabled": "yes", "cluster-node-timeout": "2000"}) for _ in range(2)]
    clients: list[Any] = [node.client() for node in nodes]
    try:
        clients[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        clients[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[1].port)
        wait_until(
            lambda: all(b"cluster_state:ok" in c.execute_command("CLUSTER", "INFO") for c in clients), 30
        )
        clients[1].config_set("maxmemory-policy", "allkeys-lru")
        report = redis_report(doctor, nodes[0], "--set", "redis.cluster=true", url=nodes[0].tcp_url)
    finally:
        for client in clients:
            client.close()
    levels = sorted(f["level"] for f in report.findings if f["check"] == "redis.eviction")
    assert levels == ["ok", "problem"]
    assert report.level("redis.rights") == "ok"
    bad = next(f for f in report.findings if f["check"] == "redis.eviction" and f["level"] == "problem")
    assert str(nodes[1].port) in bad["found"]


# ---- state


class State:
    """Writes what a worker of another time would have left."""

    def __init__(self, server: RedisServer, application: str) -> None:
        self.server = server
        self.application = application

    def layout(self, partitions: int = 1, clock: str = "wall") -> None:
        with self.server.client() as client:
            client.set(f"{self.application}:layout", msgspec.json.encode(Layout(partitions, clock)))

    def partition(self, applied: Mapping[str, int], blob: bytes | None = None) -> None:
        with self.server.client() as client:
            fields: dict[str, Any] = {"gen": 1, "inc": "a", "ver": "a.1", "part": blob or Partition().pack()}
            fields |= {f"off:{topic}": offset for topic, offset in applied.items()}
            client.hset(f"{{{self.application}:p0}}:meta", mapping=fields)

    def customer(self, raw: bytes) -> None:
        with self.server.client() as client:
            client.hset(f"{{{self.application}:p0}}:hot", "c1", raw)


@pytest.fixture
def state(redis_server: RedisServer, application: str) -> State:
    return State(redis_server, application)


def test_a_state_of_this_release_that_fits_is_fine(
    doctor: Doctor, flags: tuple[str, ...], complete: Complete, state: State, prefix: str
) -> None:
    complete()
    state.layout()
    state.partition({prefix + INPUT: 0})
    state.customer(pack_hot(Customer()))
    report = doctor(*flags)
    assert report.bad == {"state.group"}  # nobody reads
    assert "1 state" in report.of("state.versions")["found"]
    assert report.level("state.layout") == "ok"
    assert report.level("state.offsets") == "ok"


def test_a_state_of_an_unknown_version_is_a_problem(
    doctor: Doctor, flags: tuple[str, ...], complete: Complete, state: State
) -> None:
    complete()
    state.layout()
    state.customer(bytes([VERSION + 1]) + b"?")
    newer = doctor(*flags).of("state.versions")
    assert newer["level"] == "problem"
    assert "newer release" in newer["why"]
    state.customer(pack_hot(Customer()))
    state.partition({}, Partition(version=99).pack())
    report = doctor(*flags)
    said = [f["found"] for f in report.findings if f["check"] == "state.versions"]
    assert any("version 99" in text for text in said)


def test_another_clock_or_number_of_partitions_than_the_states_is_a_problem(
    doctor: Doctor, flags: tuple[str, ...], complete: Complete, state: State
) -> None:
    complete(2)
    state.layout(partitions=3, clock="record")
    report = doctor(*flags)
    assert "clock.mode = record" in report.of("state.clock_mode")["do"]
    assert "3 partitions, Kafka has 2" in report.of("state.layout")["found"]


def test_offsets_that_kafka_does_not_have_are_problems(
    doctor: Doctor, flags: tuple[str, ...], complete: Complete, state: State, kafka: KafkaServer, prefix: str
) -> None:
    complete()
    state.layout()
    state.partition({prefix + INPUT: 40})
    assert "beyond the end" in doctor(*flags).of("state.offsets")["found"]
    producer = Producer({"bootstrap.servers": kafka.brokers, "log_level": 0})
    for _ in range(5):
        producer.produce(prefix + INPUT, b"{}", b"c")
    assert producer.flush(10) == 0
    admin = kafka.admin()
    for future in admin.delete_records([TopicPartition(prefix + INPUT, 0, 3)]).values():
        future.result(10)
    state.partition({prefix + INPUT: 1})
    expired = doctor(*flags).of("state.offsets")
    assert f"{prefix}{INPUT}/0: offsets 1 to 2 (2 records expired unread), before " in expired["found"]
    assert "accept-loss" in expired["do"]
    assert "retention" in expired["do"]


def test_a_redis_that_is_behind_with_no_worker_is_told_with_its_records(
    doctor: Doctor, flags: tuple[str, ...], complete: Complete, state: State, kafka: KafkaServer, prefix: str
) -> None:
    complete()
    state.layout()
    state.partition({prefix + INPUT: 0})
    producer = Producer({"bootstrap.servers": kafka.brokers, "log_level": 0})
    for _ in range(5):
        producer.produce(prefix + INPUT, b"{}", b"c")
    assert producer.flush(10) == 0
    assert "5 records behind and no worker" in doctor(*flags).of("state.group")["found"]


def test_what_takes_too_long_is_given_up_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.doctor.LIMIT", 0.05)
    release = threading.Event()
    monkeypatch.setattr("agents.doctor.brokers.checks", lambda *_: release.wait(5) and [])
    monkeypatch.setattr("agents.doctor.store.checks", lambda *_: asyncio.sleep(5))
    found = examine(Settings(redis=Redis(password=Secret("x"))))
    release.set()
    assert [f.level for f in found] == ["problem", "problem", "unknown"]
    assert "not all questions were answered" in found[0].found
