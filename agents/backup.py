"""A backup of an application: what is in the file, and taking one while workers go on.

The file is gzip; in it one line of JSON that says what it is, then frames: length and CRC-32 (four bytes each, big
endian) and that many bytes of MessagePack, one of the structs below. The last frame tells the SHA-256 of everything
before it, so that a file that was cut off or changed is known as such.

Each partition number is taken as it stood at one commit, offsets and all: from the beginning of its reading every
commit puts aside what it overwrites (commit.lua), and what was put aside counts. So it is read little by little,
Redis is never kept for longer than a thousandth of a second or so, and workers do not wait. Partitions follow each
other; each belongs to its own offsets, from where Kafka is read again (docs/decisions/0010).
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import importlib.resources
import logging
import os
import secrets
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

import msgspec

from agents.failure import StoreBroken
from agents.ownership import UNDER_WAY
from agents.store import Layout, Store

log = logging.getLogger(__name__)

FORMAT: Final = "churnwatch backup"
VERSION: Final = 1
CHUNK: Final = 500
"""Customers, or messages, that are read at once."""
LIFE: Final = 60_000
"""Milliseconds that what is put aside lives without being asked for: a backup that was killed leaves nothing."""
ATTEMPTS: Final = 5
"""How often a partition is begun, when it was forgotten, restored or rolled back meanwhile."""
BRIM: Final = 0.9
"""Share of Redis's maxmemory from which a backup stops: what is put aside must not keep a worker from writing."""
LEVEL: Final = 4
"""Of compression: half of the time of the usual 9 for a tenth more bytes."""
FRAME: Final = struct.Struct(">II")
LARGEST: Final = 1 << 30
"""Bytes of a frame: one that says more is damaged."""


class BackupFailed(Exception):
    """No backup could be taken; the message says why and what to do."""


class Damaged(Exception):
    """The file is not what a backup wrote; the message says where and why."""


# ---- what is in a file


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. ``stores``: layouts by application; the trainer's stands under its own name."""

    format: str = FORMAT
    version: int = VERSION
    application: str
    taken: str
    release: str
    stores: dict[str, Layout]


class Begin(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    """A partition number of a store begins; what came of it before is void. ``meta`` as of the one commit that all
    of it belongs to, and how many customers, deadlines and messages there were then."""

    store: str
    partition: int
    meta: dict[bytes, bytes]
    hot: int
    cold: int
    due: int
    out: int
    parked: int
    gone: int


class Hot(msgspec.Struct, frozen=True, array_like=True, tag="hot"):
    """Customers and their hot parts. One may come twice, with the same state."""

    pairs: list[tuple[bytes, bytes]]


class Cold(msgspec.Struct, frozen=True, array_like=True, tag="cold"):
    """Customers and their cold parts."""

    pairs: list[tuple[bytes, bytes]]


class Due(msgspec.Struct, frozen=True, array_like=True, tag="due"):
    """Customers and their deadlines in microseconds."""

    pairs: list[tuple[bytes, int]]


class Gone(msgspec.Struct, frozen=True, array_like=True, tag="gone"):
    """Who had been erased by then, by keyed hashes: see ``agents.suppression``."""

    pairs: list[tuple[bytes, bytes]]


class Out(msgspec.Struct, frozen=True, array_like=True, tag="out"):
    """Messages of the outbox by their ids; without those that the brokers have acknowledged meanwhile."""

    entries: list[tuple[bytes, bytes]]


class Parked(msgspec.Struct, frozen=True, array_like=True, tag="parked"):
    """Messages that no broker took, by their ids."""

    entries: list[tuple[bytes, bytes]]


class End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """The partition that was begun is complete."""


class Last(msgspec.Struct, frozen=True, array_like=True, tag="last"):
    """The file is complete: SHA-256 of all bytes before this frame, uncompressed."""

    sha256: bytes


Frame: TypeAlias = Begin | Hot | Cold | Due | Gone | Out | Parked | End | Last

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


class Writer:
    """Writes one file. ``close`` completes it."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=LEVEL)
        self._sum = hashlib.sha256()
        self._write(msgspec.json.encode(header) + b"\n")

    def write(self, frame: Frame) -> None:
        """One frame."""
        raw = _encode(frame)
        self._write(FRAME.pack(len(raw), zlib.crc32(raw)))
        self._write(raw)

    def close(self) -> None:
        """The last frame, which makes it a whole file."""
        self.write(Last(self._sum.digest()))
        self._file.close()

    def _write(self, raw: bytes) -> None:
        self._sum.update(raw)
        self._file.write(raw)


def read(file: BinaryIO) -> tuple[Header, Iterator[Frame]]:
    """What a file holds, each frame checked before it is handed over, the whole when the iterator ends.

    Raises :class:`Damaged`, here and from the iterator.
    """
    unzipped = cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    line = _take(lambda: unzipped.readline(1 << 20))
    try:
        known = msgspec.json.decode(line)
        if not isinstance(known, dict) or known.get("format") != FORMAT:
            raise Damaged("It is not a backup of churnwatch.")
        if known.get("version") != VERSION:
            raise Damaged(
                f"It is of version {known.get('version')}, this churnwatch reads version {VERSION}: use the release "
                f"that wrote it ({known.get('release')}), or a newer one."
            )
        header = msgspec.convert(known, Header)
    except msgspec.MsgspecError as error:
        raise Damaged("It is not a backup of churnwatch.") from error
    return header, _frames(unzipped, hashlib.sha256(line))


def _frames(file: BinaryIO, digest: Any) -> Iterator[Frame]:
    number = 0
    while True:
        number += 1
        head = _take(lambda: file.read(FRAME.size))
        if len(head) < FRAME.size:
            raise Damaged(f"It ends after {number - 1} frames, before its end: it was cut off.")
        length, checksum = FRAME.unpack(head)
        if length > LARGEST:
            raise Damaged(f"Frame {number} is damaged.")
        raw = _take(partial(file.read, length))
        if len(raw) < length or zlib.crc32(raw) != checksum:
            raise Damaged(f"Frame {number} is damaged or cut off.")
        try:
            frame: Frame = _decode(raw)
        except msgspec.MsgspecError as error:
            raise Damaged(f"Frame {number} cannot be read: {error}.") from error
        if isinstance(frame, Last):
            if frame.sha256 != digest.digest():
                raise Damaged("Its checksum does not fit what it holds: it was changed.")
            if _take(lambda: file.read(1)):
                raise Damaged("Something follows its end: it was changed.")
            return
        digest.update(head)
        digest.update(raw)
        yield frame


def _take(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"It is damaged, or no backup of churnwatch ({error}).") from error
    except EOFError as error:
        raise Damaged("It was cut off.") from error


# ---- a file that is there whole or not at all


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A new file of that name, which this user alone may read. It appears under its name when the block has ended
    well and all of it is on the disk; else nothing stays."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            beside.rename(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# ---- taking one


def header(application: str, layouts: Mapping[str, Layout]) -> Header:
    """Of a file that is begun now. Raises :class:`BackupFailed`."""
    for name, layout in layouts.items():
        if layout.clock in UNDER_WAY:
            raise BackupFailed(
                f"Into {name} an archive or a backup is being loaded, or was when somebody stopped it. Let that end first."
            )
    return Header(
        application=application,
        taken=datetime.now(UTC).isoformat(timespec="seconds"),
        release=_release(),
        stores=dict(layouts),
    )


def _release() -> str:
    try:
        return metadata.version("churnwatch")
    except metadata.PackageNotFoundError:
        return "unknown"


async def size(stores: Sequence[tuple[Store, Layout]]) -> int:
    """About how many entries will be read."""
    found = 0
    for store, layout in stores:
        for number in range(layout.partitions):
            pipeline = store.redis.pipeline(transaction=False)
            _, hot, cold, due, out = store.keys(number)
            pipeline.hlen(hot)
            pipeline.hlen(cold)
            pipeline.zcard(due)
            pipeline.xlen(out)
            found += sum(await store.ask("read", pipeline.execute))
    return found


async def take(
    stores: Sequence[tuple[Store, Layout]], write: Callable[[Frame], None], tell: Callable[[int], None]
) -> None:
    """Hands all frames but the last to ``write``; the first store is the application's. ``tell`` hears of entries.

    Raises :class:`BackupFailed` and what the store raises.
    """
    room = _Room(stores[0][0])
    for store, layout in stores:
        for number in range(layout.partitions):
            await _Picture(store, number, room).take(write, tell)


class _Room:
    """Watches that Redis does not run full because of a backup. What it does not tell is not looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next = 0.0

    async def check(self) -> None:
        """Looks now and then. Raises :class:`BackupFailed`."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 1.0
        try:
            told: Any = await self._store.ask("backup", lambda: self._store.redis.info("memory"))
        except StoreBroken:  # this user may not ask
            self._next = float("inf")
            return
        for node in [told] if "used_memory" in told else told.values():
            if node.get("maxmemory") and node["used_memory"] > BRIM * node["maxmemory"]:
                raise BackupFailed(
                    f"Redis uses {node['used_memory'] / node['maxmemory']:.0%} of its maxmemory, and what changes during a "
                    f"backup is kept twice: it would run full, and workers could not write. Give it more memory."
                )


def _hscan(key: str, cursor: int) -> Callable[[Any], object]:
    return lambda pipeline: pipeline.hscan(key, cursor, count=CHUNK)


def _zscan(key: str, cursor: int) -> Callable[[Any], object]:
    return lambda pipeline: pipeline.zscan(key, cursor, count=CHUNK)


def _hmget(key: str, fields: Sequence[bytes]) -> Callable[[Any], object]:
    return lambda pipeline: pipeline.hmget(key, fields)


def _xrange(key: str, first: bytes, last: bytes) -> Callable[[Any], object]:
    return lambda pipeline: pipeline.xrange(key, first, last, count=CHUNK)


class _Moved(Exception):
    """What was being read is not of one commit; it is begun again."""


class _Picture:
    """One partition number as it stood at one commit."""

    def __init__(self, store: Store, number: int, room: _Room) -> None:
        self._store, self._number, self._room = store, number, room
        self._token = secrets.token_hex(8)
        self._aside = store.aside(number)
        meta, self._hot, self._cold, self._due, self._out = store.keys(number)
        self._keys = [
            meta, self._hot, self._cold, self._due, self._out, self._aside, store.parked(number), store.gone(number),
        ]  # fmt: skip
        self._script = store.redis.register_script(
            (importlib.resources.files("agents") / "backup.lua").read_text()
        )

    async def take(self, write: Callable[[Frame], None], tell: Callable[[int], None]) -> None:
        for attempt in range(ATTEMPTS):
            try:
                await self._once(write, tell)
            except _Moved as moved:
                log.warning("Partition %d is read again: %s", self._number, moved)
                await asyncio.sleep(attempt)
            except BaseException:
                await self._let_go()
                raise
            else:
                return
        raise BackupFailed(
            f"Partition {self._number} of {self._store.application} did not stand still for a picture in {ATTEMPTS} "
            f"attempts: it was forgotten, restored or rolled back meanwhile, or a worker of an older release writes to "
            f"it. Look at the workers' logs, let all run this release, and try again."
        )

    async def _once(self, write: Callable[[Frame], None], tell: Callable[[int], None]) -> None:
        answer = await self._ask("begin", LIFE)
        if answer[0] == b"BUSY":
            raise BackupFailed(
                f"Another backup reads partition {self._number} of {self._store.application} just now, or was killed less "
                f"than {LIFE // 1000} seconds ago. Wait for it."
            )
        if answer[0] == b"TORN":
            raise BackupFailed(
                f"Partition {self._number} of {self._store.application} holds half of a lost commit "
                f"(docs/decisions/0005): there is nothing sound to be kept. A worker repairs it when it claims it."
            )
        pairs = iter(answer[1])
        meta = dict(zip(pairs, pairs, strict=True))
        done = int(meta.get(b"done", b"0"))
        begin = Begin(
            self._store.application, self._number, meta,
            hot=answer[2], cold=answer[3], due=answer[4], out=answer[5], parked=answer[7], gone=answer[9],
        )  # fmt: skip
        write(begin)
        async for frame in self._frames(answer[6], answer[8]):
            write(frame)
            tell(len(frame.entries if isinstance(frame, Out | Parked) else frame.pairs))
        ended = await self._ask("end")
        if ended[0] != b"OK":
            raise _Moved("what commits had put aside is gone")
        if int(ended[2]) - done != int(ended[1]):
            raise _Moved("not every commit put aside what it overwrote")
        write(End())

    async def _frames(
        self, out: bytes, parked: bytes
    ) -> AsyncIterator[Hot | Cold | Due | Gone | Out | Parked]:
        async for some in self._scan(b"h", self._hot):
            yield Hot(some)
        async for some in self._scan(b"c", self._cold):
            yield Cold(some)
        async for some in self._scan(b"d", self._due):
            yield Due([(key, int(value)) for key, value in some])
        async for some in self._scan(b"g", self._keys[7]):
            yield Gone(some)
        # In the end what was put aside, of which the readings above may not have seen all: what was removed since.
        cursor = 0
        while True:
            cursor, found = await self._read(_hscan(self._aside, cursor))
            was = {k: v[1:] for k, v in found.items() if v[:1] == b"=" and k[:1] != b"#"}
            if hot := [(k[1:], v) for k, v in was.items() if k[:1] == b"h"]:
                yield Hot(hot)
            if cold := [(k[1:], v) for k, v in was.items() if k[:1] == b"c"]:
                yield Cold(cold)
            if due := [(k[1:], int(float(v))) for k, v in was.items() if k[:1] == b"d"]:
                yield Due(due)
            if gone := [(k[1:], v) for k, v in was.items() if k[:1] == b"g"]:
                yield Gone(gone)
            if not cursor:
                break
        # Entries of a stream never change: those up to the newest of then, without what has left since.
        async for entries in self._stream(self._out, out):
            yield Out(entries)
        async for entries in self._stream(self._keys[6], parked):
            yield Parked(entries)

    async def _scan(self, kind: bytes, key: str) -> AsyncIterator[list[tuple[bytes, Any]]]:
        """What of a hash or a sorted set was not overwritten since the beginning."""
        cursor = 0
        scan = _zscan if kind == b"d" else _hscan
        while True:
            cursor, found = await self._read(scan(key, cursor))
            pairs = list(found.items()) if isinstance(found, dict) else list(found)
            if pairs:
                marks = [kind + customer for customer, _ in pairs]
                # Asked after the reading, so that what was overwritten before it is known.
                kept = await self._read(_hmget(self._aside, marks))
                unchanged = [pair for pair, aside in zip(pairs, kept, strict=True) if aside is None]
                if unchanged:
                    yield unchanged
            if not cursor:
                return

    async def _stream(self, key: str, last: bytes) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        first = b"-"
        while last:
            found = await self._read(_xrange(key, first, last))
            if not found:
                return
            yield [(ident, fields[b"m"]) for ident, fields in found]
            first = b"(" + found[-1][0]

    async def _read(self, ask: Callable[[Any], object]) -> Any:
        """The answer to one command, which ``ask`` gives to a pipeline, and a longer life to what is put aside.

        Raises :class:`_Moved` when that is gone.
        """

        async def once() -> tuple[Any, bytes | None]:
            pipeline = self._store.redis.pipeline(transaction=False)
            ask(pipeline)
            pipeline.hget(self._aside, "#token")
            pipeline.pexpire(self._aside, LIFE)
            answer, token, _ = await pipeline.execute()
            return answer, token

        answer, token = await self._store.ask("backup", once)
        if token != self._token.encode():
            raise _Moved("what commits had put aside is gone")
        await self._room.check()
        return answer

    async def _ask(self, what: str, *more: object) -> Any:
        return await self._store.ask(
            "backup", lambda: self._script(keys=self._keys, args=[what, self._token, *more])
        )

    async def _let_go(self) -> None:
        """What commits have put aside goes at once; where Redis does not answer, by itself."""
        try:
            async with asyncio.timeout(2):
                await self._script(keys=self._keys, args=["end", self._token])
        except Exception as error:  # noqa: BLE001 -- something went wrong already, which is told; the key expires
            log.debug("What was put aside could not be removed: %s", error)
