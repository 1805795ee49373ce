"""Every command that the documents show is run, and what they refer to is there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents import settings
from agents.cli import app
from tests.servers import KafkaServer, RedisServer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")
SETTING = re.compile(r"`((?:policy|prior|feeds|kafka|redis|learning|privacy|worker|shop|clock)\.[a-z_]+)`")


# What the front page does with a file before anything runs.
ON_A_FILE = (
    "churnwatch simulate shop.ndjson --customers 300 --days 240",
    "churnwatch backtest shop.ndjson --suggest-horizon",
    "churnwatch backtest shop.ndjson --horizon 28d --out first-look",
    "churnwatch policy preview shop.ndjson --propose medium=0.5",
)


def commands(page: Path) -> list[str]:
    """The lines of a page's shell blocks."""
    text = page.read_text()
    if page == WALKED[0]:
        before, _, walk = text.partition(WALKED[1])
        text = before + walk.partition("\n## ")[2]
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    known = settings.keys().keys()
    unknown = [
        name for name in SETTING.findall(page.read_text()) if name not in known and f"{name}s" not in known
    ]
    assert not unknown


def test_make_targets_that_a_page_names_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for page in PAGES for words in map(str.split, commands(page)) if words[0] == "make"}
    assert named <= targets
    assert "demo" in named


def test_the_walk_through_of_the_front_page_works(
    kafka: KafkaServer, redis_server: RedisServer, prefix: str, application: str, tmp_path: Path
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    lines = commands(ROOT / "README.md")
    walk = [line for line in lines if line.startswith(("export", "churnwatch")) and line not in ON_A_FILE]
    env = {
        **os.environ,
        "CHURNWATCH_KAFKA__BROKERS": kafka.brokers,
        "CHURNWATCH_KAFKA__PREFIX": prefix,
        "CHURNWATCH_REDIS__URL": redis_server.url,
        "CHURNWATCH_APPLICATION": application,
        "CHURNWATCH_WORKER__HTTP_PORT": "0",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "200",
    }
    running: list[subprocess.Popen[bytes]] = []
    said: dict[str, str] = {}
    try:
        for line in walk:
            words = line.removesuffix("&").split()
            if words[0] == "export":
                env.update((word.split("=", 1)[0], word.split("=", 1)[1]) for word in words[1:])
                continue
            if line.endswith("&"):
                command = [sys.executable, "-m", "agents.cli", *words[1:]]
                running.append(subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL))
                continue
            # As a shell runs it: one command may ask another.
            command = ["bash", "-c", f'churnwatch() {{ "{sys.executable}" -m agents.cli "$@"; }}; {line}']
            if words[1] == "alerts" and "alerts" not in said:
                until_quiet(redis_server, application)
            done = subprocess.run(
                command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, f"{line}: {done.stderr}"
            said[" ".join(words[1:])] = done.stdout
        assert len(running) == 2, "a worker and a trainer"
        assert all(process.poll() is None for process in running)
        assert "No purchase for" in said["alerts"]
        assert '"transition":"raised"' in said["alerts --kind churn.raised --json"].replace(" ", "")
        assert '"churn_probability"' in said["customers --json"]
        assert "c000045" in said["customer c000045"]
        assert any("the same decision" in text for words, text in said.items() if words.startswith("explain"))
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(12)


def test_the_backtest_of_the_front_page_works(tmp_path: Path) -> None:
    shown = commands(ROOT / "README.md")
    said: dict[str, str] = {}
    for line in ON_A_FILE:
        assert line in shown
        command = [sys.executable, "-m", "agents.cli", *line.split()[1:]]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        said[line] = done.stdout
    assert "champion" in said[ON_A_FILE[2]]
    assert {"report.html", "report.json"} <= {path.name for path in (tmp_path / "first-look").iterdir()}


def until_quiet(redis_server: RedisServer, application: str) -> None:
    """Until the worker has applied what was sent: the clock of every partition stands at the file's end."""
    client = redis_server.client()
    deadline = time.monotonic() + 180
    before: object = None
    since = time.monotonic()
    while time.monotonic() < deadline:
        keys = sorted(client.scan_iter(f"{{{application}:p*}}:meta"))
        now = [client.hgetall(key).get(b"ver") for key in keys] + [
            client.xlen(key.replace(b":meta", b":out")) for key in keys
        ]
        if now != before:
            before, since = now, time.monotonic()
        elif keys and any(now) and time.monotonic() - since > 2.0:
            return
        time.sleep(0.1)
    raise AssertionError("the worker has not come to rest")


# Its commands are docker-compose's and kubectl's too: tests/deploy/test_page.py.
ELSEWHERE = {ROOT / "docs" / "deployment.md"}
# Of its walk-through every line is run: tests/test_walk_through.py.
WALKED = ROOT / "docs" / "operations.md", "## From nothing to a watched system"


@pytest.mark.parametrize(
    "page", [page for page in PAGES[1:] if page not in ELSEWHERE], ids=lambda page: page.name
)
def test_commands_of_the_other_pages_are_known_to_the_command_line(page: Path) -> None:
    for line in (part for whole in commands(page) for part in whole.split(" | ")):
        words = shlex.split(line)
        assert words[0] == "churnwatch", line
        flags = [word for word in words if word.startswith("--")]
        grouped = words[1] in ("acl", "config", "dlq", "policy", "topics") or words[2:3] in (
            ["pause"],
            ["resume"],
        )
        names = words[1 : 3 if grouped else 2]
        done = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
        assert done.exit_code == 0, line
        assert all(flag in done.stdout for flag in flags), line
