"""deploy/local/start and deploy/local/stop, as somebody uses them in a shell."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from confluent_kafka.admin import AdminClient

from tests.servers import LOCAL


class Local:
    """The two commands on a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Files, not pipes: what is started inherits nothing here that would have to be closed first.
        return subprocess.run(
            [str(LOCAL / command), *arguments],
            env={**os.environ, "CHURNWATCH_LOCAL_DIR": str(self.folder), "KAFKA_HEAP": "384m"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def settings(self, *arguments: str) -> dict[str, str]:
        done = self.run("start", *arguments)
        assert done.returncode == 0, done.stderr
        return dict(re.findall(r"^export (\w+)=(\S+)$", done.stdout, re.MULTILINE))

    def pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())


@pytest.fixture
def local(tmp_path: Path, jars: Path) -> Iterator[Local]:
    local = Local(tmp_path / "run")
    yield local
    local.run("stop")


def alive(pid: int) -> bool:
    # What has ended may wait in the table for its parent to take notice.
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_two_servers_answer_at_the_printed_addresses_keep_their_data_and_end_when_asked(local: Local) -> None:
    settings = local.settings()
    assert set(settings) == {"CHURNWATCH_KAFKA__BROKERS", "CHURNWATCH_REDIS__URL"}
    brokers, url = settings["CHURNWATCH_KAFKA__BROKERS"], settings["CHURNWATCH_REDIS__URL"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", brokers)
    assert AdminClient({"bootstrap.servers": brokers}).list_topics(timeout=5).brokers
    with redis.Redis.from_url(url) as client:
        client.set("kept", "yes")
        config = client.config_get("append*")
        assert (config["appendonly"], config["appendfsync"]) == ("yes", "everysec")

    # Once more changes nothing.
    pids = local.pid("kafka"), local.pid("redis")
    assert local.settings() == settings
    assert pids == (local.pid("kafka"), local.pid("redis"))

    # Neither does --fresh while they run: it deletes nothing under a running server.
    refused = local.run("start", "--fresh")
    assert refused.returncode == 1
    assert "runs already" in refused.stderr

    begun = time.monotonic()
    assert local.run("stop").returncode == 0
    assert time.monotonic() - begun < 10
    assert not any(map(alive, pids))
    assert (local.folder / "logs" / "kafka.log").stat().st_size

    # Only what has died is started again, on the addresses and the data of before.
    assert local.settings() == settings
    with redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"yes"


def test_a_process_that_start_did_not_begin_is_left_alone(local: Local) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        local.folder.mkdir()
        for name in ("kafka", "redis"):
            (local.folder / f"{name}.pid").write_text(f"{stranger.pid}\n")
        done = local.run("stop")
        assert done.returncode == 0
        assert "Nothing" in done.stderr
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("command", ["start", "stop", "watch", "jars"])
def test_the_commands_explain_themselves_and_refuse_what_they_do_not_know(
    command: str, tmp_path: Path
) -> None:
    local = Local(tmp_path)
    helped = local.run(command, "--help")
    assert helped.returncode == 0
    assert f"Usage: deploy/local/{command}" in helped.stdout
    assert local.run(command, "--nonsense").returncode != 0
