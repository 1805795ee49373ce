"""Brakes change what is delivered, never what is decided; and what they kept back is not delivered later."""

from __future__ import annotations

import random

import msgspec
import pytest

from alerts.brakes import KEPT, Board, Brakes, Pause, encode
from alerts.policy import Policy
from tests.application import Application, Crash, Log, Row, Seen, day
from tests.laws import mix


def pause(kind: str = "churn", **more: object) -> Pause:
    return msgspec.convert({"kind": kind, "paused_at": day(0), "clock": "record", **more}, Pause)


def shop() -> list[Row]:
    return mix.shop(5, only="purchases", history_days=40).rows


def bodies(application: Application) -> list[tuple[str, bytes]]:
    """What was decided, byte for byte, without the mark of what was not delivered."""
    found = []
    for seen in application.seen():
        data = msgspec.json.decode(seen.message.value or b"")
        data.pop("withheld", None)
        found.append((seen.alert.id, msgspec.json.encode(data)))
    return found


def marks(found: list[Seen]) -> dict[str, str | None]:
    return {seen.alert.id: seen.withheld for seen in found}


@pytest.mark.parametrize(
    "brakes", [Brakes((pause("churn"), pause("upsell"))), Brakes(shadow=True)], ids=["paused", "shadow"]
)
def test_what_is_decided_and_what_is_known_does_not_depend_on_brakes(brakes: Brakes) -> None:
    free, held = Application(batch=50), Application(batch=50)
    held.brake(brakes)
    free.run(shop())
    held.run(shop())
    assert bodies(held) == bodies(free)
    assert (held.hot, held.cold, held.due) == (free.hot, free.cold, free.due)
    assert free.seen(delivered=True), "there was something to keep back"
    assert not held.seen(delivered=True)
    why = "shadow" if brakes.shadow else "paused"
    kept = {identity for identity, mark in marks(held.seen()).items() if mark == why}
    assert kept == {identity for identity, mark in marks(free.seen()).items() if mark in {None, "ceiling"}}
    assert sum(n for key, n in held.counts.items() if key[0] == "alert" and key[3] == why) == len(kept)


def test_a_pause_is_of_its_kind() -> None:
    application = Application(batch=50)
    application.brake(Brakes((pause("upsell"),)))
    application.run(shop())
    delivered = {seen.alert.kind for seen in application.seen(delivered=True)}
    kept = {seen.alert.kind for seen in application.seen() if seen.withheld == "paused"}
    assert (delivered, kept) == ({"churn"}, {"upsell"})


def lapsing(log: Log) -> None:
    """Ann is warned of before day 150 and lapses by day 400."""
    log.purchase("ann", day(0))
    for number in range(1, 400):
        log.tick(day(number))


def test_what_a_pause_kept_back_is_not_delivered_later_and_what_follows_is() -> None:
    log = Log()
    lapsing(log)
    application = Application()
    application.brake(Brakes((pause(),)))
    application.run([row for row in log.rows if row.offset < 150])
    assert [(s.step, s.withheld) for s in application.seen()] == [("churn.raised", "paused")]
    ended = pause().resumed(day(149), {0: application.partition.clock})
    application.brake(Brakes((ended,)))
    application.run(log.rows)
    assert [(s.step, s.withheld) for s in application.seen()][-1] == ("churn.expired", None)
    assert application.steps(delivered=True).count("churn.raised") == 0


def test_what_is_decided_again_of_an_ended_pause_is_kept_back_again() -> None:
    log = Log()
    lapsing(log)
    application = Application()
    application.run([row for row in log.rows if row.offset < 10])
    backup, begin = application.stored(), application.partition.clock
    held = pause(begins={0: begin})
    application.brake(Brakes((held,)))
    application.run([row for row in log.rows if row.offset < 150])
    before = marks(application.seen())
    assert set(before.values()) == {"paused"}
    application.brake(Brakes((held.resumed(day(149), {0: application.partition.clock}),)))
    application.restore(backup)
    application.run(log.rows)
    again = marks(application.seen())
    assert {identity: again[identity] for identity in before} == before
    assert None in again.values()


def test_a_worker_that_was_behind_keeps_back_what_falls_into_a_pause_that_has_ended() -> None:
    held = pause(clock="wall", paused_at=day(10), begins={0: day(9)}).resumed(day(20), {})
    brakes = Brakes((held,))
    assert brakes.withhold("churn", 0, day(9.5)) == "paused", "its partition was a day behind"
    assert brakes.withhold("churn", 1, day(9.5)) is None
    assert brakes.withhold("churn", 1, day(15)) == "paused"
    assert brakes.withhold("churn", 0, day(20) + 1) is None
    assert brakes.withhold("upsell", 0, day(15)) is None


def test_of_a_record_clock_that_was_not_known_nothing_is_kept_back_after_the_pause() -> None:
    assert pause().holds(3, day(1))
    assert not pause().resumed(day(5), {3: day(5)}).holds(3, day(1))
    assert not pause(begins={3: day(0)}).resumed(day(5), {}).holds(3, day(1))
    assert pause(begins={3: day(0)}).resumed(day(5), {3: day(5)}).holds(3, day(1))


def test_across_crashes_every_alert_is_either_delivered_or_kept_back_and_none_is_lost() -> None:
    dice = random.Random(7)

    def crash(_: int) -> Crash:
        return dice.choice((None, None, None, "before", "after"))

    rows = shop()
    free = Application(batch=50).run(rows)
    application = Application(batch=50, crash=crash)
    cut = 3 * len(rows) // 4
    application.brake(Brakes((pause("churn"),)))
    assert application.run_through_crashes(rows[:cut]) > 5
    clock, before = application.partition.clock, len(application.seen())
    application.brake(Brakes((pause("churn", begins={0: 0}).resumed(1, {0: clock}),)))
    application.run_through_crashes(rows)
    assert bodies(application) == bodies(free)
    churn = [(seen.alert.kind, seen.withheld) for seen in application.seen()]
    assert ("churn", None) not in churn[:before]
    assert ("churn", "paused") in churn[:before]
    assert ("churn", "paused") not in churn[before:]
    assert ("churn", None) in churn[before:]


def test_what_is_paused_does_not_use_up_the_ceiling() -> None:
    application = Application(batch=50, policy=Policy(rise=0.8, deliver_per_minute=1))
    application.brake(Brakes((pause("churn"), pause("upsell"))))
    application.run(shop())
    assert application.partition.minutes == {}


# ---- the records


def test_a_pause_travels_as_it_is_and_its_record_removes_it() -> None:
    one, other = pause(reason="new prices"), pause("upsell", paused_at=day(1), begins={0: 5})
    board = Board()
    for each in (one, other):
        assert board.take(each.key, encode(each)) is None
    assert board.known() == Brakes((one, other))
    assert board.known().open() == [one, other]
    assert board.take(one.key, encode(one.resumed(day(2), {0: 9}))) is None
    assert board.known().open() == [other]
    assert board.take(one.key, None) is None
    assert board.known().pauses == (other,)
    assert Board(shadow=True).known() == Brakes(shadow=True)


@pytest.mark.parametrize("value", [b"{", b"[]", encode(pause()).replace(b'"format":1', b'"format":2')])
def test_a_record_that_is_no_pause_is_refused_in_words(value: bytes) -> None:
    board = Board()
    assert "churnwatch alerts pause" in (board.take(b"churn:1", value) or "")
    assert board.known() == Brakes()


def test_ended_pauses_beyond_those_that_are_kept_are_outdated_the_oldest_first() -> None:
    ended = tuple(pause(paused_at=n).resumed(n + 1, {}) for n in range(KEPT + 3))
    brakes = Brakes((*ended, pause(paused_at=KEPT + 9), pause("upsell", paused_at=1)))
    assert brakes.outdated("churn") == list(ended[:3])
    assert brakes.outdated("upsell") == []
