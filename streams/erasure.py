"""Erasure: what is said, and kept, of a customer who was forgotten, none of which names the customer.

It leaves to the compacted topic ``forgotten`` under a keyed hash of the customer, through the outbox, by the commit
that removed the customer's state: the answer to whoever asked for it, and the list of those who must not come back
when Kafka is read again or Redis is restored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from streams import topics
from streams.events import Time
from streams.message import Message

VERSION: Final = 1


class Erasure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One customer was forgotten.

    ``until``: events of the customer up to then are passed over, whenever they come; ``written``: what cannot be read,
    and Kafka had by then, likewise. ``secret``: which secret the hash
    was made with (see ``alerts.forgotten``). ``request``: the hash of the id of the event that asked for it, which was
    read by ``application`` at ``offset`` of ``partition`` of ``topic``. ``examples``: labels that had left this partition by then. ``again``: it had been carried out
    before, and who came back since has stayed. ``removed``: how many of what.
    """

    until: Time
    written: Time
    secret: str
    request: str
    application: str
    partition: int
    topic: str
    offset: int
    examples: int = 0
    again: bool = False
    removed: dict[str, int] = {}
    version: int = VERSION


class Forgetting(NamedTuple):
    """An erasure on its way to the store: the customer's key, its keyed hash, and what is kept."""

    key: bytes
    digest: bytes
    erasure: Erasure


class UnknownErasure(ValueError):
    """A record of ``forgotten`` was written by a newer version of churnwatch, or is none."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Erasure).decode


def erasure_message(digest: bytes, erasure: Erasure) -> Message:
    """The erasure on its way out."""
    return Message(topics.FORGOTTEN, digest.hex().encode(), _encode(erasure))


def decode_erasure(key: bytes | None, value: bytes | None) -> tuple[bytes, Erasure]:
    """The keyed hash and the erasure in a record. Raises UnknownErasure, saying why."""
    try:
        digest = bytes.fromhex((key or b"").decode("ascii"))
        erasure = _decode(value or b"")
    except ValueError as error:  # msgspec.DecodeError is one
        raise UnknownErasure(f"no erasure: {error}") from error
    if erasure.version > VERSION:
        raise UnknownErasure(
            f"an erasure has version {erasure.version}, this churnwatch knows {VERSION}: run the newer release"
        )
    return digest, erasure


def whose(
    key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]] = ()
) -> set[bytes]:
    """The customers that a record may be of, as far as it tells."""
    found = {key, *(content for header, content in headers if header == "ce_subject")} - {None, b""}
    try:
        said = _whose(value or b"")
    except (msgspec.DecodeError, ValueError, RecursionError):
        said = _Whose()
    names = [name.encode("utf-8", "surrogatepass") for name in (said.customer, said.subject) if name]
    return {name for name in found if name is not None} | set(names)


class _Whose(msgspec.Struct):
    customer: str | None = None
    subject: str | None = None


_whose = msgspec.json.Decoder(_Whose).decode


def is_about(
    customer: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]] = ()
) -> bool:
    """Whether a record is of this customer: by its key, by the field or attribute that names whom it concerns, or,
    where its value cannot be read, by what stands where that field would."""
    name = customer.encode("utf-8", "surrogatepass")
    if key == name or any(content == name for header, content in headers if header == "ce_subject"):
        return True
    if not value or (name not in value and b"\\" not in value):
        return False
    try:
        said = _whose(value)
    except (msgspec.DecodeError, ValueError, RecursionError):
        written = re.escape(msgspec.json.encode(customer) if customer.isprintable() else b'"' + name + b'"')
        return re.search(rb'"(?:customer|subject)"\s*:\s*' + written, value) is not None
    return customer in (said.customer, said.subject)
