from __future__ import annotations

import math
import threading
import time

import pytest

from agents.demo.tempo import FASTEST, LEAD, LEAST, Tempo, comfortable
from features.shop import DAY

START = 20_000 * DAY


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def _missing(tempo: Tempo, days: float) -> bool:
    return tempo._missing(START + round(days * DAY)) > 0


def test_time_passes_as_fast_as_it_was_told_to() -> None:
    now = Hand()
    tempo = Tempo(2.0, now)
    tempo.wait(START, lambda: False)
    assert _missing(tempo, 1)
    now.seconds += 0.5
    assert not _missing(tempo, 1)
    assert _missing(tempo, 1.1)


def test_it_stands_still_while_paused_and_goes_on_where_it_was() -> None:
    now = Hand()
    tempo = Tempo(2.0, now)
    tempo.wait(START, lambda: False)
    tempo.pause()
    now.seconds += 1000
    assert _missing(tempo, 0.1)
    tempo.pause()
    assert _missing(tempo, 0.1)
    now.seconds += 0.05
    assert not _missing(tempo, 0.1)


def test_who_is_slower_than_the_clock_is_waited_for_and_need_not_make_up_for_it() -> None:
    now = Hand()
    tempo = Tempo(1.0, now)
    tempo.wait(START, lambda: False)
    now.seconds += 100
    tempo.wait(START + DAY, lambda: False)
    assert _missing(tempo, 2)


def test_faster_doubles_up_to_as_fast_as_it_goes_and_slower_halves_what_it_reached() -> None:
    tempo = Tempo(FASTEST / 2)
    tempo.faster()
    assert tempo.speed == FASTEST
    tempo.faster()
    assert tempo.speed == math.inf
    tempo.wait(START, lambda: False)
    tempo.wait(START + 900 * DAY, lambda: False)
    tempo.slower(measured=30.0)
    assert tempo.speed == 15.0
    for _ in range(20):
        tempo.slower(measured=0.0)
    assert 0 < tempo.speed < 1


def test_a_history_takes_about_a_minute_and_a_short_one_less() -> None:
    assert comfortable(START, START + 600 * DAY) == 10.0
    assert comfortable(START, START + 10 * DAY) == LEAST


def test_it_leads_in_fast_and_settles_unless_somebody_chose_a_speed() -> None:
    tempo = Tempo()
    tempo.set(LEAD, then=2.0)
    tempo.settle()
    assert tempo.speed == 2.0
    tempo.set(LEAD, then=2.0)
    tempo.faster()
    tempo.settle()
    assert tempo.speed == 2 * LEAD


@pytest.mark.parametrize("key", ["faster", "stop"])
def test_whoever_waits_hears_of_a_change_at_once(key: str) -> None:
    tempo = Tempo(1 / 16)
    stopped = threading.Event()
    tempo.wait(START, lambda: False)
    waiting = threading.Thread(target=tempo.wait, args=(START + DAY, stopped.is_set))
    waiting.start()
    began = time.monotonic()
    if key == "stop":
        stopped.set()
    else:
        tempo.set(math.inf)
    waiting.join(5)
    assert not waiting.is_alive()
    assert time.monotonic() - began < 2
