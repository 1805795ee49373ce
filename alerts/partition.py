"""What a partition remembers besides its customers: clocks, position, traffic, poison, ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from alerts.feeds import Feed
from alerts.tally import Tally

VERSION: Final = 3
WINDOW: Final = 1_000
POISON_SHARE: Final = 0.5
POISON_LEAST: Final = 200
_MINUTES: Final = 4_096
_MASK: Final = (1 << WINDOW) - 1


class Poisoned(Exception):
    """More than half of the last records of a topic's partition, and at least 200, are invalid.

    ``topic``: logical name; ``offset``: the record at which the limit was passed; ``invalid`` of
    ``seen`` last records; ``reasons``: how often each reason occurred in the batch.
    """

    def __init__(
        self, topic: str, partition: int, offset: int, invalid: int, seen: int, reasons: dict[str, int]
    ) -> None:
        super().__init__(
            f"{invalid} of the last {seen} records of {topic}/{partition} up to offset {offset} are invalid "
            f"({', '.join(f'{n} {reason}' for reason, n in sorted(reasons.items()))})"
        )
        self.topic, self.partition, self.offset = topic, partition, offset
        self.invalid, self.seen, self.reasons = invalid, seen, reasons


class Window(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Which of the last 1,000 records of a topic's partition were invalid (newest in the lowest bit)."""

    seen: int = 0
    bits: bytes = b""

    def after(self, invalid: Sequence[bool]) -> tuple[Window, int | None]:
        """The window after these records, and the index of the first at which it was poisoned."""
        seen = self.seen
        bits = int.from_bytes(self.bits, "little")
        if not bits and not any(invalid):
            return Window(min(seen + len(invalid), WINDOW)), None
        poisoned: int | None = None
        count = bits.bit_count()
        for index, bad in enumerate(invalid):
            bits = bits << 1 | bad
            count += bad - (bits >> WINDOW)
            bits &= _MASK
            seen = min(seen + 1, WINDOW)
            if bad and poisoned is None and count >= POISON_LEAST and count > POISON_SHARE * seen:
                poisoned = index
        return Window(seen, bits.to_bytes((bits.bit_length() + 7) // 8, "little")), poisoned

    @property
    def invalid(self) -> int:
        """How many of them were invalid."""
        return int.from_bytes(self.bits, "little").bit_count()


class Partition(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``number``: the partition number, shared by all input topics; ``clock``: the instant up to which
    everything due has fired (0: never moved); ``ticks``: the newest ``clock`` record by topic;
    ``applied``: offset of the last record applied, by topic (logical names); ``live_since``: go-live
    under the wall clock (0: not yet); ``windows`` and ``feeds`` by topic; ``minutes``: alerts
    delivered by minute of their decision; ``examples``: matured labels that have left; ``tally``: what
    is known of all customers together; ``retention``: the one by which all customers have their deadlines."""

    version: int = VERSION
    number: int = 0
    clock: int = 0
    ticks: dict[str, int] = {}
    applied: dict[str, int] = {}
    live_since: int = 0
    windows: dict[str, Window] = {}
    feeds: dict[str, Feed] = {}
    minutes: dict[int, int] = {}
    examples: int = 0
    tally: Tally = Tally()
    retention: str = ""

    def pack(self) -> bytes:
        """As it is stored with the partition."""
        return _encode(self)


class Ceiling:
    """Counts deliveries by minute of decision, in log order, on a copy of the partition's counts."""

    def __init__(self, minutes: dict[int, int], limit: int) -> None:
        self.minutes = dict(minutes)
        self._limit = limit

    def admits(self, at: int) -> bool:
        """Whether an alert decided at ``at`` may be delivered; counts it if so."""
        minute = at // 60_000_000
        count = self.minutes.get(minute, 0)
        if count >= self._limit:
            return False
        self.minutes[minute] = count + 1
        if len(self.minutes) > _MINUTES:
            del self.minutes[min(self.minutes)]
        return True


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Partition).decode


def unpack(blob: bytes | None, number: int) -> Partition:
    """The stored partition; a new one for None. Raises ValueError for an unknown version."""
    if blob is None:
        return Partition(number=number)
    partition = _decode(blob)
    if partition.version > VERSION:
        raise ValueError(
            f"partition {number} was written with version {partition.version}, this churnwatch knows "
            f"{VERSION}: run the newer release"
        )
    return partition
