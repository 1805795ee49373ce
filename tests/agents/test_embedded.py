"""The embedded servers carry records, and nothing of them outlives the process that started them."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis
from confluent_kafka import Consumer, Producer

from agents.embedded import PARTITIONS, Embedded, Unavailable
from tests.servers import ROOT, wait_until


def alive(pid: int) -> bool:
    # What has ended may wait in the table for its parent to take notice.
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def folder_of(servers: Embedded) -> Path:
    return Path(servers.redis_url.removeprefix("unix://")).parent


def pid_of(redis_url: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        return int(client.info("server")["process_id"])


def test_records_travel_through_every_partition(embedded: Embedded) -> None:
    embedded.touch(["t"])
    producer = Producer({"bootstrap.servers": embedded.brokers})
    for partition in range(PARTITIONS):
        producer.produce("t", b"v", partition=partition)
    assert producer.flush(5) == 0
    consumer = Consumer(
        {"bootstrap.servers": embedded.brokers, "group.id": "g", "auto.offset.reset": "earliest"}
    )
    try:
        consumer.subscribe(["t"])
        seen: set[int | None] = set()

        def all_seen() -> bool:
            message = consumer.poll(0.2)
            if message is not None:
                assert message.value() == b"v"
                seen.add(message.partition())
            return len(seen) == PARTITIONS

        wait_until(all_seen, 15, "a record of every partition")
    finally:
        consumer.close()


def test_both_start_empty_and_end_within_three_seconds_leaving_nothing() -> None:
    servers = Embedded()
    for _ in range(2):
        with servers:
            folder, pid = folder_of(servers), pid_of(servers.redis_url)
            with redis.Redis.from_url(servers.redis_url) as client:
                assert client.dbsize() == 0
                client.set("key", "value")
            begun = time.monotonic()
        assert time.monotonic() - begun < 3
        assert not folder.exists()
        assert not alive(pid)
    servers.close()


PROGRAM = """
import sys, time
from agents.embedded import Embedded
with Embedded() as servers:
    print(servers.redis_url, flush=True)
    time.sleep(60)
"""


@contextmanager
def program() -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, process.stderr and process.stderr.read()
            yield process, url
        finally:
            process.kill()


def test_ctrl_c_leaves_nothing_behind() -> None:
    with program() as (process, url):
        pid = pid_of(url)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
        process.wait(5)
        assert not alive(pid)
        assert not Path(url.removeprefix("unix://")).parent.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_sigkill_leaves_no_server_and_the_next_start_clears_its_folder() -> None:
    with program() as (process, url):
        pid = pid_of(url)
        process.kill()
        process.wait(5)
        wait_until(lambda: not alive(pid), 5, "Redis has ended with its parent")
        folder = Path(url.removeprefix("unix://")).parent
        assert folder.exists()
        with Embedded():
            assert not folder.exists()


def test_a_redis_that_hangs_is_killed(embedded: Embedded) -> None:
    pid = pid_of(embedded.redis_url)
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    embedded.close()
    assert time.monotonic() - begun < 3
    assert not alive(pid)


def test_without_the_wheel_a_redis_server_on_the_path_is_used_and_without_both_an_error_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    script, used = tmp_path / "redis-server", tmp_path / "used"
    script.write_text(f"#!/bin/sh\ntouch {used}\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    with pytest.raises(Unavailable, match="does not answer"):
        Embedded().start()
    assert used.exists()

    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(Unavailable, match="apt-get install redis-server"):
        Embedded().start()
