"""When a simulated customer buys, what goes wrong, and whether, when and why the customer leaves: the truth.

A life is drawn from a stream of its own; what it leaves behind in the feeds (``traces``) is drawn
from another. So the truth can be told without making a single event.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from agents.simulator.assumptions import (
    ARCHETYPES,
    CATALOGUE,
    REGION_SHARES,
    REGIONS,
    STORES_PER_REGION,
    TROUBLE_SHARES_ONLINE,
    TROUBLE_SHARES_STORE,
    TROUBLES,
    Archetype,
    Assumptions,
)
from agents.simulator.dice import Dice
from streams.events import ComplaintKind

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR

Why = Literal["product", "service", "price", "delivery", "competitor", "drift", "once"]
Handling = Literal["untold", "quick", "slow", "unsolved"]
CHANNELS = ("web", "app", "store")
FADING_GAPS = (1.5, 2.1)
FADING_BROWSING = (0.5, 0.2)


class Departure(msgspec.Struct, frozen=True):
    """A customer who left: the truth that no event states.

    ``at`` (microseconds since the Unix epoch) is when the customer made up their mind; nothing was
    bought from then on. ``why`` is the cause: ``drift`` is a lost rhythm without a cause, ``once`` a
    buyer who never meant to come back. ``signs_from`` is when the behaviour first changed; it is
    absent where the customer left without showing it.
    """

    customer: str
    at: int
    why: Why
    last_purchase: int
    signs_from: int | None = None

    @property
    def silent(self) -> bool:
        """Whether the customer left without showing it before."""
        return self.signs_from is None


class Trouble(NamedTuple):
    """Something that went wrong with a purchase, and how it was handled if the shop was told."""

    kind: ComplaintKind
    handling: Handling
    noticed: int


class Visit(NamedTuple):
    """A purchase and the time that follows it.

    ``until`` is the next purchase, the departure or the end. ``browsing`` is how much the customer
    looks around in that time, 1 being usual; ``fruitless`` says that only looking is left of it.
    """

    at: int
    until: int
    channel: str
    browsing: float
    fruitless: bool
    trouble: Trouble | None
    departure: Departure | None


class Person:
    """Who a customer is: drawn once, at the beginning of the customer's own stream."""

    __slots__ = (
        "archetype",
        "arrival",
        "categories",
        "channels",
        "customer",
        "cycles",
        "favourite_day",
        "gap",
        "hour",
        "kind",
        "member",
        "mood",
        "number",
        "price_level",
        "region",
        "store",
    )

    def __init__(self, number: int, arrival: int, dice: Dice, assumed: Assumptions) -> None:
        self.number = number
        self.customer = f"c{number:06d}"
        self.arrival = arrival
        self.archetype: Archetype = ARCHETYPES[dice.pick([each.share for each in ARCHETYPES])]
        draw = dice.uniform()
        self.kind: Literal["prospect", "once", "repeat"] = (
            "prospect"
            if draw < assumed.prospects
            else "once"
            if draw < assumed.prospects + assumed.once
            else "repeat"
        )
        self.gap = dice.lognormal(self.archetype.gap_days, assumed.gap_spread)
        self.hour = dice.normal(self.archetype.hours[0], 1.5)
        self.favourite_day = dice.pick(self.archetype.weekdays)
        favourite = dice.pick(self.archetype.channels)
        self.channels = [w + (2.0 if i == favourite else 0.0) for i, w in enumerate(self.archetype.channels)]
        region = dice.pick(REGION_SHARES)
        self.region = REGIONS[region]
        self.store = f"{self.region}-{1 + dice.below(STORES_PER_REGION)}"
        self.price_level = dice.lognormal(1.0, 0.25)
        self.mood = min(0.98, dice.normal(0.82, 0.08))
        self.member = dice.chance(assumed.members)
        self.categories: list[int] = []
        while len(self.categories) < self.archetype.categories:
            category = dice.below(len(CATALOGUE))
            if category not in self.categories:
                self.categories.append(category)
        self.cycles = [CATALOGUE[c].cycle_days * dice.lognormal(1.0, 0.25) for c in self.categories]


def whole_second(at: float) -> int:
    """The instant without its fraction of a second: shops' feeds carry none."""
    micros = int(at)
    return micros - micros % SECOND


def _settle(at: float, earliest: int, person: Person, dice: Dice, assumed: Assumptions) -> int:
    """Move a purchase to a day and an hour that the customer likes, never before ``earliest``."""
    day = int(at // DAY)
    if dice.chance(assumed.weekday_loyalty):
        # 1970-01-01 was a Thursday; the nearest favourite weekday is at most three days away.
        shift = (person.favourite_day - (day + 3) % 7 + 3) % 7 - 3
        day += shift
    hour = min(22.5, max(6.5, dice.normal(person.hour, person.archetype.hours[1])))
    settled = day * DAY + hour * HOUR
    while settled < earliest:
        settled += DAY
    return whole_second(settled)


def _trouble(at: int, channel: str, person: Person, dice: Dice, assumed: Assumptions) -> Trouble | None:
    if not dice.chance(assumed.trouble):
        return None
    shares = TROUBLE_SHARES_STORE if channel == "store" else TROUBLE_SHARES_ONLINE
    kind = TROUBLES[dice.pick(shares)]
    delay = {"delivery": dice.uniform(2, 5), "product": dice.uniform(0.5, 7)}.get(kind, dice.uniform(0.02, 1))
    # Whoever hears from the shop again before noticing has not had this trouble yet.
    noticed = whole_second(at + min(delay, 0.5 * person.gap) * DAY)
    handling: Handling = "untold"
    if dice.chance(assumed.complains):
        draw = dice.uniform()
        if draw < assumed.solved_quickly:
            handling = "quick"
        elif draw < assumed.solved_quickly + assumed.solved_slowly:
            handling = "slow"
        else:
            handling = "unsolved"
    return Trouble(kind, handling, noticed)


def live(person: Person, dice: Dice, end: int, assumed: Assumptions) -> Iterator[Visit]:
    """The purchases of a life, in order, until the customer leaves or the simulation ends."""
    if person.kind == "prospect":
        return
    leaves_after = {
        "untold": assumed.leaves_quiet,
        "quick": assumed.leaves_quick,
        "slow": assumed.leaves_slow,
        "unsolved": assumed.leaves_unsolved,
    }
    first = person.arrival + dice.exponential(assumed.first_purchase_days) * DAY
    at = _settle(first, person.arrival + 10 * MINUTE, person, dice, assumed)
    fading, fading_since = 0, 0
    while at < end:
        channel = CHANNELS[dice.pick(person.channels)]
        trouble = _trouble(at, channel, person, dice, assumed) if person.kind == "repeat" else None
        gap = max(0.4, dice.gamma(person.gap, person.archetype.regularity))
        if dice.chance(assumed.pause):
            gap *= assumed.pause_factor
        browsing = 1.0
        why: Why | None = None
        silent = dice.chance(assumed.silent)
        mind_made = 0.0
        signs_from: int | None = None

        if person.kind == "once":
            why, silent, mind_made = "once", True, at + HOUR
        elif trouble is not None and dice.chance(leaves_after[trouble.handling]):
            why = _why(trouble.kind)
            silent = silent and trouble.handling == "untold"
            mind_made = trouble.noticed + (dice.uniform(0, 1) if silent else dice.uniform(3, 12)) * DAY
            signs_from = trouble.noticed
        elif fading == len(FADING_GAPS):
            why, silent, mind_made = "drift", False, at + dice.uniform(0.2, 0.6) * person.gap * DAY
            signs_from = fading_since
        elif fading:
            gap *= FADING_GAPS[fading]
            browsing = FADING_BROWSING[fading]
            fading += 1
        else:
            why = _other_reason(gap, person, dice, assumed)
            if why == "drift" and not silent:
                # The rhythm is lost step by step: later and smaller purchases come before the end.
                why, fading = None, 1
                gap *= FADING_GAPS[0]
                browsing = FADING_BROWSING[0]
                fading_since = whole_second(at + person.gap * DAY)
            elif why is not None:
                spent = dice.uniform(0.05, 0.5) if silent else dice.uniform(0.4, 0.9)
                mind_made = at + spent * gap * DAY
                signs_from = whole_second(at + 0.1 * gap * DAY)

        if why is None:
            following = _settle(at + gap * DAY, at + 5 * HOUR, person, dice, assumed)
            yield Visit(
                at, min(following, end), channel, browsing, fruitless=False, trouble=trouble, departure=None
            )
            at = following
            continue
        leaves_at = max(whole_second(mind_made), at + HOUR)
        departure = Departure(person.customer, leaves_at, why, at, None if silent else signs_from)
        fruitless = not silent and why in {"price", "competitor"}
        if silent:
            browsing = 0.0 if why == "once" else 1.0
        elif fruitless:
            browsing = 2.0
        else:
            browsing = 0.2
        yield Visit(at, min(leaves_at, end), channel, browsing, fruitless, trouble, departure)
        return


def _why(kind: ComplaintKind) -> Why:
    match kind:
        case "product" | "price" | "delivery":
            return kind
        case _:
            return "service"


def _other_reason(gap: float, person: Person, dice: Dice, assumed: Assumptions) -> Why | None:
    """Whether the customer will not come back from the gap that begins, for a reason that no trouble gave."""
    price = assumed.leaves_price * person.archetype.price_leaver
    rates = (price, assumed.leaves_competitor, assumed.leaves_drift)
    if not dice.chance(-math.expm1(-sum(rates) * gap / 100.0)):
        return None
    reasons: tuple[Why, ...] = ("price", "competitor", "drift")
    return reasons[dice.pick(rates)]
