"""A backup into Redis: loaded beside what is there, checked, and put in its place partition by partition.

Until the last partition is in its place the stored layout says that a restore is under way, and no worker begins;
``application:restoring`` says what was there before. Whatever is loaded beside expires by itself. So a restore that
is killed leaves either what was there before or an application that says it is not restored; the next one begins
anew.
"""

from __future__ import annotations

import importlib.resources
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from agents.backup import Begin, Cold, Damaged, Due, End, Frame, Gone, Header, Hot, Out, Parked
from agents.ownership import RESTORING
from agents.store import Claimed, Fenced, Layout, Store
from streams.message import unpack

LIFE: Final = 600_000
"""Milliseconds that what is loaded beside lives without more being loaded."""
LOCK: Final = 60_000
"""Milliseconds after which a restore that was killed no longer keeps the next one waiting."""
PARTS: Final = ("meta", "hot", "cold", "due", "out", "parked", "gone")


class Erased(Protocol):
    """Who was erased since a backup; see ``agents.suppression.ErasedSince``."""

    def listed(self, customer: bytes) -> bool:
        """Whether a customer was ever erased."""
        ...

    def since(self, customer: bytes, gone: Mapping[bytes, bytes]) -> bool:
        """Whether it was after the backup, in which ``gone`` is the list of the partition."""
        ...


class NotEmpty(Exception):
    """The application has a state already. ``keys``: some of those that hold it."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__(", ".join(keys))
        self.keys = keys


class Busy(Exception):
    """Another restore is under way."""


class Disturbed(Exception):
    """Somebody else wrote to what was being restored; the message says where."""


class Unsettled(Exception):
    """It ended while partitions were put in their places: the application is neither what it was nor restored."""


class Restored(msgspec.Struct):
    """What came of it. ``erased``: customers of the backup who have been erased since, and were left out."""

    partitions: int = 0
    customers: int = 0
    waiting: int = 0
    erased: int = 0


class _Before(msgspec.Struct):
    """What ``application:restoring`` says. ``layouts``: those of before, by application; ``switching``: whether
    some of it is gone already."""

    layouts: dict[str, Layout | None]
    switching: bool = False


class Restoring:
    """One restore. ``open``: gives the store of an application by its name; ``erased``: who must not come
    back; ``replace``: whether something may be there already."""

    def __init__(
        self,
        header: Header,
        stores: Sequence[Store],
        erased: Erased,
        *,
        replace: bool,
    ) -> None:
        self._header = header
        self._stores = {store.application: store for store in stores}
        self._first = stores[0]
        self._erased = erased
        self._replace = replace
        self._token = secrets.token_hex(8)
        self._note = f"{self._first.application}:restoring"
        self._lock = f"{self._first.application}:restoring:lock"
        self._switch = self._first.redis.register_script(
            (importlib.resources.files("agents") / "restore.lua").read_text()
        )
        self._counts: dict[tuple[str, int], list[int]] = {}
        self._before = _Before({})
        self.done = Restored()

    async def run(self, frames: Iterator[Frame], tell: Callable[[], None]) -> Restored:
        """All of it. ``frames`` may raise ``Damaged``: then what was there stays. ``tell`` is called after each.

        Raises :class:`NotEmpty`, :class:`Busy`, :class:`Disturbed`, :class:`Unsettled` and what the store raises.
        """
        redis = self._first.redis
        if not await self._ask(lambda: redis.set(self._lock, self._token, nx=True, px=LOCK)):
            raise Busy
        try:
            await self._begin()
            try:
                await self._mark()
                await self._load(frames, tell)
            except BaseException:
                await self._undo()
                raise
            try:
                await self._remember(switching=True)
                await self._put()
            except BaseException as error:
                raise Unsettled(str(error) or type(error).__name__) from error
        finally:
            await self._unlock()
        return self.done

    # ---- the beginning

    async def _begin(self) -> None:
        redis = self._first.redis
        layouts = {name: await store.layout() for name, store in self._stores.items()}
        noted = await self._ask(lambda: redis.get(self._note))
        marked = layouts[self._first.application]
        if noted is not None and marked is not None and marked.clock == RESTORING:
            # A restore was killed. Before it began to put things in their places, all is as it was.
            self._before = msgspec.json.decode(noted, type=_Before)
            if not self._before.switching:
                await self._undo()
                layouts = {name: await store.layout() for name, store in self._stores.items()}
        if not self._before.switching:
            there = [f"{name}:layout" for name, layout in layouts.items() if layout is not None]
            there += await self._keys_there()
            if there and not self._replace:
                raise NotEmpty(there)
            self._before = _Before(layouts)
            await self._remember(switching=False)

    async def _mark(self) -> None:
        """From here on no worker begins, and no commit of one that runs is taken."""
        for name, store in reversed(self._stores.items()):
            layouts = self._header.stores.get(name), self._before.layouts.get(name)
            known = [layout.partitions for layout in layouts if layout is not None]
            if not known:
                continue
            mark = msgspec.json.encode(Layout(known[0], RESTORING))
            await self._ask(partial(store.redis.set, f"{name}:layout", mark))
            for number in range(max(known)):
                await self._fence(store, number)
                await self._ask(partial(store.redis.unlink, *self._beside(store, number)))

    async def _keys_there(self) -> list[str]:
        keys = [
            (self._stores[name], key)
            for name, layout in self._header.stores.items()
            for number in range(layout.partitions)
            for key in _places(self._stores[name], number)
        ]
        return [key for store, key in keys if await self._ask(partial(store.redis.exists, key))]

    async def _fence(self, store: Store, number: int) -> None:
        """Takes a partition number from whoever holds it, so that no commit comes after this. The layout keeps them
        from claiming it again."""
        if not await self._ask(lambda: store.redis.exists(store.keys(number)[0])):
            return
        answer = await store.claim(number, 0)
        if isinstance(answer, Fenced):
            answer = await store.claim(number, 0, forced=answer)
        if not isinstance(answer, Claimed):
            raise Disturbed(f"partition {number} of {store.application} is being claimed by a worker")

    async def _remember(self, *, switching: bool) -> None:
        raw = msgspec.json.encode(_Before(self._before.layouts, switching))
        await self._ask(lambda: self._first.redis.set(self._note, raw))

    # ---- loading beside

    async def _load(self, frames: Iterator[Frame], tell: Callable[[], None]) -> None:
        store, number = self._first, -1
        loader: _Loader | None = None
        for frame in frames:
            await self._stay()
            match frame:
                case Begin():
                    if frame.store not in self._stores:
                        raise Damaged(
                            f"It holds a partition of {frame.store}, which its beginning does not name."
                        )
                    store, number = self._stores[frame.store], frame.partition
                    loader = _Loader(store, self._beside(store, number), self._token, self._erased)
                    await loader.begin(frame)
                case End():
                    if loader is None:
                        raise Damaged("A partition ends that has not begun.")
                    await loader.end()
                    self._counts[store.application, number] = loader.counts
                    if store is self._first:
                        self.done.partitions += 1
                        self.done.customers += loader.counts[0]
                        self.done.waiting += loader.counts[3]
                        self.done.erased += len(loader.left_out)
                    loader = None
                case Hot() | Cold() | Due() | Gone() | Out() | Parked():
                    if loader is None:
                        raise Damaged("It holds customers of no partition.")
                    await loader.add(frame)
            tell()
        wanted = {(name, n) for name, layout in self._header.stores.items() for n in range(layout.partitions)}
        if self._counts.keys() != wanted:
            raise Damaged("It does not hold every partition that its beginning names.")

    # ---- into place

    async def _put(self) -> None:
        for (name, number), counts in self._counts.items():
            await self._stay()
            store = self._stores[name]
            keys = [*_places(store, number), *self._beside(store, number), store.aside(number)]
            args = [self._token, *counts]
            answer = await self._ask(partial(self._switch, keys=keys, args=args))
            if answer[0] == b"GONE" and await self._is_there(store, number):
                continue  # the answer was lost, and it was asked again
            if answer[0] != b"OK":
                said = b" ".join(answer).decode()
                raise Disturbed(
                    f"partition {number} of {name}: what was loaded is not what was written ({said})"
                )
        for name, store in self._stores.items():
            await self._drop_rest(store, self._header.stores.get(name))
        # The application's own last: then workers may begin.
        for name, store in reversed(self._stores.items()):
            await self._lay(store, self._header.stores.get(name))
        await self._ask(lambda: self._first.redis.delete(self._note))

    async def _lay(self, store: Store, layout: Layout | None) -> None:
        key = f"{store.application}:layout"
        if layout is None:
            await self._ask(lambda: store.redis.delete(key))
        else:
            await self._ask(lambda: store.redis.set(key, msgspec.json.encode(layout)))

    async def _is_there(self, store: Store, number: int) -> bool:
        version = await self._ask(lambda: store.redis.hget(store.keys(number)[0], "ver"))
        return bool(version == self._token.encode())

    async def _drop_rest(self, store: Store, layout: Layout | None) -> None:
        """Partitions that were there before and are not in the backup."""
        before = self._before.layouts.get(store.application)
        first = layout.partitions if layout else 0
        for number in range(first, before.partitions if before else 0):
            keys = [*_places(store, number), store.aside(number)]
            await self._ask(partial(store.redis.unlink, *keys))

    # ---- the end

    async def _undo(self) -> None:
        """What was there before stays there, and may be worked with again."""
        for name, layout in self._header.stores.items():
            store = self._stores[name]
            for number in range(layout.partitions):
                await self._ask(partial(store.redis.unlink, *self._beside(store, number)))
        if self._before.switching:
            return  # a restore before this one was killed in the middle: only another can mend it
        for name, store in reversed(self._stores.items()):
            await self._lay(store, self._before.layouts.get(name))
        await self._ask(lambda: self._first.redis.delete(self._note))

    async def _stay(self) -> None:
        """The lock is kept for as long as there is work."""
        held = await self._ask(lambda: self._first.redis.get(self._lock))
        if held != self._token.encode():
            raise Disturbed("another restore has taken over")
        await self._ask(lambda: self._first.redis.pexpire(self._lock, LOCK))

    async def _unlock(self) -> None:
        if await self._ask(lambda: self._first.redis.get(self._lock)) == self._token.encode():
            await self._ask(lambda: self._first.redis.delete(self._lock))

    def _beside(self, store: Store, number: int) -> list[str]:
        tag = store.keys(number)[0].removesuffix("meta")
        return [f"{tag}restored:{part}" for part in PARTS]

    async def _ask(self, call: Callable[[], Any]) -> Any:
        return await self._first.ask("restore", call)


class _Loader:
    """One partition number, loaded beside its place. ``left_out``: customers who have been erased since."""

    def __init__(self, store: Store, keys: Sequence[str], token: str, erased: Erased) -> None:
        self._store = store
        self._keys = list(keys)
        self._token = token
        self._erased = erased
        self._begin: Begin | None = None
        self._gone: dict[bytes, bytes] = {}
        self._listed: set[bytes] = set()
        self._about: dict[bytes, list[tuple[str, bytes]]] = {}
        self.left_out: set[bytes] = set()
        self.counts = [0] * 6

    async def begin(self, begin: Begin) -> None:
        """The partition begins."""
        self._begin = begin
        # No owner, and a version that nobody has read: whoever commits has to claim first.
        meta = {k: v for k, v in begin.meta.items() if k not in {b"gen", b"inc"}}
        meta[b"ver"] = self._token.encode()
        await self._store.ask("restore", partial(self._store.redis.unlink, *self._keys))
        await self._write(lambda pipeline: pipeline.hset(self._keys[0], mapping=meta))

    async def add(self, frame: Hot | Cold | Due | Gone | Out | Parked) -> None:
        """More of it."""
        _, hot, cold, due, out, parked, gone = self._keys
        match frame:
            case Hot(pairs):
                self._listed |= {customer for customer, _ in pairs if self._erased.listed(customer)}
                await self._write(lambda pipeline: pipeline.hset(hot, mapping=dict(pairs)))
            case Cold(pairs):
                await self._write(lambda pipeline: pipeline.hset(cold, mapping=dict(pairs)))
            case Due(deadlines):
                await self._write(lambda pipeline: pipeline.zadd(due, dict(deadlines)))
            case Gone(pairs):
                self._gone |= dict(pairs)
                await self._write(lambda pipeline: pipeline.hset(gone, mapping=dict(pairs)))
            case Out(entries):
                await self._append(out, entries)
            case Parked(entries):
                await self._append(parked, entries)

    async def _append(self, key: str, entries: Sequence[tuple[bytes, bytes]]) -> None:
        for ident, raw in entries:
            customer = unpack(raw).key
            if customer is not None and self._erased.listed(customer):
                self._about.setdefault(customer, []).append((key, ident))
        # Asked again after a lost answer, what is there already would be refused: ids only grow.
        newest: Any = await self._store.ask("restore", lambda: self._store.redis.xrevrange(key, count=1))
        last = _place(newest[0][0]) if newest else (-1, -1)

        def write(pipeline: Any) -> None:
            for ident, raw in entries:
                if _place(ident) > last:
                    pipeline.xadd(key, {"m": raw}, id=ident)

        await self._write(write)

    async def end(self) -> None:
        """Whether all of it is there, and without whom it must be. Raises ``Damaged``."""
        begin = self._begin
        assert begin is not None
        found = await self._counted()
        if found[:3] + found[5:] != [begin.hot, begin.cold, begin.due, begin.gone]:
            raise Damaged(
                f"Partition {begin.partition} of {begin.store} has {found[0]:,} customers, {found[1]:,} cold parts, "
                f"{found[2]:,} deadlines and {found[5]:,} on its list of who was erased, and had {begin.hot:,}, "
                f"{begin.cold:,}, {begin.due:,} and {begin.gone:,} when it was taken."
            )
        self.left_out = {customer for customer in self._listed if self._erased.since(customer, self._gone)}
        _, hot, cold, due, *_ = self._keys

        def leave_out(pipeline: Any) -> None:
            some = sorted(self.left_out)
            pipeline.hdel(hot, *some)
            pipeline.hdel(cold, *some)
            pipeline.zrem(due, *some)

        if self.left_out:
            await self._write(leave_out)
        for customer, messages in self._about.items():
            if self._erased.since(customer, self._gone):
                for key, ident in messages:
                    await self._store.ask("restore", partial(self._store.redis.xdel, key, ident))
        self.counts = await self._counted()

    async def _counted(self) -> list[int]:
        _, hot, cold, due, out, parked, gone = self._keys
        pipeline = self._store.redis.pipeline(transaction=False)
        pipeline.hlen(hot)
        pipeline.hlen(cold)
        pipeline.zcard(due)
        pipeline.xlen(out)
        pipeline.xlen(parked)
        pipeline.hlen(gone)
        return list(await self._store.ask("restore", pipeline.execute))

    async def _write(self, write: Callable[[Any], None]) -> None:
        async def once() -> None:
            pipeline = self._store.redis.pipeline(transaction=True)
            write(pipeline)
            for key in self._keys:
                pipeline.pexpire(key, LIFE)
            await pipeline.execute()

        await self._store.ask("restore", once)


def _places(store: Store, number: int) -> list[str]:
    """The keys that are put in place, in the order of ``PARTS``."""
    return [*store.keys(number), store.parked(number), store.gone(number)]


def _place(ident: bytes) -> tuple[int, int]:
    """An id of a stream, in its order."""
    at, _, more = ident.partition(b"-")
    return int(at), int(more)
