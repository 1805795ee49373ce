"""The worker as a process: how it ends, and with which code. (Kills and frozen servers: ``tests/chaos``.)"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import worker
from agents.settings import Settings
from tests.agents.shell import Shell
from tests.servers import KafkaServer, RedisServer, read_all, wait_until

Topics = Callable[..., list[str]]
Start = Callable[..., "Process"]


class Process:
    """One worker process and what it said."""

    def __init__(self, settings: Settings, folder: Path, number: int, **more: Any) -> None:
        given = folder / f"worker-{number}.json"
        plain = msgspec.to_builtins(settings)
        del plain["origins"]
        plain["worker"]["http_port"] = 0
        given.write_text(json.dumps({"settings": plain, "core": "counting", "silence": None, **more}))
        self.log = folder / f"worker-{number}.log"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tests.agents.process", str(given)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until_claimed(self) -> None:
        wait_until(lambda: "claimed partitions" in self.said or self.popen.poll() is not None, 40, "claimed")
        assert self.popen.poll() is None, self.said

    def ended(self, within: float) -> tuple[int, float]:
        """Its exit code and how long it took from now."""
        began = time.monotonic()
        try:
            code = self.popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within} s:\n{self.said[-3000:]}") from None
        return code, time.monotonic() - began


@pytest.fixture
def shell(kafka: KafkaServer, redis_server: RedisServer, application: str, prefix: str) -> Shell:
    return Shell(kafka.brokers, redis_server.url, application, prefix)


@pytest.fixture
def start(shell: Shell, tmp_path: Path) -> Iterator[Start]:
    """Starts worker processes of this test's application."""
    with contextlib.ExitStack() as stack:
        count = 0

        def begin(**more: Any) -> Process:
            nonlocal count
            count += 1
            process = Process(more.pop("settings", None) or shell.settings(), tmp_path, count, **more)
            stack.callback(process.popen.wait)
            stack.callback(process.popen.kill)
            return process

        yield begin


def test_sigterm_under_load_ends_the_process_within_two_seconds(
    shell: Shell, topics: Topics, start: Start
) -> None:
    topics("purchases", "alerts", partitions=2)
    shell.send("purchases", (f"c{i % 3000}" for i in range(30_000)))
    process = start()
    wait_until(lambda: shell.counted(2) > 0, 40, "the worker applies events")
    process.popen.send_signal(signal.SIGTERM)
    code, seconds = process.ended(10)
    assert code == 0, process.said
    assert seconds < 2.0
    assert "Traceback" not in process.said
    assert "not uvloop" not in process.said


def test_with_a_frozen_redis_the_process_ends_at_the_deadline_and_at_the_second_signal_at_once(
    shell: Shell, topics: Topics, start: Start, own_redis: Callable[..., RedisServer]
) -> None:
    assert worker.STOP_DEADLINE <= 10
    topics("purchases", "alerts", partitions=1)
    redis = own_redis()
    shell.redis_url = redis.url
    shell.timeout = 30.0
    shell.patience = 60.0
    slow, quick = start(stop_deadline=2.0), None
    slow.until_claimed()
    with redis.frozen():
        shell.send("purchases", ["c1"])
        slow.popen.send_signal(signal.SIGTERM)
        code, seconds = slow.ended(5)
        assert (code in {0, worker.EXIT_KILLED}, seconds < 4) == (True, True)
    quick = start(stop_deadline=30.0)
    quick.until_claimed()
    with redis.frozen():
        quick.popen.send_signal(signal.SIGSTOP)
        quick.popen.send_signal(signal.SIGTERM)
        quick.popen.send_signal(signal.SIGINT)
        quick.popen.send_signal(signal.SIGCONT)
        code, seconds = quick.ended(2)
    assert code in {0, worker.EXIT_INTERRUPTED}


def test_a_poisoned_topic_stops_the_process_before_the_commit_and_says_how_to_go_on(
    shell: Shell, topics: Topics, start: Start
) -> None:
    (name, *_) = topics("purchases", "alerts", "dead-letters", "customer-scores", partitions=1)
    producer = shell.producer()
    for _ in range(400):
        producer.produce(name, b"{broken", b"c1")
    assert producer.flush(10) == 0
    process = start(core="engine")
    code, _ = process.ended(40)
    assert code == worker.EXIT_POISONED == 7, process.said
    assert shell.offsets(1) == {}
    (advice,) = set(re.findall(r"--accept-invalid-until (purchases:0:\d+)", process.said))
    assert "Traceback" not in process.said
    settings = shell.settings()
    accepting = msgspec.structs.replace(settings.worker, accept_invalid_until=(advice, "purchases:0:399"))
    again = start(core="engine", settings=msgspec.structs.replace(settings, worker=accepting))
    wait_until(lambda: shell.offsets(1).get((name, 0)) == 400, 40, "the records are passed over")
    wait_until(
        lambda: len(read_all(shell.brokers, [shell.prefix + "dead-letters"])) == 400, 20, "all are kept"
    )
    again.popen.terminate()
    assert again.ended(10)[0] == 0


def test_a_missing_topic_is_said_at_the_start(shell: Shell, topics: Topics, start: Start) -> None:
    shell.inputs = ("purchases", "browses")
    topics("purchases", partitions=1)
    process = start()
    assert process.ended(40)[0] == 2
    assert f"Topics are missing: {shell.prefix}browses" in process.said
    assert "churnwatch topics create" in process.said


def test_a_redis_that_does_not_let_us_in_ends_the_process_with_what_to_do(
    shell: Shell, topics: Topics, start: Start
) -> None:
    topics("purchases", "alerts", partitions=1)
    shell.redis_url = shell.redis_url.replace("unix://", "unix://nobody:wrong@")
    process = start()
    code, _ = process.ended(40)
    assert code == 4, process.said
    assert "redis.username" in process.said
