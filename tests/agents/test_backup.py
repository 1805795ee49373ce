"""A backup is a partition as it stood at one commit, however much is written meanwhile; and it comes back whole."""

from __future__ import annotations

import asyncio
import gzip
import io
import random
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agents import backup, restoring
from agents.backup import BackupFailed, Begin, Damaged, Frame, Header, Writer, read, take
from agents.ownership import RESTORING
from agents.restoring import Restoring
from agents.store import Claimed, Layout, Lease, Outcome, Store, Write, connect, trainer_of
from agents.suppression import SECRET, ErasedSince, packed
from alerts.forgotten import Entry, Forgotten
from streams.message import Message, pack, unpack
from tests.agents.command_line import CommandLine
from tests.agents.test_store import Address, address
from tests.servers import RedisServer, wait_until

PARTITIONS = 2
NOBODY = ErasedSince(None)
NONE: set[bytes] = set()
NOW = 1_700_000_000_000_000


class State:
    """What a partition holds, remembered commit by commit."""

    def __init__(self) -> None:
        self.hot: dict[bytes, bytes] = {}
        self.cold: dict[bytes, bytes] = {}
        self.due: dict[bytes, int] = {}
        self.gone: dict[bytes, bytes] = {}
        self.offset = 0
        self.part = b""

    def copy(self) -> State:
        other = State()
        other.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in self.__dict__.items()}
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self.__dict__ == other.__dict__


class Life:
    """One partition with customers whom a worker keeps changing. ``at``: what was there after each version."""

    def __init__(self, store: Store, number: int, lease: Lease, seed: int) -> None:
        self.store, self.number, self.lease = store, number, lease
        self.random = random.Random(seed)
        self.now = State()
        self.at: dict[bytes, State] = {}
        self.commits = 0

    @classmethod
    async def begin(cls, store: Store, number: int, customers: int, generation: int = 1) -> Life:
        claimed = await store.claim(number, generation)
        assert isinstance(claimed, Claimed)
        life = cls(
            store, number, Lease(number, generation, claimed.version, {"t": 0}, {"t"}, claimed.blob), number
        )
        await life.commit({b"c%d" % i for i in range(customers)}, cleared=set())
        return life

    async def step(self) -> None:
        """Some customers change, a few are new, a few deadlines go."""
        known = sorted(self.now.hot)
        some = set(self.random.sample(known, min(20, len(known))))
        some |= {b"new-%d-%d" % (self.commits, i) for i in range(3)}
        erased = set(self.random.sample(known, 1)) - some if self.commits % 3 == 0 else set()
        await self.commit(some, set(self.random.sample(sorted(self.now.due), 5)) - erased, erased)

    async def commit(self, customers: set[bytes], cleared: set[bytes], erased: set[bytes] = NONE) -> None:
        self.commits += 1
        said = b"%d" % self.commits
        write = Write(
            partition=b"part" + said,
            hot={c: b"hot" + said + c for c in customers},
            cold={c: b"cold" + said for c in customers if len(c) % 2},
            deadlines=dict.fromkeys(customers - cleared, NOW + self.commits),
            cleared=sorted(cleared),
            out=[pack(Message("alerts", b"c1", said))],
            erased=sorted(erased),
            gone={b"digest of " + customer: said for customer in erased},
        )
        outcome = await self.store.commit(self.lease, self.lease.version, "t", self.commits, write)
        assert outcome is Outcome.COMMITTED
        for customer in erased:
            for part in (self.now.hot, self.now.cold, self.now.due):
                part.pop(customer, None)
        self.now.gone |= write.gone
        self.now.hot |= write.hot
        self.now.cold |= write.cold
        for customer in cleared:
            self.now.due.pop(customer, None)
        self.now.due |= write.deadlines
        self.now.offset, self.now.part = self.commits, write.partition
        self.at[self.lease.version.encode()] = self.now.copy()


async def stored(store: Store, number: int) -> State:
    """What Redis holds."""
    meta, hot, cold, due, _ = store.keys(number)
    found = State()
    said = await store.redis.hgetall(meta)
    found.hot, found.cold = await store.redis.hgetall(hot), await store.redis.hgetall(cold)
    found.gone = await store.redis.hgetall(store.gone(number))
    found.due = {k: int(v) for k, v in await store.redis.zrange(due, 0, -1, withscores=True)}
    found.offset, found.part = int(said[b"off:t"]), said[b"part"]
    return found


def gathered(frames: list[Frame]) -> tuple[dict[int, Begin], dict[int, State]]:
    """What a file says of each partition."""
    begun: dict[int, Begin] = {}
    states: dict[int, State] = {}
    now = State()
    for frame in frames:
        match frame:
            case Begin():
                begun[frame.partition] = frame
                now = states[frame.partition] = State()
                now.offset, now.part = int(frame.meta[b"off:t"]), frame.meta[b"part"]
            case backup.Hot(pairs):
                now.hot |= dict(pairs)
            case backup.Cold(pairs):
                now.cold |= dict(pairs)
            case backup.Due(pairs):
                now.due |= dict(pairs)
            case backup.Gone(pairs):
                now.gone |= dict(pairs)
    return begun, states


class Opened:
    """Stores of this test's application, or of another one; ``run`` closes them."""

    def __init__(self, url: str, application: str) -> None:
        self._url, self._application = url, application
        self._made: list[Store] = []

    def __call__(self, name: str | None = None, *, cluster: bool = False) -> Store:
        settings = address(self._url, 5.0)
        store = Store(connect(Address(self._url, settings.extra, cluster)), name or self._application, 10.0)
        self._made.append(store)
        return store

    def run(self, body: Coroutine[Any, Any, None]) -> None:
        async def main() -> None:
            try:
                await body
            finally:
                for store in self._made:
                    await store.close()
                self._made.clear()

        asyncio.run(main())


@pytest.fixture
def opened(redis_server: RedisServer, application: str) -> Opened:
    return Opened(redis_server.url, application)


@pytest.fixture
def flags(redis_server: RedisServer, application: str) -> list[str]:
    return ["--redis", redis_server.url, "--application", application, "--brokers", "127.0.0.1:1"]


@asynccontextmanager
async def at_work(lives: list[Life]) -> AsyncIterator[None]:
    """Meanwhile their customers go on changing."""

    async def go_on() -> None:
        while True:
            for life in lives:
                await life.step()
            await asyncio.sleep(0.002)

    working = asyncio.create_task(go_on())
    try:
        yield
        assert not working.done(), "the commits went on to the end"
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


async def taken(store: Store, partitions: int = PARTITIONS) -> list[Frame]:
    frames: list[Frame] = []
    await take([(store, Layout(partitions, "record"))], frames.append, lambda _: None)
    return frames


# ---- taking


def test_each_partition_is_as_it_stood_at_one_commit_while_customers_change(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "CHUNK", 20)  # many readings, between which much changes

    async def body() -> None:
        store, reader = opened(), opened()
        lives = [await Life.begin(store, n, 300) for n in range(PARTITIONS)]
        before = [life.commits for life in lives]
        async with at_work(lives):
            frames = await taken(reader)
        begun, states = gathered(frames)
        assert sorted(begun) == [0, 1]
        for life, first in zip(lives, before, strict=True):
            assert life.commits > first + 5, "too little changed meanwhile for this to show anything"
            begin, state = begun[life.number], states[life.number]
            assert state == life.at[begin.meta[b"ver"]]
            assert (begin.hot, begin.cold, begin.due) == (len(state.hot), len(state.cold), len(state.due))
            assert begin.gone == len(state.gone)
            assert not await reader.redis.exists(reader.aside(life.number)), "nothing is put aside any more"

    opened.run(body())


def test_messages_that_left_meanwhile_are_not_in_it_and_those_that_came_meanwhile_neither(
    opened: Opened,
) -> None:
    async def body() -> None:
        store = opened()
        life = await Life.begin(store, 0, 10)
        for _ in range(5):
            await life.step()
        frames: list[Frame] = []
        begun = asyncio.Event()

        def write(frame: Frame) -> None:
            frames.append(frame)
            begun.set()

        waiting = await store.outbox(life.lease, 10)

        async def meanwhile() -> None:
            await begun.wait()
            await store.trim(life.lease, [waiting[0][0]])
            await life.step()

        task = asyncio.create_task(meanwhile())
        await take([(opened(), Layout(1, "record"))], write, lambda _: None)
        await task
        kept = [unpack(raw) for frame in frames if isinstance(frame, backup.Out) for _, raw in frame.entries]
        whole = [message for _, message in waiting]
        assert kept in (whole, whole[1:])

    opened.run(body())


def test_what_was_put_aside_and_is_lost_makes_it_begin_the_partition_again(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "CHUNK", 20)

    async def body() -> None:
        store, reader = opened(), opened()
        life = await Life.begin(store, 0, 300)
        frames: list[Frame] = []
        begun = asyncio.Event()

        def write(frame: Frame) -> None:
            frames.append(frame)
            if len(frames) == 3:
                begun.set()

        async def lose() -> None:
            await begun.wait()
            await store.redis.unlink(store.aside(0))

        task = asyncio.create_task(lose())
        async with at_work([life]):
            await take([(reader, Layout(1, "record"))], write, lambda _: None)
        await task
        assert sum(isinstance(frame, Begin) for frame in frames) == 2
        partitions, states = gathered(frames)
        assert states[0] == life.at[partitions[0].meta[b"ver"]]

    opened.run(body())


def test_a_worker_that_puts_nothing_aside_is_noticed(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "CHUNK", 20)
    monkeypatch.setattr(backup, "ATTEMPTS", 1)

    async def body() -> None:
        store, reader = opened(), opened()
        life = await Life.begin(store, 0, 300)
        # As the scripts of releases before this one.
        monkeypatch.setattr(store, "aside", lambda number: store.keys(number)[0] + ":nowhere")
        vars(store)["_with_aside"].clear()
        with pytest.raises(BackupFailed, match="older release"):
            async with at_work([life]):
                await take([(reader, Layout(1, "record"))], lambda _: None, lambda _: None)

    opened.run(body())


def test_two_backups_at_once_do_not_spoil_each_other(opened: Opened) -> None:
    async def body() -> None:
        store = opened()
        await Life.begin(store, 0, 10)
        await store.redis.hset(store.aside(0), "#token", "another's")
        with pytest.raises(BackupFailed, match="Another backup"):
            await taken(store, 1)
        assert await store.redis.hget(store.aside(0), "#token") == b"another's"

    opened.run(body())


def test_half_of_a_lost_commit_is_not_kept(opened: Opened) -> None:
    async def body() -> None:
        store = opened()
        await Life.begin(store, 0, 10)
        await store.redis.hincrby(store.keys(0)[0], "begun", 1)
        with pytest.raises(BackupFailed, match="0005"):
            await taken(store, 1)

    opened.run(body())


def test_a_redis_that_would_run_full_ends_the_backup_and_not_the_workers(
    own_redis: Callable[..., RedisServer],
) -> None:
    server = own_redis(settings={"maxmemory": "8mb"})
    opened = Opened(server.url, "app")

    async def body() -> None:
        store = opened()
        life = await Life.begin(store, 0, 100)
        filler = 0
        while (await store.redis.info("memory"))["used_memory"] < 0.92 * 8 * 2**20:
            await store.redis.set(f"filler{filler}", b"x" * 50_000)
            filler += 1
        with pytest.raises(BackupFailed, match="maxmemory"):
            await taken(store, 1)
        assert not await store.redis.exists(store.aside(0))
        await life.step()

    opened.run(body())


# ---- the file


def a_file(application: str = "app") -> bytes:
    out = io.BytesIO()
    header = Header(
        application=application, taken="now", release="1", stores={application: Layout(1, "record")}
    )
    writer = Writer(out, header)
    writer.write(Begin(application, 0, {b"off:t": b"3", b"part": b"p"}, 2, 1, 1, 0, 0, 0))
    writer.write(backup.Hot([(b"a", b"1"), (b"b", b"2")]))
    writer.write(backup.Cold([(b"a", b"c")]))
    writer.write(backup.Due([(b"a", NOW)]))
    writer.write(backup.End())
    writer.close()
    return out.getvalue()


def test_a_file_says_of_itself_what_it_is() -> None:
    line = gzip.decompress(a_file()).partition(b"\n")[0]
    assert b'"format":"churnwatch backup"' in line
    assert b'"version":1' in line


def test_a_file_that_was_cut_off_anywhere_is_refused() -> None:
    whole = a_file()
    assert len(list(read(io.BytesIO(whole))[1])) == 5
    for length in range(len(whole)):
        with pytest.raises(Damaged):
            list(read(io.BytesIO(whole[:length]))[1])


def test_a_file_in_which_a_byte_has_changed_is_refused() -> None:
    content = gzip.decompress(a_file())
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x20
        with pytest.raises(Damaged):
            list(read(io.BytesIO(gzip.compress(bytes(changed))))[1])


def test_a_file_of_a_later_version_is_refused_with_the_release_that_wrote_it() -> None:
    content = gzip.decompress(a_file()).replace(b'"version":1', b'"version":9')
    with pytest.raises(Damaged, match=r"version 9.*use the release that wrote it"):
        read(io.BytesIO(gzip.compress(content)))


def test_a_file_appears_whole_under_its_name_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "shop.backup"

    def interrupted() -> None:
        with backup.whole(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
    with backup.whole(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["shop.backup"]


# ---- the commands


async def some_life(store: Store, generation: int = 5) -> list[Life]:
    assert await store.layout(Layout(PARTITIONS, "record"))
    lives = [await Life.begin(store, n, 200, generation) for n in range(PARTITIONS)]
    for life in lives:
        for _ in range(5):
            await life.step()
    await store.redis.xadd(store.parked(0), {"m": pack(Message("alerts", b"c2", b"large"))})
    return lives


async def wiped(store: Store) -> None:
    async for key in store.redis.scan_iter(match=f"*{store.application}*"):
        await store.redis.unlink(key)


def test_what_was_lost_comes_back_and_a_worker_of_any_generation_takes_it_over(
    opened: Opened, flags: list[str], churnwatch: CommandLine, tmp_path: Path
) -> None:
    lives: list[Life] = []

    async def live() -> None:
        store = opened()
        lives.extend(await some_life(store))
        trainer = opened(trainer_of(store.application))
        await trainer.layout(Layout(1, "record"))
        await Life.begin(trainer, 0, 7)

    opened.run(live())
    said = churnwatch(*flags, "backup", "shop.backup")
    assert (said.code, said.out) == (0, "")
    assert "2 partitions" in said.err
    path = tmp_path / "shop.backup"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert churnwatch(*flags, "backup", "shop.backup").code == 6

    checked = churnwatch(*flags, "restore", "--check", "shop.backup")
    assert checked.code == 0
    customers = sum(len(life.now.hot) for life in lives)
    assert f"2 partitions, record clock, {customers} customers, and the trainer" in checked.err

    # Into what is there already: refused, and nothing has changed.
    refused = churnwatch(*flags, "restore", "shop.backup")
    assert refused.code == 2
    assert "is not empty: nothing was changed" in refused.err

    async def lose_and_go_on() -> None:
        store = opened()
        waiting = await store.redis.xrange(store.keys(0)[4])
        await wiped(store)
        restored = await asyncio.to_thread(churnwatch, *flags, "restore", "shop.backup")
        assert restored.code == 0, restored.err
        assert f"{customers} customers in 2 partitions, 12 messages waiting to leave" in restored.out
        for life in lives:
            assert await stored(store, life.number) == life.now
        assert await store.redis.xrange(store.keys(0)[4]) == waiting
        assert await store.redis.xlen(store.parked(0)) == 1
        assert await store.layout() == Layout(PARTITIONS, "record")
        keys = [key async for key in store.redis.scan_iter(match=f"*{store.application}*")]
        assert all([await store.redis.ttl(key) == -1 for key in keys]), "nothing of it expires"
        assert not any(b":restor" in key for key in keys)
        # The worker of before is no owner any more; one in the first generation of a new group may claim.
        write = Write(partition=b"zombie", hot={b"c1": b"zombie"})
        assert await store.commit(lives[0].lease, lives[0].lease.version, "t", 99, write) is Outcome.STALE
        claimed = await store.claim(0, 1)
        assert isinstance(claimed, Claimed)
        assert claimed.offsets == {"t": lives[0].now.offset}
        assert not claimed.torn
        trainer = opened(trainer_of(store.application))
        assert len((await stored(trainer, 0)).hot) == 7
        assert await trainer.layout() == Layout(1, "record")

    opened.run(lose_and_go_on())


def test_a_backup_of_another_application_or_of_none_is_refused(
    flags: list[str], churnwatch: CommandLine, tmp_path: Path, application: str
) -> None:
    (tmp_path / "other").write_bytes(a_file("other"))
    said = churnwatch(*flags, "restore", "other")
    assert said.code == 2
    assert "--application other" in said.err
    (tmp_path / "none").write_bytes(b"something else")
    said = churnwatch(*flags, "restore", "none")
    assert said.code == 6
    assert "Nothing was changed" in said.err
    (tmp_path / "cut").write_bytes(a_file(application)[:-9])
    said = churnwatch(*flags, "restore", "cut")
    assert said.code == 6
    assert "cut off" in said.err
    assert churnwatch(*flags, "backup", "nothing.backup").code == 3
    assert not (tmp_path / "nothing.backup").exists()
    assert churnwatch(*flags, "restore", "missing").code == 6


def frames_of(application: str, cut: int | None = None) -> tuple[Header, Iterator[Frame]]:
    header, frames = read(io.BytesIO(a_file(application)))

    def some() -> Iterator[Frame]:
        for number, frame in enumerate(frames):
            if number == cut:
                raise Damaged("cut off")
            yield frame

    return header, some()


def test_a_restore_that_fails_while_loading_leaves_what_was_there(opened: Opened, application: str) -> None:
    async def body() -> None:
        store = opened()
        lives = await some_life(store)
        header, frames = frames_of(application, cut=3)
        stores = [store, opened(trainer_of(application))]
        with pytest.raises(Damaged):
            await Restoring(header, stores, NOBODY, replace=True).run(frames, lambda: None)
        assert await store.layout() == Layout(PARTITIONS, "record")
        for life in lives:
            assert await stored(store, life.number) == life.now
        keys = [key async for key in store.redis.scan_iter(match=f"*{application}*")]
        assert not any(b":restor" in key for key in keys)

    opened.run(body())


class Killed(BaseException):
    """The process is gone: nothing is tidied up."""


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], bool]:
    """From the so-manieth call to Redis on, the restore makes none; whether it came so far."""
    ask = Store.ask
    calls = 0

    async def counted(self: Store, name: str, call: Callable[[], Any]) -> Any:
        nonlocal calls
        calls += name == "restore"
        if name == "restore" and calls >= number:
            raise Killed
        return await ask(self, name, call)

    monkeypatch.setattr(Store, "ask", counted)
    return lambda: calls >= number


@pytest.mark.parametrize("replace", [False, True], ids=["into nothing", "in the place of another"])
def test_a_restore_killed_at_any_call_leaves_what_was_or_says_so_and_the_next_one_is_whole(
    opened: Opened, application: str, replace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        number = 0
        while True:
            number += 1
            store, trainer = opened(), opened(trainer_of(application))
            await wiped(store)
            lives = await some_life(store) if replace else []
            header, frames = frames_of(application)
            with monkeypatch.context() as patched:
                came = killed_at(patched, number)
                with suppress(Killed, restoring.Unsettled):
                    await Restoring(header, [store, trainer], NOBODY, replace=replace).run(
                        frames, lambda: None
                    )
            if not came():
                break
            layout = await store.layout()
            if layout is None:
                assert not replace
            elif layout.clock != RESTORING and layout.partitions == PARTITIONS:
                for life in lives:
                    assert await stored(store, life.number) == life.now
            elif layout.clock != RESTORING:
                assert (await stored(store, 0)).hot == {b"a": b"1", b"b": b"2"}
            # A minute later, for the lock of one that was killed.
            await store.redis.delete(f"{application}:restoring:lock")
            if layout is not None and layout.clock != RESTORING and layout.partitions == 1:
                continue  # it had come to its end
            header, frames = frames_of(application)
            await Restoring(header, [store, trainer], NOBODY, replace=replace).run(frames, lambda: None)
            state = await stored(store, 0)
            assert (state.hot, state.cold, state.due) == ({b"a": b"1", b"b": b"2"}, {b"a": b"c"}, {b"a": NOW})
            assert await store.layout() == Layout(1, "record")
            keys = [key async for key in store.redis.scan_iter(match=f"*{application}*")]
            assert len(keys) == 5, keys
        assert number > 15

    opened.run(body())


def test_customers_who_were_erased_since_do_not_come_back_and_who_came_back_before_stays(
    opened: Opened, application: str
) -> None:
    secret = "a secret of thirty-two characters"
    known = Forgotten(secret)

    def erased(customer: bytes, until: int) -> dict[bytes, Entry]:
        return {known.digest(customer): Entry(until, application, 0, "t", 1, 0, b"r")}

    async def body() -> None:
        store, trainer = opened(), opened(trainer_of(application))
        lives = await some_life(store)
        # c3 was erased before the backup, and bought again: what is known of c3 is what came afterwards.
        before = erased(b"c3", 5)
        for number in range(PARTITIONS):
            await store.redis.unlink(store.gone(number))
            await store.redis.hset(store.gone(number), mapping=packed(before, known.secret))
        frames = await taken(store)
        header = Header(
            application=application, taken="", release="", stores={application: Layout(PARTITIONS, "record")}
        )
        for entries in (before, erased(b"c1", 9), erased(b"c2", 9), erased(b"c50", 9)):
            for digest, entry in entries.items():
                known.learn(digest, entry)
        # What Redis has learned of it since must not hide it from the workers, who read the topic.
        await store.redis.hset(store.gone(0), mapping=packed(erased(b"c1", 9), known.secret))
        gone = {b"c1", b"c2", b"c50"}
        work = Restoring(header, [store, trainer], ErasedSince(known), replace=True)
        done = await work.run(iter(frames), lambda: None)
        assert done.erased == 2 * len(gone)
        for life in lives:
            state = await stored(store, life.number)
            assert not gone & (state.hot.keys() | state.cold.keys() | state.due.keys())
            assert state.hot.keys() == life.now.hot.keys() - gone
            assert await store.forgotten(life.number) == packed(before, known.secret)
            assert SECRET in await store.forgotten(life.number)
            assert not await store.redis.xlen(store.keys(life.number)[4]), "messages to erased customers"
        assert not await store.redis.xlen(store.parked(0)), "a message to an erased customer"

    opened.run(body())


def test_in_a_cluster_it_is_taken_and_brought_back_as_elsewhere(
    own_redis: Callable[..., RedisServer],
) -> None:
    nodes = [own_redis(settings={"cluster-enabled": "yes", "cluster-node-timeout": "2000"}) for _ in range(2)]
    clients: list[Any] = [node.client() for node in nodes]
    clients[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
    clients[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
    clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[1].port)
    wait_until(lambda: all("ok" in str(c.execute_command("CLUSTER", "INFO")) for c in clients), 30)
    opened = Opened(f"redis://127.0.0.1:{nodes[0].port}/0", "app")

    async def body() -> None:
        store, trainer = opened(cluster=True), opened(trainer_of("app"), cluster=True)
        lives = await some_life(store)
        layouts = {"app": Layout(PARTITIONS, "record")}
        out = io.BytesIO()
        writer = Writer(out, backup.header("app", layouts))
        async with at_work(lives):
            await take([(store, layouts["app"])], writer.write, lambda _: None)
        writer.close()
        out.seek(0)
        header, frames = read(out)
        work = Restoring(header, [store, trainer], NOBODY, replace=True)
        await work.run(frames, lambda: None)
        for life in lives:
            assert await stored(store, life.number) in life.at.values()

    opened.run(body())
    for client in clients:
        client.close()
