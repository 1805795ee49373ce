"""Fixtures that start servers. A test that needs one asks for it by name; what is missing on a machine skips it.

With ``CI=true`` in the environment nothing is skipped: a missing server is a failure.
"""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from agents.embedded import Embedded, Unavailable
from tests.servers import KafkaServer, Missing, PrometheusServer, RedisServer, kafka_jars

IN_CI = os.environ.get("CI", "").lower() in {"true", "1", "yes"}


def pytest_configure(config: pytest.Config) -> None:
    # A session that is asked to end still ends its servers: SIGTERM unwinds it as Ctrl-C does.
    def unwind(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, unwind)


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where every server must be there."""
    if IN_CI:
        pytest.fail(f"CI=true and {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One real broker for the whole session. Leave it running; use `prefix` to have topics to yourself."""
    try:
        server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    except Missing as error:
        missing(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One real Redis for the whole session. Leave it running; use `application` to have keys to yourself."""
    try:
        server = RedisServer(tmp_path_factory.mktemp("redis"))
    except Missing as error:
        missing(str(error))
    with server:
        yield server


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A prefix of topic names (and of consumer groups) that no other test has."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    return f"{name}.{uuid.uuid4().hex[:8]}."


@pytest.fixture
def application(prefix: str) -> str:
    """A name of an application, hence of Redis keys and a consumer group, that no other test has."""
    return prefix.rstrip(".").replace(".", "-")


@pytest.fixture
def topics(kafka: KafkaServer, prefix: str) -> Callable[..., list[str]]:
    """Makes topics of this test on the session's broker: ``topics("purchases", "alerts", partitions=2)``.

    Takes logical names, returns Kafka's. Where alerts go, examples go too, which are not asked for.
    """

    def create(*names: str, partitions: int = 4, **config: str) -> list[str]:
        full = [prefix + name for name in names]
        if "alerts" in names and "examples" not in names:
            kafka.create_topics([prefix + "examples"], 1)
        kafka.create_topics(full, partitions, {key.replace("_", "."): value for key, value in config.items()})
        return full

    return create


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Callable[..., KafkaServer]]:
    """Starts brokers for a test that stops, kills or freezes them: ``own_kafka(settings={...})``."""
    servers: list[KafkaServer] = []

    def start(**options: object) -> KafkaServer:
        try:
            server = KafkaServer(tmp_path / f"kafka-{len(servers)}", **options)  # type: ignore[arg-type]
        except Missing as error:
            missing(str(error))
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts Redis servers for a test that kills, freezes or damages them: ``own_redis(appendfsync="always")``."""
    servers: list[RedisServer] = []

    def start(**options: object) -> RedisServer:
        try:
            server = RedisServer(tmp_path / f"redis-{len(servers)}", **options)  # type: ignore[arg-type]
        except Missing as error:
            missing(str(error))
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[..., PrometheusServer]]:
    """Starts a Prometheus that scrapes ports by job: ``prometheus({"churnwatch-worker": [port]}, rules=[path])``."""
    servers: list[PrometheusServer] = []

    def start(*arguments: Any, **options: Any) -> PrometheusServer:
        try:
            server = PrometheusServer(tmp_path / f"prometheus-{len(servers)}", *arguments, **options)
        except Missing as error:
            missing(str(error))
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def embedded() -> Iterator[Embedded]:
    """The servers of the demo, in this process."""
    try:
        servers = Embedded().start()
    except Unavailable as error:
        missing(str(error))
    try:
        yield servers
    finally:
        servers.close()


@pytest.fixture(scope="session")
def jars() -> Path:
    """Kafka's jars, for tests that run its own tools."""
    try:
        return kafka_jars()
    except Missing as error:
        missing(str(error))
