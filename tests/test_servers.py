"""The servers the other tests rely on do what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
from confluent_kafka import Producer

from tests.servers import ROOT, KafkaServer, RedisServer, wait_until


def test_the_broker_keeps_what_it_acknowledged_when_it_is_killed(
    own_kafka: Callable[..., KafkaServer],
) -> None:
    kafka = own_kafka()
    kafka.create_topics(["t"], partitions=2)
    producer = Producer({"bootstrap.servers": kafka.brokers, "log_level": 0})
    for number in range(100):
        producer.produce("t", key=str(number), value=b"v")
    assert producer.flush(10) == 0
    kafka.kill()
    assert not kafka.running
    kafka.start()
    assert {m.key() for m in kafka.read_all(["t"])} == {str(n).encode() for n in range(100)}


def test_topics_can_be_made_grown_and_deleted(
    kafka: KafkaServer, topics: Callable[..., list[str]], prefix: str
) -> None:
    (name,) = topics("purchases", partitions=2, cleanup_policy="compact")
    assert name == f"{prefix}purchases"
    kafka.grow_topic(name, 3)
    assert kafka.read_all([name]) == []
    kafka.delete_topics([name])


def test_redis_loses_the_tail_that_is_cut_and_nothing_before_it(
    own_redis: Callable[..., RedisServer],
) -> None:
    server = own_redis(appendfsync="always")
    with server.client() as client:
        for number in range(1000):
            client.set(f"key:{number}", b"x" * 50)
    assert server.cut_tail(10_000) == 10_000
    server.start()
    with server.client() as client:
        left = client.dbsize()
    assert 850 < left < 900


def test_redis_comes_back_as_it_was_when_it_was_backed_up(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis()
    with server.client() as client:
        client.set("before", 1)
    backup = server.backup()
    with server.client() as client:
        client.set("after", 1)
    server.restore(backup)
    server.start()
    with server.client() as client:
        assert client.keys() == [b"before"]
    server.wipe()
    with server.client() as client:
        assert client.dbsize() == 0


def test_a_frozen_redis_does_not_answer_and_goes_on_when_it_is_thawed(
    own_redis: Callable[..., RedisServer],
) -> None:
    server = own_redis()
    with server.client(socket_timeout=0.2, retry=None) as client:
        with server.frozen(), pytest.raises(redis.TimeoutError):
            client.ping()
        assert client.ping()


PROGRAM = """
import sys, time
from pathlib import Path
from tests.servers import ROOT, KafkaServer, RedisServer, wait_until
print(RedisServer(Path(sys.argv[1])).start().pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_killed_session_leaves_no_server(tmp_path: Path, redis_server: RedisServer) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as session:
        assert session.stdout is not None
        server = psutil.Process(int(session.stdout.readline()))
        session.kill()
    psutil.wait_procs([server], timeout=5)
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, 5)
