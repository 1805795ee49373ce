"""Real servers for the tests of the shell: a Redis and a Kafka of their own, ended with the test."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis as sync_redis


@dataclass(frozen=True)
class RedisAddress:
    """Settings as `agents.store.connect` takes them."""

    url: str
    extra: dict[str, Any]
    cluster: bool = False

    def options(self) -> dict[str, Any]:
        return dict(self.extra)


@dataclass
class Redis:
    """A redis-server of the test's own."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    tls: bool = False

    @property
    def url(self) -> str:
        return f"rediss://localhost:{self.port}/0" if self.tls else f"redis://127.0.0.1:{self.port}/0"

    def settings(
        self, timeout: float, *, unix: bool = False, trusted: bool = True, **more: Any
    ) -> RedisAddress:
        extra = {"socket_timeout": timeout, "socket_connect_timeout": timeout, **more}
        if unix:
            return RedisAddress(f"unix://{self.folder}/redis.sock", extra)
        if self.tls and trusted:
            extra["ssl_ca_certs"] = str(self.folder / "cert.pem")
        return RedisAddress(self.url, extra)

    def client(self) -> sync_redis.Redis:
        return sync_redis.Redis.from_url(f"unix://{self.folder}/redis.sock")

    def flush(self) -> None:
        with contextlib.closing(self.client()) as client:
            client.flushall()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(condition: Any, timeout: float, what: str) -> Any:
    """The first true value of a condition; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def redis_running(folder: Path, *, tls: bool = False, options: tuple[str, ...] = ()) -> Iterator[Redis]:
    port = free_port()
    ports = ["--port", str(port)]
    if tls:
        ports = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
        ports += [
            "--tls-cert-file",
            "cert.pem",
            "--tls-key-file",
            "key.pem",
            "--tls-ca-cert-file",
            "cert.pem",
        ]
    log = (folder / "redis.log").open("wb")
    process = subprocess.Popen(
        ["redis-server", *ports, "--dir", str(folder), "--unixsocket", str(folder / "redis.sock"), "--save", "",
         "--bind", "127.0.0.1", *options],
        stdout=log, stderr=log, cwd=folder,
    )  # fmt: skip
    server = Redis(process, port, folder, tls)

    def answers() -> bool:
        try:
            with contextlib.closing(server.client()) as client:
                return bool(client.ping())
        except sync_redis.ConnectionError:
            return False

    try:
        until(answers, 10, "redis-server answers")
        yield server
    finally:
        process.kill()
        process.wait()
        log.close()


__all__ = ["Redis", "RedisAddress", "free_port", "redis_running", "until"]
