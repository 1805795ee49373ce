from __future__ import annotations

import random

from agents.demo.known import BANDS, Known, because, reasons
from agents.demo.messages import Bought, Ended, Logged, Measured, Message, Opened, Said
from features.shop import DAY
from streams.alerts import Offer, Reason
from tests.agents.demo_messages import alert, at, score, silence

HORIZON = 28 * DAY


def known(*messages: Message, days: float = 100) -> Known:
    model = Known(HORIZON)
    model.take([Opened(at(0), at(days), None), *messages])
    return model


def test_customers_in_each_band_are_counted_at_the_instants_of_their_scores() -> None:
    model = known(
        score("a", 1, 0.2, "low"),
        score("b", 1, 0.3, "low"),
        score("a", 10, 0.7, "medium"),
        score("a", 20, 0.9, "high"),
        score("b", 60, 0.95, "lapsed"),
        Measured(1.0, at(70), 10, 0, 2),
    )
    days = [0, 1, 9, 10, 20, 59, 60]
    assert model.bands_at([at(day) for day in days]) == [
        (0, 0, 0, 0),
        (2, 0, 0, 0),
        (2, 0, 0, 0),
        (1, 1, 0, 0),
        (1, 0, 1, 0),
        (1, 0, 1, 0),
        (0, 0, 1, 1),
    ]
    assert model.in_bands() == (0, 0, 1, 1)


def test_the_order_in_which_customers_arrive_makes_no_difference() -> None:
    dice = random.Random(3)
    lives = {
        f"c{n}": [
            score(f"c{n}", day, dice.random(), dice.choice(BANDS))
            for day in sorted(dice.sample(range(100), 8))
        ]
        for n in range(20)
    }
    days = [at(day) for day in range(0, 100, 7)]
    in_order = known(*(one for life in lives.values() for one in life)).bands_at(days)
    queues = [list(life) for life in lives.values()]
    mixed = []
    while queues:
        queue = dice.choice(queues)
        mixed.append(queue.pop(0))
        queues = [q for q in queues if q]
    assert known(*mixed).bands_at(days) == in_order


def test_what_is_sent_again_counts_once() -> None:
    model = known(score("a", 1, 0.2, "low"), score("a", 5, 0.7, "medium"), score("a", 1, 0.2, "low"))
    assert model.bands_at([at(6)]) == [(0, 1, 0, 0)]
    model.take([alert("a", 5), alert("a", 5)])
    assert model.counts["churn", "raised"] == 1
    assert len(model.raised) == 1


def test_rates_are_those_of_the_last_seconds() -> None:
    model = known(*(Measured(second, at(second * 10), second * 100, 3, 5) for second in range(8)))
    assert model.events_a_second() == 100
    assert model.days_a_second() == 10
    assert model.share == 0.7
    assert (model.events, model.lag, model.states) == (700, 3, 5)


def test_the_day_shown_never_goes_back_and_ends_at_the_end() -> None:
    model = known(Measured(1, at(10), 1, 0, 1), Measured(2, at(9), 1, 0, 1))
    assert model.at == at(10)
    model.take([Ended(60.0, 0)])
    assert (model.at, model.share) == (at(100), 1.0)


def test_an_episode_ends_with_its_own_last_transition() -> None:
    model = known(
        alert("a", 10),
        alert("a", 15, "resolved", opened=10),
        alert("a", 40),
        alert("a", 90, "expired", opened=40),
    )
    first, second = model.customers["a"].episodes
    assert (first.end, first.ended_at) == ("resolved", at(15))
    assert (second.end, second.ended_at) == ("expired", at(90))


def test_the_next_customer_to_follow_is_one_warned_of_with_a_rhythm_and_then_the_one_shown_longest_ago() -> (
    None
):
    regular = [Bought("regular", at(day)) for day in range(0, 40, 8)]
    short = [Bought("short", at(day)) for day in (0, 5, 10)]
    model = known(
        *regular,
        *short,
        Bought("once", at(3)),
        Measured(1, at(60), 9, 0, 3),
        *(alert(name, 60) for name in ("regular", "short", "once")),
    )
    assert model.next_story([]) == "regular"
    assert model.next_story(["regular"]) == "short"
    assert model.next_story(["regular", "short"]) == "regular"
    assert model.next_story(["short", "regular"]) == "short"
    assert known().next_story([]) is None


def test_of_many_warnings_the_most_telling_one_is_shown_and_offers_take_turns() -> None:
    model = known(*(Bought("often", at(day)) for day in range(9)), Bought("seldom", at(1)))
    offer = Offer(type="replenish", category="tea", reason="Buys tea about every 9 days, last 9 days ago.")
    upsell = alert("seldom", 20, kind="upsell", offers=(offer,))
    model.take([alert("seldom", 20), alert("often", 20), upsell])
    first = model.headlines.pick()
    assert first is not None
    assert first.customer == "often"
    model.take([alert("often", 30), alert("seldom", 30, kind="upsell", offers=(offer,))])
    second = model.headlines.pick()
    assert second is not None
    assert second.kind == "upsell"
    assert model.headlines.pick() is None
    # Both were shown of late; who was not comes before them.
    model.take([Bought("new", at(1)), alert("often", 60), alert("new", 60)])
    third = model.headlines.pick()
    assert third is not None
    assert third.customer == "new"


def test_reasons_are_short_and_give_the_value_and_what_is_usual() -> None:
    assert because(silence(64.0, 28.0)) == "silent 64 days (usual 28)"
    browsing = Reason(feature="browsing_30d", value=9.5, usual=15.0, contribution=-0.4, text="…")
    assert because(browsing) == "browsing 9.5 (usual 15.0)"
    complaint = "A complaint about the price has been open for 60 hours and is overdue."
    assert because(Reason(feature="open_complaints", value=1, usual=0.0, text=complaint)) == (
        "complaint about the price open 60 hours, overdue"
    )
    complaint = complaint.replace("60", "359")
    assert because(Reason(feature="open_complaints", value=1, usual=0.0, text=complaint)) == (
        "complaint about the price open 14 days, overdue"
    )
    lost = Reason(
        feature="said_lost", contribution=2.0, text="The customer said on May 1, 2026 that they are leaving."
    )
    assert because(lost) == "says that they are leaving"
    used = Reason(feature="use_30d", text="No use has been seen. Usual in this shop: 2.0.")
    assert because(used) == "no use has been seen"
    start = Reason(feature="base", value=0.4, contribution=-0.4, text="Starting point: 40%, the usual risk.")
    assert len(reasons(alert("a", 1, reasons=(lost, start)))) == 1, "where the score starts is no reason"
    three = alert("a", 1, reasons=(silence(64.0, 28.0), browsing, lost))
    assert reasons(three) == [("silent 64 days (usual 28)", 1.5), ("browsing 9.5 (usual 15.0)", -0.4)]


def test_what_is_said_and_logged_is_kept_a_little() -> None:
    model = known(*(Said(f"said {n}") for n in range(9)), *(Logged(f"logged {n}") for n in range(9)))
    assert (model.said[-1], model.logged[-1]) == ("said 8", "logged 8")
    assert len(model.said) < 9
