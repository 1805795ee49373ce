"""One message that leaves churnwatch, before it has a transport."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, array_like=True, frozen=True):
    """A record to be produced, as it waits in the outbox.

    ``topic`` is the logical name (``alerts``, not the prefixed Kafka name), ``headers`` are
    (name, value) pairs in the order in which they are sent.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(Message).decode
