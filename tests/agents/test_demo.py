"""The demo, as a stranger runs it: in a process of its own, on servers that it brings along."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from agents import datasets
from agents.datasets import DatasetError
from agents.demo import DemoError
from agents.demo.history import History, Source, source
from agents.failure import Code
from streams.codec import Codec
from tests.servers import KafkaServer, RedisServer, wait_until

ROOT = Path(__file__).parents[2]
CODEC = Codec("USD", 2, {}, frozenset())


@contextmanager
def demo(*arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", "demo", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("CHURNWATCH_")}
        | settings,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_file_is_played_warned_of_and_summed_up_and_the_demo_ends_by_itself() -> None:
    with demo("--data", "examples/orders.csv") as process:
        said, _ = process.communicate(timeout=180)
        assert process.returncode == 0, said
    warnings = re.findall(
        r"^2026-\d\d-\d\d  c\d{6} +churn +\d+ %  No purchase for \d+ days\. ", said, re.MULTILINE
    )
    assert warnings, said
    summary = re.search(r"churn: .*?(\d+) raised", said)
    assert summary is not None, said
    assert int(summary[1]) >= len(warnings)
    assert re.search(r"Of \d+ warnings old enough to judge, \d+ \(\d+%\) were right", said)
    assert re.search(r"The rule “silent for longer than 28 days” would have warned \d+ times", said)
    assert re.search(r"\d+ customers left .*; \d+ of them were warned of, \d+ never", said)
    assert "make demo DATA=simulated" in said


def test_it_runs_on_a_given_kafka_and_redis_with_the_words_that_the_makefile_uses(
    kafka: KafkaServer, redis_server: RedisServer
) -> None:
    assert "--servers given" in (ROOT / "Makefile").read_text()
    servers = {"CHURNWATCH_KAFKA__BROKERS": kafka.brokers, "CHURNWATCH_REDIS__URL": redis_server.url}
    with demo("--data", "examples/orders.csv", "--servers", "given", **servers) as process:
        said, _ = process.communicate(timeout=180)
        assert process.returncode == 0, said
    assert re.search(r"churn: .*?\d+ raised", said), said
    # What is not the demo's own is left as it was.
    assert not list(redis_server.client().scan_iter("*demo-*"))
    wait_until(lambda: not [name for name in kafka.admin().list_topics().topics if name.startswith("demo-")])


def test_ctrl_c_ends_it_within_five_seconds_and_leaves_nothing_behind() -> None:
    with demo("--data", "simulated") as process:
        assert process.stdout is not None
        _until_line(process, "Playing ")
        inside = psutil.Process(process.pid)
        _until(
            lambda: any("worker" in " ".join(child.cmdline()) for child in inside.children(recursive=True))
        )
        children = inside.children(recursive=True)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        process.communicate(timeout=20)
        assert time.monotonic() - began < 5.0
        assert process.returncode == 130
        gone, left = psutil.wait_procs(children, timeout=5)
        assert not left
        assert gone


def test_a_file_that_is_not_there_says_what_data_may_be() -> None:
    with demo("--data", "nothing.csv") as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == Code.INPUT
    assert "There is no file 'nothing.csv'. DATA is cdnow, cdnow-all, groceries" in said
    assert "Traceback" not in said


def test_a_file_that_is_not_sorted_is_refused_before_anything_of_it_is_played(tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    rows = [f"purchase,c{day},2026-01-{day:02d}T00:00:00Z,9.5" for day in (3, 1)]
    file.write_text("\n".join(["event_type,customer_id,ts,amount", *rows]))
    with demo("--data", str(file)) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 6
    assert "is not sorted by time: line 3" in said


def test_a_kafka_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with demo(
        "--data", "examples/orders.csv", "--servers", "given", CHURNWATCH_KAFKA__BROKERS="127.0.0.1:1"
    ) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == Code.KAFKA
    assert "Kafka at 127.0.0.1:1 does not answer" in said
    assert "leave --servers away" in said


def test_a_redis_that_does_not_answer_is_named_and_no_topic_is_left(kafka: KafkaServer) -> None:
    servers = {"CHURNWATCH_KAFKA__BROKERS": kafka.brokers, "CHURNWATCH_REDIS__URL": "redis://127.0.0.1:1/0"}
    with demo("--data", "examples/orders.csv", "--servers", "given", **servers) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == Code.REDIS
    assert "Redis does not answer" in said
    assert "Traceback" not in said
    assert not [name for name in kafka.admin().list_topics().topics if name.startswith("demo-")]


@pytest.mark.parametrize("data", ["cdnow", "groceries"])
def test_without_a_network_a_data_set_says_what_to_do_instead(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline() -> Path:
        raise DatasetError("no network")

    monkeypatch.setattr(datasets, data, offline)
    with pytest.raises(DemoError, match="DATA=simulated"):
        source(data, CODEC)


def opened(chosen: Source) -> History:
    return chosen.open(lambda _: None)


def test_a_tenth_of_cdnow_is_played_and_says_so() -> None:
    try:
        chosen = source("cdnow", CODEC)
    except DemoError as error:
        pytest.skip(str(error))
    assert "every tenth customer" in chosen.title
    history = opened(chosen)
    entries = list(history.entries)
    assert (len(entries), len({entry.customer for entry in entries})) == (6628, 2357)
    assert (min(e.at for e in entries), max(e.at for e in entries)) == (history.first, history.last)


def test_a_tenth_of_the_groceries_is_played_basket_by_basket_with_categories() -> None:
    try:
        chosen = source("groceries", CODEC)
    except DemoError as error:
        pytest.skip(str(error))
    assert "every tenth household" in chosen.title
    history = opened(chosen)
    entries = list(history.entries)
    households = {entry.customer for entry in entries}
    assert len(households) == 249
    assert all(name.endswith("0") for name in households)
    assert [e.at for e in entries] == sorted(e.at for e in entries)
    assert (entries[0].at, entries[-1].at) == (history.first, history.last)
    events = [msgspec.json.decode(entry.value) for entry in entries]
    assert len({event["order"] for event in events}) == len(events)
    lines = [line for event in events for line in event["lines"]]
    assert len(lines) == 150_512
    assert "fluid milk products" in {line.get("category") for line in lines}
    assert "coupon/misc items" not in {line.get("category") for line in lines}


def test_the_simulated_shop_brings_its_truth_along() -> None:
    history = opened(source("simulated", CODEC))
    assert history.truth
    assert history.first < history.last


def _until_line(process: subprocess.Popen[str], start: str) -> None:
    assert process.stdout is not None
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ready, _, _ = select.select([process.stdout], [], [], 1.0)
        if ready and process.stdout.readline().startswith(start):
            return
    raise AssertionError(f"the demo has not said {start!r}")


def _until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
