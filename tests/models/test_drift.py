from __future__ import annotations

import msgspec
import numpy as np

from models.drift import KEPT, Watch
from models.snapshot import Drift

SIGNALS = ("input:recency", "error")
SIZE = 128


def blocks(n: int, recency: float = 30.0, seed: int = 1) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [np.vstack([random.exponential(recency, SIZE), random.normal(0.4, 0.1, SIZE)]) for _ in range(n)]


def test_what_does_not_move_is_not_told() -> None:
    watch = Watch()
    for at, block in enumerate(blocks(1_000)):
        assert watch.after(SIGNALS, block, at) == ()
    assert watch.moved == ()


def test_what_has_moved_is_told_once_with_its_means_and_watched_anew() -> None:
    watch = Watch()
    told: list[Drift] = []
    for at, block in enumerate([*blocks(60), *blocks(200, recency=45.0, seed=2)]):
        told += watch.after(SIGNALS, block, at)
    (drift,) = told
    assert drift.what == "input:recency"
    assert 60 < drift.at < 90
    assert abs(drift.before - 30.0) < 3.0
    assert abs(drift.after - 45.0) < 5.0
    assert watch.moved == (drift,)


def test_a_fall_is_told_as_well_as_a_rise() -> None:
    watch = Watch()
    told: list[Drift] = []
    for at, block in enumerate([*blocks(60), *blocks(60, recency=15.0, seed=2)]):
        told += watch.after(SIGNALS, block, at)
    assert [d.what for d in told] == ["input:recency"]


def test_a_shop_that_begins_to_send_something_is_no_alarm_without_end() -> None:
    watch = Watch()
    random = np.random.default_rng(3)
    told: list[Drift] = []
    for at in range(300):
        value = np.zeros(SIZE) if at < 50 else random.exponential(1.0, SIZE)
        told += watch.after(("input:browsed_30",), value[None, :], at)
    assert told == []


def test_only_the_newest_changes_are_remembered() -> None:
    watch = Watch()
    for n in range(3 * KEPT):
        for block in blocks(30, recency=10.0 if n % 2 else 90.0, seed=n):
            watch.after(SIGNALS, block, n)
    assert len(watch.moved) == KEPT
    assert [d.at for d in watch.moved] == sorted(d.at for d in watch.moved)


def test_a_watch_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    """Leans on what river's detector remembers: an upgrade that changes it fails here."""
    straight, stopped = Watch(), Watch()
    for at, block in enumerate(
        [*blocks(70), *blocks(70, recency=60.0, seed=2), *blocks(70, recency=20.0, seed=3)]
    ):
        one, other = straight.after(SIGNALS, block, at), stopped.after(SIGNALS, block, at)
        assert one == other
        if at % 7 == 0:
            stopped = Watch.restored(msgspec.msgpack.decode(msgspec.msgpack.encode(stopped.state())))
    assert stopped.moved == straight.moved != ()
    assert stopped.state() == straight.state()
