"""The first words with a broker: does it listen, with TLS or without, and what does it say of itself?

Clients do not tell which Kafka they talk to. A broker does, in its answer to ApiVersions (version 3), which it gives
before anybody has logged in: the features that its software knows. One of them, ``metadata.version``, counts on with
every release.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, NamedTuple

API_VERSIONS: Final = 18
DESCRIBE_CLUSTER: Final = 60
"""A request that came with Kafka 2.8, the oldest that churnwatch is made for."""
TLS_ALERT: Final = b"\x15\x03"
"""How a server begins that expected TLS."""
LARGEST: Final = 1 << 20  # bytes of an answer; ours has under a thousand

RELEASES: Final = {
    7: "3.3", 8: "3.4", 9: "3.5", 12: "3.6", 15: "3.7", 20: "3.8", 21: "3.9", 22: "4.0", 26: "4.1", 28: "4.2",
}  # fmt: skip
"""The first level of ``metadata.version`` that each release of Kafka knows."""
NEWEST: Final = 29
"""The last level of the newest release in the table."""


class Greeting(NamedTuple):
    """What a broker says of itself. ``apis``: the newest version of each request; ``software`` and ``cluster``:
    levels of ``metadata.version`` that its software knows and that its cluster has settled on (0: not told);
    ``certificate_ends``: of TLS, when its certificate ends."""

    apis: Mapping[int, int]
    software: int
    cluster: int
    certificate_ends: datetime | None
    seconds: float

    @property
    def release(self) -> str:
        """Its release, ``4.1``; empty where it does not say."""
        return release(self.software)


class HungUp(OSError):
    """The broker closed the connection without a word."""


class WantsTls(OSError):
    """The broker answers in TLS."""


class NotKafka(OSError):
    """What answers is no broker."""


def release(level: int) -> str:
    """The release that knows a level of ``metadata.version`` as its newest; empty for none."""
    if level > NEWEST:
        return f"newer than {RELEASES[max(RELEASES)]}"
    known = [first for first in RELEASES if first <= level]
    return RELEASES[max(known)] if known else ""


def greet(host: str, port: int, context: ssl.SSLContext | None, patience: float) -> Greeting:
    """Asks one broker. Raises OSError (refused, not found, timed out, hung up, not trusted) within patience."""
    began = time.monotonic()
    with _connected(host, port, context, patience) as (connection, ends):
        try:
            apis, software, cluster = _parsed(_asked(connection, 3))
            if not apis:  # an older broker, or an embedded one
                apis, software, cluster = _parsed_old(_asked(connection, 0))
        except (struct.error, IndexError) as error:
            raise NotKafka("its answer ends too early") from error
    return Greeting(apis, software, cluster, ends, time.monotonic() - began)


@contextmanager
def _connected(
    host: str, port: int, context: ssl.SSLContext | None, patience: float
) -> Iterator[tuple[socket.socket, datetime | None]]:
    with socket.create_connection((host, port), timeout=patience) as plain:
        if context is None:
            yield plain, None
            return
        with context.wrap_socket(plain, server_hostname=host) as secured:
            yield secured, ends_at(secured.getpeercert())


def ends_at(certificate: Mapping[str, object] | None) -> datetime | None:
    """When a certificate, as Python's ssl gives it, ends to be valid."""
    ends = (certificate or {}).get("notAfter")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC) if isinstance(ends, str) else None


def _asked(connection: socket.socket, version: int) -> bytes:
    """The body of the answer to ApiVersions."""
    name = b"churnwatch"
    request = struct.pack(">hhih", API_VERSIONS, version, version, len(name)) + name
    if version == 3:
        # A flexible request: no tags in the header; our name and version as compact strings, no tags.
        request += b"\0" + bytes([len(name) + 1]) + name + b"\x021" + b"\0"
    connection.sendall(struct.pack(">i", len(request)) + request)
    start = _exactly(connection, 4)
    if start[:2] == TLS_ALERT:
        raise WantsTls("it answers in TLS")
    (size,) = struct.unpack(">i", start)
    if not 10 <= size <= LARGEST:
        raise NotKafka(f"its answer says that it is {size} bytes long")
    answer = _exactly(connection, size)
    if struct.unpack_from(">i", answer) != (version,):
        raise NotKafka("its answer is to another question")
    return answer[4:]


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise HungUp("it closed the connection without a word")
        received += part
    return received


def _parsed(answer: bytes) -> tuple[dict[int, int], int, int]:
    """Requests and levels of version 3; empty when the broker does not know it."""
    if struct.unpack_from(">h", answer) != (0,):
        return {}, 0, 0
    reader = _Reader(answer, 2)
    apis: dict[int, int] = {}
    for _ in range(reader.varint() - 1):
        key, _, newest = reader.numbers(">hhh")
        reader.skip_tags()
        apis[key] = newest
    reader.numbers(">i")  # throttling
    levels = {0: 0, 2: 0}
    for _ in range(reader.varint()):
        tag, size = reader.varint(), reader.varint()
        end = reader.at + size
        if tag in levels:  # 0: supported features, 2: finalized ones
            for _ in range(reader.varint() - 1):
                name = reader.text()
                pair = reader.numbers(">hh")
                reader.skip_tags()
                if name == b"metadata.version":
                    levels[tag] = max(pair)
        reader.at = end
    return apis, levels[0], levels[2]


def _parsed_old(answer: bytes) -> tuple[dict[int, int], int, int]:
    """Requests of version 0, which knows no features."""
    reader = _Reader(answer, 2)
    (count,) = reader.numbers(">i")
    apis = {}
    for _ in range(count):
        key, _, newest = reader.numbers(">hhh")
        apis[key] = newest
    return apis, 0, 0


class _Reader:
    """Reads Kafka's primitive types, one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def numbers(self, form: str) -> tuple[int, ...]:
        found = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return found

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                return value

    def text(self) -> bytes:
        size = self.varint() - 1
        self.at += size
        return self.data[self.at - size : self.at]

    def skip_tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            size = self.varint()  # before the place moves by it
            self.at += size
