"""Every alert has a page that says what to do, and every step on it that is a command is run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from agents.metrics import Metrics
from agents.settings import keys
from alerts.engine import FEATURES_VERSION
from models.learning import Learning
from models.snapshot import Prior, encode
from models.training import Trainer
from tests.agents.command_line import CommandLine
from tests.agents.shell import producer_of
from tests.agents.test_metrics import every_series
from tests.deploy.test_rules import NAMES, stanza
from tests.labels import HORIZON, labels
from tests.servers import ROOT, KafkaServer, RedisServer, wait_until

PAGES = sorted((ROOT / "docs/runbooks").glob("*.md"))
BLOCK = re.compile(r"```(sh|promql)\n(.*?)```", re.DOTALL)
SECTIONS = ["What it means", "How to look", "What to do", "It is over when"]


def lines(page: Path, language: str) -> list[str]:
    """What the blocks of a language hold."""
    blocks = BLOCK.findall(page.read_text())
    return [line for kind, block in blocks if kind == language for line in block.splitlines() if line.strip()]


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    assert [page.stem for page in PAGES] == sorted(NAMES)
    operations = (ROOT / "docs/operations.md").read_text()
    listed = re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\) \|", operations, re.MULTILINE)
    assert listed == NAMES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_it_means_how_to_look_what_to_do_and_when_it_is_over(page: Path) -> None:
    text = page.read_text()
    severity = re.search(r"severity: (\w+)", stanza(page.stem))
    assert severity
    assert text.startswith(f"# {page.stem}\n\n{severity[1].capitalize()}. ")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert lines(page, "sh"), "nothing to do"
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    sections = {name.partition(".")[0] for name in keys() if "." in name}
    settings = re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_]+)`", text)
    assert not [name for name in settings if name not in keys()]
    known = set(
        re.findall(r"^# TYPE (\S+) ", every_series(Metrics(CollectorRegistry())).decode(), re.MULTILINE)
    )
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"churnwatch_[a-z_]+", text)}
    assert named <= known


@pytest.fixture
def at_work(
    kafka: KafkaServer, redis_server: RedisServer, prefix: str, application: str, churnwatch: CommandLine
) -> Iterator[Callable[..., object]]:
    """An application with a worker, alerts, a dead letter and snapshots of a model; calls its command line."""
    flags = [
        *("--brokers", kafka.brokers, "--prefix", prefix, "--redis", redis_server.url),
        *("--application", application, "--set", "clock.mode=record", "--set", "kafka.inputs=purchases"),
        *("--set", f"policy.horizon_days={HORIZON}", "--set", "worker.http_port=0"),
    ]
    assert churnwatch(*flags, "topics", "create").code == 0
    producer = producer_of(kafka.brokers)
    for publication in (
        Trainer(Learning(publish_labels=256), HORIZON, Prior(), FEATURES_VERSION)
        .learn(labels(1_024))
        .published
    ):
        snapshot = publication.snapshot
        producer.produce(prefix + "models", encode(snapshot), snapshot.version, partition=0)
    producer.produce(prefix + "purchases", b"{", "somebody")
    assert producer.flush(20) == 0
    command = [sys.executable, "-m", "agents.cli", *flags, "worker"]
    worker = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stderr=subprocess.DEVNULL)
    try:
        orders = str(ROOT / "examples/orders.csv")
        assert churnwatch(*flags, "send", orders, "--until", "2026-06-30").code == 0
        wait_until(lambda: kafka.read_all([prefix + "alerts"]), 90, "a warning", every=0.5)
        yield lambda *words: churnwatch(*flags, *words)
    finally:
        worker.terminate()
        worker.wait(20)


def test_every_command_of_the_runbooks_works(at_work: CommandLine) -> None:
    told = dict.fromkeys(line for page in PAGES for line in lines(page, "sh"))
    assert len(told) > 10
    for line in told:
        words = shlex.split(line)
        assert words[0] == "churnwatch", line
        said = at_work(*words[1:])
        assert said.code == 0, f"{line}: {said.out}{said.err}"
