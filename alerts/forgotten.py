"""Who was forgotten, as far as it is known: until which instant, by a keyed hash of the customer.

Without the secret that the hash is made with nobody can find out, by trying the ids there are, who is on the list.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from streams.erasure import Erasure
from streams.events import Micros, to_datetime, to_micros

DIGEST: Final = 16
"""Bytes of a hash: no two customers of any shop share one."""


class Entry(NamedTuple):
    """Events up to ``until`` are passed over, and what cannot be read and was ``written`` to Kafka by then. ``request``: the hash of what asked for it, read at ``offset`` of
    ``topic``; ``examples``: labels that had
    left its partition by then; ``application`` and ``partition``: whose."""

    until: Micros
    application: str
    partition: int
    topic: str
    offset: int
    examples: int
    request: bytes
    written: Micros = 0


class Forgotten:
    """The list. It only grows, and of one customer the latest instant holds: it makes no difference in which order,
    or how often, what is known is taken in."""

    def __init__(self, secret: str) -> None:
        self._key = hashlib.blake2b(secret.encode("utf-8", "surrogatepass")).digest()
        self.secret: Final = self._hash(b"", b"secret")[:4].hex()
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def _hash(self, content: bytes, person: bytes = b"customer") -> bytes:
        return hashlib.blake2b(content, digest_size=DIGEST, key=self._key, person=person).digest()

    def digest(self, customer: bytes) -> bytes:
        """The keyed hash of a customer."""
        return self._hash(customer)

    def request(self, event: str) -> bytes:
        """The keyed hash of the event that asked for it, by its id."""
        return self._hash(event.encode("utf-8", "surrogatepass"), b"request")[:8]

    def of(self, customer: bytes) -> Entry | None:
        """What is known of a customer; None for whom nobody asked to forget."""
        return self._entries.get(self._hash(customer)) if self._entries else None

    def learn(self, digest: bytes, entry: Entry) -> None:
        """Takes in what is known of one customer."""
        known = self._entries.get(digest)
        if known is None or (known.until, known.offset if known.topic == entry.topic else -1) <= (
            entry.until,
            entry.offset,
        ):
            self._entries[digest] = entry

    def entry(self, digest: bytes) -> Entry | None:
        """What is known under a hash."""
        return self._entries.get(digest)

    def here(self, application: str, partition: int) -> dict[bytes, Entry]:
        """The entries of one partition of an application."""
        return {
            digest: entry
            for digest, entry in self._entries.items()
            if (entry.application, entry.partition) == (application, partition)
        }


def entry(erasure: Erasure) -> Entry:
    """What the list keeps of an erasure."""
    return Entry(
        to_micros(erasure.until),
        erasure.application,
        erasure.partition,
        erasure.topic,
        erasure.offset,
        erasure.examples,
        bytes.fromhex(erasure.request),
        to_micros(erasure.written),
    )


def erasure(entry: Entry, secret: str) -> Erasure:
    """What is said again of somebody who is on the list."""
    return Erasure(
        until=to_datetime(entry.until),
        written=to_datetime(entry.written),
        secret=secret,
        request=entry.request.hex(),
        application=entry.application,
        partition=entry.partition,
        topic=entry.topic,
        offset=entry.offset,
        examples=entry.examples,
        again=True,
    )


class Retention(NamedTuple):
    """For how long nobody has to be heard of (microseconds; 0: for ever): who never bought, and who has lapsed."""

    prospects: Micros = 0
    lapsed: Micros = 0

    def of(self, orders: int) -> Micros:
        """That of a customer with so many orders."""
        return self.lapsed if orders else self.prospects

    def __str__(self) -> str:
        return f"{self.prospects} {self.lapsed}" if any(self) else ""
