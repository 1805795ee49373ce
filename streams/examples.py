"""Examples: what a customer looked like at a snapshot, and what became of it once the horizon has passed.

They leave to the topic ``examples`` through the outbox, so the trainer may read one twice: ``partition``
and ``sequence`` name it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streams import topics
from streams.events import Micros
from streams.message import Message

VERSION: Final = 1


class Example(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One matured label.

    ``partition`` and ``sequence`` (from 1, without gaps): which example it is. ``at``: instant of the snapshot,
    ``due``: ``at`` plus the horizon, both microseconds. ``horizon_days``: H. ``churned``: no purchase (or what
    the shop calls activity) in (at, due], or the customer said to be lost before any. ``inputs``: in the order
    of ``features.matrix.Inputs``, as they were known at the snapshot, to float32.
    """

    partition: int
    sequence: int
    at: Micros
    due: Micros
    horizon_days: float
    churned: bool
    inputs: tuple[float, ...]
    features: str
    version: int = VERSION


class UnknownExample(ValueError):
    """An example was written by a newer version of churnwatch, or is none."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Example).decode


def example_message(example: Example) -> Message:
    """The example on its way out. All go to one partition: one trainer learns."""
    return Message(topics.EXAMPLES, None, _encode(example))


def decode_example(value: bytes | None) -> Example:
    """The example in a record. Raises UnknownExample, saying why."""
    try:
        example = _decode(value or b"")
    except msgspec.DecodeError as error:
        raise UnknownExample(f"no example: {error}") from error
    if example.version > VERSION:
        raise UnknownExample(
            f"an example has version {example.version}, this churnwatch knows {VERSION}: run the newer release"
        )
    return example
