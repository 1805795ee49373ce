"""Pauses: alerts that are decided as ever and not delivered, because an operator has said so.

Each pause is a record on the compacted topic ``brakes``. A pause that has ended still counts for the instants it
covered: what a worker that was behind decides about them, and what is decided again after Redis was restored, is no
news either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from streams.alerts import TRANSITIONS, Kind
from streams.events import Micros

FORMAT: Final = 1
"""Of :class:`Pause`. A change of its fields is a new number."""
KINDS: Final[tuple[Kind, ...]] = tuple(TRANSITIONS)
KEPT: Final = 100
"""Ended pauses of each kind that stay on the topic."""

Partition = Annotated[int, Meta(ge=0)]


class Pause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of alerts is not delivered from ``paused_at`` until ``resumed_at`` (None: until further notice).

    Both are the wall clock of the operator's machine. ``clock``: what decisions are timed by; ``begins`` and ``ends``:
    where the clocks of the partitions stood then, as far as Redis told. Under the wall clock an instant that is
    missing there is ``paused_at`` or ``resumed_at``; under the record clock nothing is known of such a partition
    once the pause has ended.
    """

    format: int = FORMAT
    kind: Kind
    paused_at: Micros
    reason: str = ""
    clock: Literal["wall", "record"] = "wall"
    begins: dict[Partition, Micros] = {}
    resumed_at: Micros | None = None
    ends: dict[Partition, Micros] = {}

    @property
    def key(self) -> bytes:
        """Of its record."""
        return f"{self.kind}:{self.paused_at}".encode()

    def holds(self, partition: int, at: Micros) -> bool:
        """Whether it keeps back what is decided now for an instant."""
        if self.resumed_at is None:
            return True
        wall = self.clock == "wall"
        begin = self.begins.get(partition, self.paused_at if wall else None)
        end = self.ends.get(partition, self.resumed_at if wall else None)
        return begin is not None and end is not None and begin < at <= end

    def resumed(self, at: Micros, ends: Mapping[int, Micros]) -> Pause:
        """The same, ended."""
        return msgspec.structs.replace(self, resumed_at=at, ends=dict(ends))


class Brakes(msgspec.Struct, frozen=True, gc=False):
    """What keeps alerts from being delivered: ``shadow`` all of them, each pause those of its kind."""

    pauses: tuple[Pause, ...] = ()
    shadow: bool = False

    def withhold(self, kind: Kind, partition: int, at: Micros) -> Literal["shadow", "paused"] | None:
        """Why an alert that is decided now for an instant is not delivered; None: it is."""
        if self.shadow:
            return "shadow"
        for pause in self.pauses:
            if pause.kind == kind and pause.holds(partition, at):
                return "paused"
        return None

    def open(self, kind: Kind | None = None) -> list[Pause]:
        """The pauses that have not ended: of one kind, or of all."""
        return [p for p in self.pauses if p.resumed_at is None and kind in (None, p.kind)]

    def outdated(self, kind: Kind) -> list[Pause]:
        """Ended pauses that are more than are kept, oldest first."""
        ended = [p for p in self.pauses if p.kind == kind and p.resumed_at is not None]
        return ended[: max(0, len(ended) - KEPT)]


class Board:
    """The records of ``brakes`` taken together, whoever read them."""

    def __init__(self, shadow: bool = False) -> None:
        self._shadow = shadow
        self._pauses: dict[bytes, Pause] = {}

    def take(self, key: bytes | None, value: bytes | None) -> str | None:
        """One record. Why it was refused, or None."""
        if value is None:
            self._pauses.pop(key or b"", None)
            return None
        try:
            self._pauses[key or b""] = _decode(value)
        except msgspec.DecodeError as error:
            return (
                f"A record of `brakes` is no pause that this churnwatch knows ({error}): alerts are not held because of "
                f"it. Run the release that wrote it, or pause again (churnwatch alerts pause)."
            )
        return None

    def known(self) -> Brakes:
        """What there is now."""
        pauses = sorted(self._pauses.values(), key=lambda p: (p.paused_at, p.kind))
        return Brakes(tuple(pauses), self._shadow)


def encode(pause: Pause) -> bytes:
    """The record of a pause."""
    return _encode(pause)


def _decode(value: bytes) -> Pause:
    pause = _decoder.decode(value)
    if pause.format != FORMAT:
        raise msgspec.ValidationError(f"format {pause.format}")
    return pause


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Pause)
