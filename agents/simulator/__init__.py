"""A seeded shop whose truth is known: who was leaving, when and why.

    shop = simulate(seed=1)
    for event in shop:          # in order of time
        ...
    shop.truth["c000012"]       # a Departure; customers who stayed are not in it

The same arguments give the same events, byte for byte. Customer *n* of a seed has the same life
whatever the number of customers. What is assumed, and on what grounds, stands in
``docs/simulator.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from heapq import heappop, heappush, heapreplace

import numpy as np

from agents.simulator.assumptions import Assumptions
from agents.simulator.dice import Dice
from agents.simulator.life import DAY, HOUR, Departure, Person, live, whole_second
from agents.simulator.traces import Traces
from streams.events import Event, to_micros

__all__ = ["Assumptions", "Departure", "Shop", "simulate"]

START = datetime(2026, 1, 5, tzinfo=UTC)
_LIFE, _TRACES = 0, 1


class Shop:
    """A simulated shop; iterating plays it from its beginning, as often as one likes.

    Memory grows with the number of customers who are there at the same time, not with the events.
    """

    def __init__(
        self,
        seed: int,
        customers: int,
        days: int,
        start: datetime,
        assumptions: Assumptions,
        *,
        privacy: bool,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed {seed} is negative; allowed are 0 and above")
        if customers < 1 or days < 1:
            raise ValueError(f"{customers} customers over {days} days: both must be at least 1")
        if start.tzinfo is None:
            raise ValueError(f"start {start.isoformat()} has no time zone")
        self.seed = seed
        self.customers = customers
        self.days = days
        self.start = whole_second(to_micros(start))
        self.end = self.start + days * DAY
        self.assumptions = assumptions
        self.privacy = privacy

    def __iter__(self) -> Iterator[Event]:
        """Every event, in order of time."""
        coming = sorted(((at, number) for number, at in enumerate(self._arrivals())), reverse=True)
        here: list[tuple[int, int, Event, Iterator[tuple[int, Event]]]] = []
        while coming or here:
            # A customer enters memory on arrival; nothing of theirs is earlier.
            while coming and (not here or coming[-1][0] <= here[0][0]):
                arrival, number = coming.pop()
                traces = iter(self._traces(number, arrival))
                first = next(traces, None)
                if first is not None:
                    heappush(here, (first[0], number, first[1], traces))
            if not here:
                return
            _, number, event, traces = here[0]
            yield event
            following = next(traces, None)
            if following is None:
                heappop(here)
            else:
                heapreplace(here, (following[0], number, following[1], traces))

    @cached_property
    def truth(self) -> dict[str, Departure]:
        """Who had left by the end, by customer, in order of their numbers. Makes no events."""
        left = {}
        for number, arrival in enumerate(self._arrivals()):
            dice = Dice(self.seed, number, _LIFE)
            person = Person(number, arrival, dice, self.assumptions)
            for visit in live(person, dice, self.end, self.assumptions):
                if visit.departure is not None and visit.departure.at < self.end:
                    left[person.customer] = visit.departure
        return left

    def _traces(self, number: int, arrival: int) -> Traces:
        life = Dice(self.seed, number, _LIFE)
        person = Person(number, arrival, life, self.assumptions)
        dice = Dice(self.seed, number, _TRACES)
        return Traces(person, life, dice, self.end, self.assumptions, self.customers, self.privacy)

    def _arrivals(self) -> list[int]:
        """When each customer is first seen: more of them early, at an hour of the day."""
        draws = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed))).random(
            (self.customers, 2)
        )
        front = self.assumptions.acquisition_front
        return [
            whole_second(self.start + int(self.days * when**front) * DAY + (7 + 15 * hour) * HOUR)
            for when, hour in draws.tolist()
        ]


def simulate(
    seed: int = 1,
    customers: int = 2000,
    days: int = 180,
    start: datetime = START,
    assumptions: Assumptions | None = None,
    *,
    privacy: bool = False,
) -> Shop:
    """A shop of so many customers over so many days.

    ``privacy`` adds a few merges and requests to be forgotten. Raises ValueError for a negative
    seed, no customers, no days or a start without a time zone.
    """
    return Shop(seed, customers, days, start, assumptions or Assumptions(), privacy=privacy)
