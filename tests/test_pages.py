"""The commands of the pages in docs/ are typed as they stand there, in a shop that is open."""

from __future__ import annotations

import gzip
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.agents.backtest.conftest import written
from tests.servers import KafkaServer, RedisServer
from tests.test_documents import BLOCK, PAGES, ROOT, WALKED, until_quiet

# Played whole in tests/agents/test_demo.py and test_demo_screen.py, and tests/deploy/test_page.py.
ELSEWHERE = {"demo.md", "deployment.md"}
# These go on until somebody ends them.
ENDLESS = re.compile(r"--follow|--watch|--live|^churnwatch (worker|trainer)")
# These need what was lost, or an application that is empty: tests/agents/test_backup.py, test_losses.py.
AFTER_A_LOSS = re.compile(r"^churnwatch (restore (?!--check)|accept-loss)")
# What takes minutes is asked for in a smaller size; alerts, customers and secrets are those of this shop.
SMALLER = re.compile(r"--customers \d+")
ALERT = re.compile(r"\b465959\w*")
CUSTOMER = re.compile(r"\b12346\b")
SECRET = re.compile(r"/run/secrets/[\w-]+")


@dataclass
class Shop:
    """An application with a worker and a trainer, whose orders have been read."""

    kafka: KafkaServer
    redis: RedisServer
    env: dict[str, str]
    alert: str = ""
    customers: list[str] = field(default_factory=list)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def popen(self, line: str, folder: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        shell = f'churnwatch() {{ "{sys.executable}" -m agents.cli "$@"; }}; set -o pipefail; {line}'
        return subprocess.Popen(
            ["bash", "-c", shell], cwd=folder, env=env or self.env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def typed(self, line: str, folder: Path, env: dict[str, str] | None = None) -> str:
        """What a line says until it has ended well."""
        process = self.popen(line, folder, env)
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, f"{line}: exit code {process.returncode}\n{said}"
        return said

    def begun(self, line: str, folder: Path, env: dict[str, str] | None = None) -> None:
        """A line that goes on until Ctrl-C, which ends it in order."""
        process = self.popen(line, folder, env)
        assert process.stdout is not None
        # Some have nothing to say where there is no terminal.
        select.select([process.stdout], [], [], 10)
        assert process.poll() is None, (
            f"{line}: ended, exit code {process.returncode}\n{process.stdout.read()}"
        )
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode in (0, 130), f"{line}: exit code {process.returncode}\n{said}"


def _opened(kafka: KafkaServer, redis: RedisServer, name: str) -> dict[str, str]:
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("CHURNWATCH_")},
        "CHURNWATCH_KAFKA__BROKERS": kafka.brokers,
        "CHURNWATCH_KAFKA__PREFIX": f"{name}.",
        "CHURNWATCH_KAFKA__INPUTS": "purchases",
        "CHURNWATCH_KAFKA__SESSION_TIMEOUT": "6",
        "CHURNWATCH_CLOCK__MODE": "record",
        "CHURNWATCH_REDIS__URL": redis.url,
        "CHURNWATCH_APPLICATION": name,
        "CHURNWATCH_WORKER__HTTP_PORT": "0",
        "CHURNWATCH_PRIVACY__KEY": "a secret of these tests alone",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="module")
def shop(kafka: KafkaServer, redis_server: RedisServer) -> Iterator[Shop]:
    name = f"pages-{uuid.uuid4().hex[:8]}"
    shop = Shop(kafka, redis_server, _opened(kafka, redis_server, name))
    try:
        shop.typed("churnwatch topics create", ROOT)
        shop.typed("churnwatch send examples/orders.csv --until 2026-06-30", ROOT)
        for command in ("worker", "trainer"):
            words = [sys.executable, "-m", "agents.cli", command]
            shop.running.append(
                subprocess.Popen(words, cwd=ROOT, env=shop.env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            )  # fmt: skip
        until_quiet(redis_server, name)
        first = shop.typed("churnwatch alerts --kind churn.raised --json", ROOT).splitlines()[0]
        shop.alert = json.loads(first)["id"]
        known = shop.typed("churnwatch customers --json", ROOT).splitlines()
        shop.customers = [json.loads(line)["customer"] for line in known]
        yield shop
    finally:
        for process in shop.running:
            process.send_signal(signal.SIGTERM)
        for process in shop.running:
            process.wait(15)


def typed_here(page: Path) -> list[str]:
    """A page's commands, without those of a walk-through, which a test of its own goes."""
    text = page.read_text()
    if page == WALKED[0]:
        before, _, walk = text.partition(WALKED[1])
        text = before + "\n## " + walk.partition("\n## ")[2]
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line.strip()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that pages speak of."""
    written(tmp_path / "orders.csv", customers=250, days=300)
    with gzip.open(tmp_path / "archive.csv.gz", "wb") as file:
        file.write((ROOT / "examples" / "orders.csv").read_bytes())
    (tmp_path / "secret").write_text("of these tests alone, long enough to be taken")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES[1:] if page.name not in ELSEWHERE and typed_here(page)],
    ids=lambda page: page.name,
)
def test_every_command_of_a_page_works(page: Path, shop: Shop, folder: Path) -> None:
    env = shop.env
    lines = typed_here(page)
    if any(line.startswith("churnwatch import") for line in lines):
        # An archive comes into an empty application.
        env = _opened(shop.kafka, shop.redis, f"pages-{uuid.uuid4().hex[:8]}")
    for line in lines:
        assert shlex.split(line)[0] == "churnwatch", line
        if AFTER_A_LOSS.search(line):
            continue
        line = SMALLER.sub("--customers 200", line)
        line = ALERT.sub(lambda found: shop.alert[: len(found[0])], line)
        line = CUSTOMER.sub(lambda _: shop.customers.pop(), line)
        line = SECRET.sub(str(folder / "secret"), line)
        if ENDLESS.search(line):
            shop.begun(line, folder, env)
        else:
            shop.typed(line, folder, env)
    assert all(process.poll() is None for process in shop.running), "worker and trainer go on"
