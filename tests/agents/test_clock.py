from __future__ import annotations

from agents.clock import (
    ALWAYS,
    NEARLY,
    PAUSE,
    SECOND,
    Fetches,
    View,
    caught_up,
    clock,
    everything_read,
    others_read_to,
)

NOW = 1_000 * SECOND
GRACE = 20 * SECOND


def read(fetched: int = NOW, last: int = 0) -> View:
    return View(applied=10, popped=10, at_end=True, fetched=fetched, last=last)


def unread(last: int, fetched: int = NOW) -> View:
    """Popped, but not applied yet."""
    return View(applied=10, popped=15, at_end=True, fetched=fetched, last=last)


def test_time_runs_to_the_last_fetch_where_everything_has_been_read() -> None:
    assert clock({"a": read(NOW - 3), "b": read(NOW - 7)}, Fetches(), NOW) == NOW - 7


def test_time_stands_at_the_last_event_of_a_topic_that_has_unread_ones() -> None:
    assert clock({"a": read(), "b": unread(last=NOW - 500)}, Fetches(), NOW) == NOW - 500
    behind = View(applied=10, popped=10, at_end=False, fetched=NOW, last=NOW - 900)
    assert clock({"a": read(), "b": behind}, Fetches(), NOW) == NOW - 900


def test_time_does_not_run_before_every_topic_was_fetched_once() -> None:
    assert clock({"a": read(), "b": read(fetched=0)}, Fetches(), NOW) == 0


def test_time_is_never_ahead_of_now() -> None:
    assert clock({"a": read(fetched=NOW + 5)}, Fetches(), NOW) == NOW


def test_a_pause_of_the_brokers_holds_the_clock_while_producers_deliver_late() -> None:
    fetches = Fetches().after({"a": read(NOW)}, 0)
    assert fetches.after({"a": read(NOW + PAUSE)}, GRACE).hold == NOW
    held = fetches.after({"a": read(NOW + PAUSE + 1)}, GRACE)
    assert held.hold == NOW + PAUSE + 1 + GRACE
    views = {"a": read(held.hold), "b": read(held.hold)}
    assert clock(views, held, held.hold - 1) == 0
    assert others_read_to(views, "a", held, held.hold - 1) == 0
    assert clock(views, held, held.hold) == held.hold


def test_the_first_fetch_after_a_claim_holds_the_clock_too() -> None:
    """Nobody knows whether the brokers were away before."""
    assert Fetches().after({"a": read(NOW)}, GRACE).hold == NOW + GRACE
    assert Fetches().after({"a": read(fetched=0)}, GRACE).hold == 0


def test_a_customer_is_advanced_as_far_as_every_other_topic_has_been_read() -> None:
    views = {"a": unread(last=5), "b": read(NOW - 3), "c": unread(last=NOW - 8)}
    assert others_read_to(views, "a", Fetches(), NOW) == NOW - 8
    assert others_read_to({"a": unread(last=5)}, "a", Fetches(), NOW) == ALWAYS


def test_everything_is_read_at_the_earliest_of_the_fetches_that_saw_the_end() -> None:
    assert everything_read({"a": read(NOW - 3), "b": read(NOW - 7)}) == NOW - 7
    assert everything_read({"a": read(), "b": unread(last=1)}) is None


def test_caught_up_is_what_was_read_to_its_end_or_nearly() -> None:
    assert caught_up({"a": read(), "b": read(last=NOW - 900 * SECOND)}, NOW)
    assert caught_up({"a": read(), "b": unread(last=NOW - NEARLY)}, NOW), "a topic in steady use"
    assert not caught_up({"a": read(), "b": unread(last=NOW - NEARLY - 1)}, NOW)
    assert not caught_up({"a": read(), "b": read(fetched=0)}, NOW), "nobody has looked yet"
