"""``churnwatch status`` with workers that run and that do not, on real servers and in words."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from rich.console import Console

from agents import cli
from agents.commands.shell import Failure
from agents.commands.status import described, screen
from agents.embedded import Embedded
from agents.findings import Level, bytes_of, lasting, numbered
from agents.overview import Group, Logs, Member, Newest, Overview, States, Stored, Watcher
from agents.settings import Clock, Kafka, Settings
from agents.status import troubles
from agents.store import Layout
from alerts.engine import FEATURES_VERSION, Engine
from alerts.partition import Partition, Window
from alerts.policy import Feeds, Policy
from features.shop import Shop
from models.learning import Learning
from models.snapshot import Known, Prior
from models.training import Trainer
from streams.events import rfc3339
from streams.topics import OUTPUTS
from tests.agents.shell import START, Shell, eventually
from tests.labels import HORIZON, labels
from tests.servers import KafkaServer, RedisServer, free_port

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000
NOW = 1_795_000_000 * SECOND


# ---- a group that runs


@pytest.fixture
def shop(
    kafka: KafkaServer,
    redis_server: RedisServer,
    prefix: str,
    application: str,
    topics: Callable[..., list[str]],
) -> Shell:
    topics("purchases", *OUTPUTS, partitions=2)
    return Shell(kafka.brokers, redis_server.url, application, prefix)


def engine(shell: Shell) -> Engine:
    return Engine(shell.application, shell.inputs, "record", Shop(), Policy(), Feeds(), Prior())


def flags(shell: Shell) -> list[str]:
    return [
        "--brokers", shell.brokers, "--redis", shell.redis_url, "--prefix", shell.prefix,
        "--application", shell.application, "--set", "kafka.inputs=purchases", "--set", "clock.mode=record",
    ]  # fmt: skip


def command(shell: Shell, *more: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("CHURNWATCH_")} | {"COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, "-m", "agents.cli", *flags(shell), "status", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env,
    )  # fmt: skip


def test_from_no_worker_to_one_that_has_applied_everything_and_back_to_none(shop: Shell) -> None:
    sent = shop.send("purchases", [f"c{n}" for n in range(40)])
    producer = shop.producer()
    producer.produce(f"{shop.prefix}purchases", b"{broken", b"c1")
    shop.tick("purchases", START, 2)
    assert producer.flush(10) == 0

    async def body() -> None:
        async with Watcher(shop.settings()) as watcher:
            seen = await watcher.look()
            assert seen.states == States(None, ())
            assert [(f.level, f.check) for f in troubles(seen)] == [(Level.WARNING, "layout")]
            async with shop.worker(core=engine(shop)):
                await eventually(lambda: sum(shop.offsets(2).values()) == sent + 3)
                await eventually(lambda: shop.waiting(2) == 0)
                seen = await watcher.look()
                assert seen.states is not None
                assert seen.logs is not None
                assert seen.logs.group is not None
                (member,) = seen.logs.group.members
                assert member.numbers == (0, 1)
                assert member.host == "127.0.0.1"
                assert sum(s.customers for s in seen.states.partitions) == 40
                assert [seen.lag(s) for s in seen.states.partitions] == [{"purchases": 0}] * 2
                assert {s.state.clock for s in seen.states.partitions if s.state} == {
                    int(START.timestamp()) * SECOND
                }
                (found,) = troubles(seen)  # nothing is wrong, and there is a dead letter
                assert found.check == "dead_letters"
                assert found.level is Level.NOTE
                assert "(not_json)" in found.found
                assert described(seen, [found])["healthy"] is True
            shop.send("purchases", ["c1", "c2", "c3"])
            seen = await watcher.look()
            (gone, *_) = troubles(seen)
            assert gone.level is Level.PROBLEM
            assert (
                gone.found == f"Redis is 3 records behind and no worker is in the group {shop.application}."
            )
            assert "churnwatch worker" in gone.do

    asyncio.run(body())
    said = command(shop, "--json", "--check")
    out, _ = said.communicate(timeout=60)
    assert said.returncode == 1
    whole = json.loads(out)
    assert whole["healthy"] is False
    assert sum(p["lag"]["purchases"] for p in whole["partitions"]) == 3
    assert whole["dead_letters"]["kept"] == 1
    said = command(shop)
    out, _ = said.communicate(timeout=60)
    assert said.returncode == 0
    assert "3 records behind" in out
    assert "nobody" in out


def test_watching_goes_on_until_it_is_interrupted_and_ends_cleanly(shop: Shell) -> None:
    watching = command(shop, "--watch", "--json", "--interval", "0.2")
    try:
        assert watching.stdout is not None
        looks = [json.loads(watching.stdout.readline()) for _ in range(3)]
        assert len({look["as_of"] for look in looks}) == 3
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=20)
    finally:
        watching.kill()
        watching.wait()
    assert watching.returncode == 0
    assert err == ""


def test_on_a_terminal_the_screen_is_drawn_in_place_and_ctrl_c_gives_it_back(shop: Shell) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    env = {k: v for k, v in os.environ.items() if not k.startswith("CHURNWATCH_")} | {"TERM": "xterm"}
    watching = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", *flags(shop), "status", "--watch", "--interval", "0.2"],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=env, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 -- one call, and then exec
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    asked = False
    try:
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # nobody is there any more
                break
            if not part:
                break
            drawn += part
            if not asked and drawn.count(b"knows no application") > 2:
                os.write(ours, b"\x03")
                asked = True
        assert watching.wait(20) == 0
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
    assert b"Traceback" not in drawn
    assert drawn.index(b"\x1b[?1049h") < drawn.index(b"\x1b[?1049l")  # another screen, and back


def test_a_member_that_does_nothing_is_noticed_by_what_stays_unread(shop: Shell) -> None:
    async def body() -> None:
        core = engine(shop)
        async with Watcher(shop.settings()) as watcher, shop.worker(core=core) as worker:
            await eventually(lambda: len(worker.ownership.numbers()) == 2)
            shop.send("purchases", ["c1"])
            await eventually(lambda: sum(shop.offsets(2).values()) == 1)
            async with worker.ownership.lock(0), worker.ownership.lock(1):
                shop.send("purchases", [f"c{n}" for n in range(10)])
                first, seen = await watcher.look_again(1.1)
                assert first is not None
                (found,) = (f for f in troubles(seen) if f.check == "moving")
                assert "10 records" in found.found
            await eventually(lambda: sum(shop.offsets(2).values()) == 11)
            seen = await watcher.look()
            assert not [f for f in troubles(seen) if f.check == "moving"]

    asyncio.run(body())


def test_what_waits_in_the_outbox_and_what_was_set_aside_is_told_with_its_age(shop: Shell) -> None:
    ago = int(time.time() * 1000) - 245_000
    with shop.redis() as client:
        client.set(f"{shop.application}:layout", msgspec.json.encode(Layout(2, "record")))
        for n in range(3):
            client.xadd(f"{{{shop.application}:p1}}:out", {"m": b"x"}, id=f"{ago + n}-0")
        client.xadd(f"{{{shop.application}:p0}}:parked", {"m": b"x"})

    async def body() -> Overview:
        async with Watcher(shop.settings()) as watcher:
            return await watcher.look()

    seen = asyncio.run(body())
    assert seen.logs is not None, str(seen.kafka_away)
    assert seen.logs.group is not None, seen.logs.no_group
    found = {f.check: f for f in troubles(seen)}
    assert found["outbox"].found == "The outbox of partition 1 has waited 4 minutes (3 messages)."
    assert "churnwatch worker" in found["outbox"].do
    assert found["parked"].found == "1 message of partition 0 is set aside."
    assert "max.message.bytes" in found["parked"].do


def test_what_is_wrong_with_the_settings_is_said_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--set", "redis.timeout=soon", "status"]) == 2
    assert "redis.timeout" in capsys.readouterr().err


def test_without_kafka_the_half_of_redis_is_shown_and_the_other_way_round(
    shop: Shell, tmp_path: Path
) -> None:
    with shop.redis() as client:
        client.set(f"{shop.application}:layout", msgspec.json.encode(Layout(2, "record")))
    kafka = msgspec.structs.replace(shop.settings().kafka, brokers=(f"127.0.0.1:{free_port()}",))
    redis = msgspec.structs.replace(shop.settings().redis, url=f"unix://{tmp_path}/none.sock")

    async def look(settings: Settings) -> Overview:
        async with Watcher(settings, patience=1.0) as watcher:
            return await watcher.look()

    no_kafka = asyncio.run(look(shop.settings(kafka=kafka)))
    assert no_kafka.logs is None
    assert no_kafka.states is not None
    assert troubles(no_kafka)[0].found.startswith("Kafka does not answer at")
    no_redis = asyncio.run(look(shop.settings(redis=redis)))
    assert no_redis.states is None
    assert no_redis.logs is not None
    assert "Redis does not answer at" in troubles(no_redis)[0].found
    for seen in (no_kafka, no_redis):
        assert text(seen)
        assert described(seen, troubles(seen))["healthy"] is False


def test_the_servers_of_the_demo_are_shown_but_for_who_reads(embedded: Embedded) -> None:
    embedded.touch(["purchases", *OUTPUTS])
    shell = Shell(embedded.brokers, embedded.redis_url, "demo", "")

    async def body() -> None:
        async with Watcher(shell.settings()) as watcher, shell.worker(core=engine(shell)):
            sent = shell.send("purchases", [f"c{n}" for n in range(20)])
            await eventually(lambda: sum(shell.offsets(4).values()) == sent)
            seen = await watcher.look()
            assert seen.logs is not None
            assert seen.logs.group is None
            assert seen.states is not None
            assert sum(s.customers for s in seen.states.partitions) == 20
            assert "20" in text(seen)
            assert {f.check for f in troubles(seen)} == {"clock"}  # no clock record was sent

    asyncio.run(body())


def test_a_dead_letter_that_came_since_the_last_look_is_the_newest(shop: Shell) -> None:
    producer = Producer({"bootstrap.servers": shop.brokers, "log_level": 0})

    def letter(reason: str, at: int) -> None:
        producer.produce(
            f"{shop.prefix}dead-letters",
            b"?",
            b"c",
            headers=[("churnwatch-error", reason.encode())],
            timestamp=at,
        )
        assert producer.flush(10) == 0

    async def body() -> None:
        async with Watcher(shop.settings()) as watcher:
            for n, reason in enumerate(("invalid", "unknown_currency")):
                letter(reason, int(time.time() * 1000) + n)
                seen = await watcher.look()
                assert seen.logs is not None
                assert seen.logs.letters == n + 1
                assert seen.logs.newest_letter is not None
                assert seen.logs.newest_letter.what == reason

    asyncio.run(body())


def test_a_feed_that_falls_silent_under_a_worker_is_told_and_taken_back_when_it_is_heard_again(
    shop: Shell,
) -> None:
    """Three weeks of traffic, and then clock records only."""
    names = [f"c{n}" for n in range(60)]
    sent = 0

    def day(number: int, *, silent: bool = False) -> None:
        nonlocal sent
        for hour in (8, 12, 16, 20) if not silent else ():
            sent += shop.send("purchases", names, at=START + timedelta(days=number, hours=hour))
        shop.tick("purchases", START + timedelta(days=number + 1), 2)
        sent += 2

    for number in range(21):
        day(number)

    async def body() -> None:
        async with shop.worker(core=engine(shop)), Watcher(shop.settings()) as watcher:

            async def told() -> list[str]:
                await eventually(lambda: sum(shop.offsets(2).values()) == sent and shop.waiting(2) == 0, 60)
                return [f.found for f in troubles(await watcher.look()) if f.check == "feeds"]

            assert await told() == []
            day(21, silent=True)
            (found,) = await told()
            assert found.startswith(f"Traffic on {shop.prefix}purchases is far below what is usual (")
            day(22)
            assert await told() == []

    asyncio.run(body())


# ---- words, of what a test does not wait for


def stored(number: int = 0, **more: Any) -> Stored:
    given: dict[str, Any] = {
        "number": number, "generation": 1, "worker": "w", "commit": "w.1", "applied": {"purchases": 10},
        "state": Partition(number=number, clock=NOW - SECOND, applied={"purchases": 9}), "unreadable": "",
        "customers": 5, "timers": 5, "due": 0, "oldest_due": NOW + SECOND, "waiting": 0, "waiting_since": 0, "parked": 0,
    }  # fmt: skip
    return Stored(**{**given, **more})


def overview(*partitions: Stored, members: tuple[Member, ...] | None = None, **more: Any) -> Overview:
    """A live group of which all is well, but for what is given."""
    partitions = partitions or (stored(0), stored(1))
    numbers = tuple(s.number for s in partitions)
    if members is None:
        members = (Member("w-1", "w", "host", numbers),)
    clock = more.pop("clock", "wall")
    settings = Settings(kafka=Kafka(inputs=("purchases",)), clock=Clock(mode=more.pop("mode", clock)))
    logs = Logs(
        {"purchases": more.pop("kafka_partitions", len(numbers))},
        {("purchases", n): 0 for n in numbers},
        {("purchases", n): more.get("end", 10) for n in numbers},
        Group(more.get("group_state", "stable"), "copartition", members),
        "",
        0,
        None,
        Newest(NOW, "churn.raised", "c1", {"policy": "p", "model": "prior-0"}),
    )
    return Overview(NOW, settings, logs, States(Layout(len(numbers), clock), partitions))


def said(seen: Overview) -> list[str]:
    return [f.found for f in troubles(seen)]


def text(seen: Overview) -> str:
    console = Console(width=120, no_color=True, soft_wrap=True)
    with console.capture() as capture:
        console.print(screen(seen, troubles(seen)))
    return capture.get()


def test_of_a_group_that_is_well_nothing_is_said() -> None:
    assert troubles(overview()) == []
    assert "Nothing is wrong." in text(overview())


def test_partitions_that_nobody_reads_are_named() -> None:
    parts = tuple(stored(n) for n in range(4))
    assert said(overview(*parts, members=(Member("w-1", "w", "h", (0, 1)),))) == [
        "Nobody reads partitions 2, 3, although 1 worker is in the group."
    ]


def test_workers_without_partitions_or_with_half_of_one_are_named() -> None:
    idle = (Member("w-1", "w", "h", (0, 1)), Member("w-2", "w", "h", ()))
    (found,) = troubles(overview(members=idle))
    assert (found.level, found.found) == (Level.NOTE, "1 worker has no partition.")
    half = (Member("w-1", "w", "h", (0, 1), (1,)),)
    assert said(overview(members=half)) == ["Of partition 1 one worker has not every input topic."]


def test_a_group_that_rebalances_is_no_fault() -> None:
    (found,) = troubles(overview(group_state="preparing_rebalancing"))
    assert found.level is Level.NOTE


def test_a_partition_that_was_assigned_and_not_claimed_is_noticed() -> None:
    for earlier in (-1, 4):
        seen = overview(stored(0, generation=5), stored(1, generation=earlier))
        assert said(seen) == ["Partition 1 is assigned, and not claimed in Redis since."]


def test_a_wall_clock_that_stands_and_timers_that_are_overdue_are_told_with_their_age() -> None:
    standing = stored(state=Partition(clock=NOW - 720 * SECOND))
    assert said(overview(standing)) == ["The clock of partition 0 stands 12 minutes in the past."]
    both = said(overview(standing, standing._replace(number=1)))
    assert both == ["The clocks of partitions 0, 1 stand in the past, the last by 12 minutes."]
    late = stored(due=3, oldest_due=NOW - 3600 * SECOND)
    assert said(overview(late)) == ["3 timers of partition 0 are due, the oldest for 60 minutes."]
    # Without a worker both are a matter of course, and only that is said.
    assert len(said(overview(standing, members=()))) == 1


def test_a_record_clock_that_has_not_begun_names_the_topic_it_waits_for() -> None:
    seen = overview(stored(state=Partition(applied={"purchases": 9})), clock="record")
    assert said(seen) == ["The clock of partition 0 has not begun: no clock record has come on purchases."]


def test_a_feed_that_fell_silent_is_told() -> None:
    assert said(overview(stored(silent=("purchases",)))) == [
        "Traffic on purchases is far below what is usual (partition 0)."
    ]


def test_many_invalid_records_are_told_before_the_worker_stops() -> None:
    window, _ = Window().after([n % 3 == 0 for n in range(600)])
    seen = overview(stored(state=Partition(clock=NOW, windows={"purchases": window})))
    assert said(seen) == ["200 of the last 600 records of purchases/0 are invalid."]


def test_state_and_settings_that_do_not_fit_are_told() -> None:
    assert said(overview(mode="record")) == [
        "The state was built with clock.mode = wall, the settings say record."
    ]
    assert said(overview(kafka_partitions=3)) == ["The state was built with 2 partitions, Kafka has 3."]
    assert said(overview(end=4))[0].startswith("Redis stands beyond the end of purchases/0 (applied up to 10")
    unreadable = stored(state=None, unreadable="version 9")
    assert said(overview(unreadable)) == ["The state of partition 0 cannot be read: version 9."]


def test_logs_that_this_user_may_not_see_are_named() -> None:
    seen = overview()
    assert seen.logs is not None
    hidden = seen._replace(logs=seen.logs._replace(ends={}, hidden=("purchases",)))
    assert said(hidden) == ["Kafka does not show the logs of purchases to this user."]


def test_the_worst_is_said_first() -> None:
    seen = overview(stored(parked=1), stored(1), mode="record", members=(Member("w", "w", "h", (0, 1, 2)),))
    assert [f.level for f in troubles(seen)] == [Level.PROBLEM, Level.WARNING]
    away = seen._replace(logs=None, kafka_away=Failure(5, "Kafka does not answer.", "why", "do"))
    assert troubles(away)[0].found == "Kafka does not answer."


def test_alerts_that_were_decided_by_other_settings_are_noticed() -> None:
    seen = overview()
    assert seen.logs is not None, str(seen.kafka_away)
    newest = Newest(NOW, "churn.raised", "c1", {"policy": "p", "model": "prior-7"})
    assert "model prior-7: other settings" in text(
        seen._replace(logs=seen.logs._replace(newest_alert=newest))
    )


def test_the_gate_is_shown_until_it_opens_and_before_any_label_that_there_is_not_enough_data() -> None:
    seen = overview()
    assert seen.logs is not None
    assert "score  statistical, by the prior prior-0: not enough data to have learned from yet" in text(seen)
    assert (
        "mature 28 days after a customer was looked at; the first snapshot is there 15 minutes later"
        in text(seen)
    )
    trainer = Trainer(Learning(publish_labels=256, gate=200), HORIZON, Prior(), FEATURES_VERSION)
    (young,) = (p.snapshot for p in trainer.learn(labels(256)).published)
    gate = young.leading.gate
    assert gate.until is not None
    seen = seen._replace(logs=seen.logs._replace(learned=Known((young,))))
    shown = text(seen)
    assert f"score  statistical, rhythm of snapshot {young.version}; not enough labels" in shown
    assert (
        f"{gate.churned} churned and {gate.stayed} stayed of 200 needed each; at the present pace it opens on"
        in shown
    )
    told = described(seen, [])["model"]
    assert told["gate"] == {
        "open": False, "needed": 200, "churned": gate.churned, "stayed": gate.stayed, "until": rfc3339(gate.until)
    }  # fmt: skip


def test_of_many_partitions_those_with_most_to_do_are_shown() -> None:
    parts = tuple(stored(n, waiting=n % 7, waiting_since=NOW) for n in range(60))
    shown = text(overview(*parts))
    assert "36 partitions with less to do are not shown" in shown
    assert len(shown.splitlines()) < 45


def test_numbers_durations_and_sizes_are_said_as_people_do() -> None:
    assert [numbered([3]), numbered([2, 3]), numbered([0, 1, 2, 5]), numbered([])] == [
        "partition 3", "partitions 2, 3", "partitions 0 to 2, 5", "partitions ",
    ]  # fmt: skip
    assert [lasting(s) for s in (1, 59, 119, 240, 7300, 200_000)] == [
        "1 second", "59 seconds", "119 seconds", "4 minutes", "2 hours", "2 days",
    ]  # fmt: skip
    assert [bytes_of(n) for n in (900, 1_234_000, 23_500_000_000)] == ["900 B", "1.2 MB", "23.5 GB"]


def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("status", "doctor"):
        assert cli.main([name, "--help"]) == 0
        assert f"churnwatch {name} --json" in " ".join(capsys.readouterr().out.split())
