"""A small shop that has everything: every event type, re-sends, late events, invalid records, customers who
leave, complaints, carts and clock records once a day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from features.shop import DAY, HOUR
from streams import events as ev
from streams.topics import INPUTS, TOPIC_OF
from tests.application import START, Log

CATEGORIES = ("tea", "coffee", "milk", "bread", "soap")
STATUSES = ("answered", "resolved", "reopened", "closed")

INVALID = (
    b"{",
    b"",
    b'{"type":"purchase","id":"x"}',
    b'{"type":"nonsense","id":"x"}',
    b'{"type":"merge","id":"f","customer":"c0","into":"c1","time":"2026-01-01T00:00:00Z"}',
)


def shop(
    seed: int = 1,
    *,
    customers: int = 25,
    days: int = 90,
    only: str | None = None,
    history_days: int = 0,
    inputs: Sequence[str] = INPUTS,
) -> Log:
    """The log. The first ``history_days`` are marked as history, their clock records too."""
    random = Random(seed)
    arrivals: list[tuple[int, ev.Event]] = []
    for number in range(customers):
        arrivals += _life(random, f"c{number}", days, history_days)
    late = [(when + random.randrange(12 * DAY), event) for when, event in arrivals if random.random() < 0.04]
    again = [(when + random.randrange(3 * DAY), event) for when, event in arrivals if random.random() < 0.04]
    known = {id(event) for _, event in late}
    arrivals = [pair for pair in arrivals if id(pair[1]) not in known] + late + again
    # A topic is read in runs: half a day of one, then half a day of the next.
    arrivals.sort(key=lambda pair: (pair[0] // (12 * HOUR), only or TOPIC_OF[ev.type_name(pair[1])], pair[0]))
    log = Log(only)
    at = 0
    for number in range(days + 30):
        while at < len(arrivals) and arrivals[at][0] < START + (number + 1) * DAY:
            log.add(arrivals[at][1])
            at += 1
            if random.random() < 0.02:
                log.raw(random.choice(inputs), b"c0", random.choice(INVALID))
        # Sometimes a day is skipped, so that a clock record moves further at once.
        if random.random() < 0.8 or number > days:
            shuffled = list(inputs)
            random.shuffle(shuffled)
            log.tick(START + (number + 1) * DAY, shuffled, history=number < history_days)
    return log


def _life(random: Random, customer: str, days: int, history_days: int) -> list[tuple[int, ev.Event]]:
    """What one customer does: buys by an own rhythm until the day of leaving, and all else around it."""
    gap = random.choice((2.0, 4.0, 7.0, 12.0, 20.0))
    leaves = random.choice((days, days, days // 2, days // 3))
    events: list[tuple[int, ev.Event]] = []
    count = 0

    def leave(make: Callable[..., ev.Event], at: int, **fields: object) -> None:
        nonlocal count
        count += 1
        # Many things happen at one instant, as in files that know hours only.
        at -= (at - START) % (4 * HOUR)
        history = (at - START) // DAY < history_days
        event = make(
            id=f"{customer}-{count}", customer=customer, time=ev.to_datetime(at), history=history, **fields
        )
        events.append((at, event))

    now = START + random.randrange(10 * DAY)
    end = START + leaves * DAY
    while now < end:
        lines = tuple(
            ev.Line(
                amount=random.choice((0.0, 1.5, 9.99)),
                category=random.choice((*CATEGORIES, None)),
                sku=random.choice(("s1", None)),
            )
            for _ in range(random.choice((1, 1, 2, 3)))
        )
        leave(ev.Purchase, now, lines=lines, channel=random.choice(("web", "store")))
        roll = random.random()
        after = now + random.randrange(2 * DAY)
        if roll < 0.1:
            leave(ev.Return, after, lines=lines[:1])
        elif roll < 0.4:
            for _ in range(random.randrange(1, 6)):
                leave(ev.View, after + random.randrange(DAY), category=random.choice(CATEGORIES))
        elif roll < 0.5:
            leave(ev.Cart, after, action="add", sku=random.choice(("s1", "s2")), amount=3.0)
            if random.random() < 0.3:
                leave(ev.Cart, after + HOUR, action="remove", sku="s1")
        elif roll < 0.6:
            name = f"{customer}-{now}"
            leave(ev.Complaint, after, complaint=name, kind="service")
            for _ in range(random.randrange(3)):
                later = after + random.randrange(5 * DAY)
                leave(ev.ComplaintUpdate, later, complaint=name, status=random.choice(STATUSES))
        elif roll < 0.7:
            leave(ev.Inquiry, after, inquiry=f"q{now}")
            leave(ev.InquiryUpdate, after + HOUR, inquiry=f"q{now}", status="resolved")
            leave(ev.Survey, after + DAY, score=random.randrange(11), scale=10)
        elif roll < 0.75:
            leave(ev.CustomerLost, after)
        elif roll < 0.85:
            leave(ev.Search, after, query="tea")
            leave(ev.Checkout, after, amount=4.0)
            leave(ev.Review, after, rating=4)
            leave(ev.Use, after, duration=60)
        elif roll < 0.9:
            leave(ev.Referral, after)
            leave(ev.Profile, after, tier=("gold", "silver", None)[count % 3])
            leave(ev.Contact, after, kind="call")
            leave(ev.AlertFeedback, after, alert="a1", action="dismissed")
        now += round(gap * DAY * random.lognormvariate(0.0, 0.4))
    return events
