from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.engine import Engine
from alerts.partition import POISON_LEAST, VERSION, WINDOW, Ceiling, Partition, Poisoned, Window, unpack
from streams.topics import BROWSES, PURCHASES
from tests.application import Application, Log, day

MINUTE = 60_000_000


def poison(invalid: list[bool], batch: int) -> int | None:
    """The record at which a window, fed in batches, is poisoned."""
    window = Window()
    for first in range(0, len(invalid), batch):
        window, found = window.after(invalid[first : first + batch])
        if found is not None:
            return first + found
    return None


def naive(invalid: list[bool]) -> int | None:
    for place in range(len(invalid)):
        last = invalid[max(0, place + 1 - WINDOW) : place + 1]
        if sum(last) >= POISON_LEAST and sum(last) > len(last) / 2:
            return place
    return None


@pytest.mark.parametrize("batch", [1, 7, 500, 2_000])
@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([True] * 199, None),
        ([True] * 200, 199),
        ([False] * 500 + [True] * 499, None),
        ([False] * 500 + [True] * 500, None),
        ([False] * 500 + [True] * 501, 1_000),
        ([False] * 199 + [True] * 199 + [True], 398),
        ([False] * 200 + [True] * 200, None),
        ([False] * 200 + [True] * 201, 400),
        ([False, True] * 2_000, None),
        ([True, False] * 2_000, 398),
        ([True] * 150 + [False] * 5_000 + [True] * 500, None),
        ([True] * 150 + [False] * 5_000 + [True] * 501, 5_650),
    ],
)
def test_poison_is_more_than_half_and_at_least_200_of_the_last_1000(
    records: list[bool], expected: int | None, batch: int
) -> None:
    assert naive(records) == expected, "the naive count agrees"
    assert poison(records, batch) == expected


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.4, 0.6), st.sampled_from([1, 13, 500, 3_000]))
def test_the_window_equals_a_naive_count(seed: int, share: float, batch: int) -> None:
    random = Random(seed)
    invalid = [random.random() < share for _ in range(2_500)]
    assert poison(invalid, batch) == naive(invalid)


def test_a_window_counts_what_is_in_it_and_stays_small() -> None:
    window, _ = Window().after([True, False] * 3_000)
    assert window.seen == WINDOW
    assert window.invalid == WINDOW // 2
    assert len(window.bits) <= WINDOW // 8
    clean, _ = window.after([False] * WINDOW)
    assert clean == Window(WINDOW, b"")


def bad_log(valid: int, bad: int, value: bytes = b"{") -> Log:
    log = Log()
    for number in range(valid):
        log.view("ann", day(0) + number)
    for _ in range(bad):
        log.raw(BROWSES, b"ann", value)
    return log


@pytest.mark.parametrize("batch", [1, 7, 500, 2_000])
def test_the_worker_stops_before_the_batch_that_is_poisoned(batch: int) -> None:
    application = Application((BROWSES,), batch=batch)
    with pytest.raises(Poisoned) as raised:
        application.run(bad_log(100, 300).rows)
    poisoned = raised.value
    assert (poisoned.topic, poisoned.partition, poisoned.offset) == (BROWSES, 0, 299)
    assert (poisoned.invalid, poisoned.seen) == (200, 300), "what it was up to that record"
    assert "200 of the last 300 records of browses/0 up to offset 299 are invalid" in str(poisoned)
    assert "not_json" in str(poisoned)
    assert application.partition.applied.get(BROWSES, -1) < 299
    assert len(application.dead_letters()) <= 199


def test_what_the_operator_accepted_does_not_count_and_becomes_dead_letters() -> None:
    application = Application((BROWSES,), accepted={(BROWSES, 0): 350}).run(bad_log(100, 251).rows)
    assert len(application.dead_letters()) == 251
    application = Application((BROWSES,), accepted={(BROWSES, 0): 350})
    with pytest.raises(Poisoned) as raised:
        application.run(bad_log(100, 251 + 351 + 1).rows)
    assert raised.value.offset > 351 + 199
    other = Application((BROWSES,), accepted={(BROWSES, 1): 350, (PURCHASES, 0): 350})
    with pytest.raises(Poisoned):
        other.run(bad_log(100, 251).rows)


def test_the_window_is_stored_so_that_a_crash_loop_still_finds_poison() -> None:
    application = Application((BROWSES,), batch=50)
    rows = bad_log(0, 260).rows
    for first in range(0, 150, 50):
        application.run(rows[: first + 50])
        application.start()
    with pytest.raises(Poisoned):
        application.run(rows[:200])
    application.start()
    with pytest.raises(Poisoned):
        application.run(rows[:200])
    assert application.partition.applied == {BROWSES: 149}


def test_what_is_not_supported_yet_is_no_poison() -> None:
    value = b'{"type":"merge","id":"f","customer":"ann","into":"bob","time":"2026-01-01T00:00:00Z"}'
    application = Application((BROWSES,)).run(bad_log(0, 900, value).rows)
    assert application.counts["refused", "not_yet_supported"] == 900
    assert len(application.dead_letters()) == 900
    assert application.partition.windows[BROWSES].invalid == 0


def test_each_topic_has_its_own_window() -> None:
    application = Application((BROWSES, PURCHASES))
    log = Log()
    for number in range(150):
        log.raw(BROWSES, b"ann", b"{")
        log.raw(PURCHASES, b"ann", b"{")
        log.purchase("ann", day(0) + number)
    application.run(log.rows)
    assert {name: (w.invalid, w.seen) for name, w in application.partition.windows.items()} == {
        BROWSES: (150, 150),
        PURCHASES: (150, 300),
    }


def test_clock_records_count_as_valid() -> None:
    log = bad_log(0, 150)
    for number in range(150):
        log.tick(day(number), (BROWSES,))
    application = Application((BROWSES,)).run(log.rows)
    assert application.partition.windows[BROWSES].seen == 300


# ---- the ceiling


def test_the_ceiling_admits_so_many_a_minute() -> None:
    ceiling = Ceiling({}, 2)
    assert [ceiling.admits(at) for at in (0, 1, MINUTE - 1, MINUTE, 2, MINUTE, MINUTE)] == [
        True,
        True,
        False,
        True,
        False,
        True,
        False,
    ]


def test_the_ceiling_counts_on_a_copy() -> None:
    minutes: dict[int, int] = {}
    ceiling = Ceiling(minutes, 5)
    ceiling.admits(0)
    assert minutes == {}
    assert ceiling.minutes == {0: 1}


def test_the_ceiling_forgets_the_oldest_minutes() -> None:
    ceiling = Ceiling({}, 1)
    for minute in range(10_000):
        assert ceiling.admits(minute * MINUTE)
    assert len(ceiling.minutes) == 4_096
    assert max(ceiling.minutes) == 9_999
    partition = Partition(minutes=ceiling.minutes)
    assert len(partition.pack()) < 45_000


# ---- as it is stored


def test_a_partition_survives_being_stored() -> None:
    window, _ = Window().after([True, False, True])
    partition = Partition(number=3, clock=5, ticks={"a": 1}, applied={"a": 9}, windows={"a": window})
    assert unpack(partition.pack(), 3) == partition
    assert unpack(None, 7) == Partition(number=7)


def test_a_partition_of_a_newer_version_is_refused() -> None:
    newer = msgspec.structs.replace(Partition(), version=VERSION + 1)
    with pytest.raises(ValueError, match="run the newer release"):
        unpack(newer.pack(), 0)


def test_an_engine_opens_what_another_stored() -> None:
    application = Application()
    log = Log()
    log.purchase("ann", day(0))
    log.tick(day(1))
    application.run(log.rows)
    engine: Engine = application.engine
    assert engine.open(application.partition.pack(), 0) == application.partition
