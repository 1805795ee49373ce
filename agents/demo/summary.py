"""What came of it: how many warnings were right, how early they came, and who was missed.

Everything is measured on the history itself, with the purchases that followed, and against the rule that a
shop has before it has churnwatch: warn of whoever is silent for longer than the horizon.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from bisect import bisect_right
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from agents.demo.known import Known
from features.shop import DAY, MICROS

MOST_PATIENCE = 8
"""Horizons up to which the rule's patience is tried."""
LAPSED_HORIZONS = 2
"""Horizons of silence at the end of the history after which a customer counts as having left."""


class Verdict(NamedTuple):
    """Of ``judged`` warnings (whose horizon had passed by the end) ``right`` were followed by no purchase
    within the horizon. ``early``: for each right one, the days by which it came before the rule would have
    warned, ascending; below 0 it came later."""

    judged: int
    right: int
    early: tuple[float, ...] = ()


class Missed(NamedTuple):
    """Of ``left`` customers who left, ``warned`` were warned of after their last purchase. Of the others
    ``once`` had bought on one day only, and ``late`` of the rest left within the last two horizons."""

    left: int
    warned: int
    once: int
    late: int
    known: bool


class Summary(NamedTuple):
    """All figures of the end. ``patience``: the days of silence that the rule would have to wait for to be
    right as often as the warnings were; None when no patience within ``MOST_PATIENCE`` horizons would do."""

    until: int
    customers: int
    purchases: int
    counts: tuple[str, ...]
    horizon_days: float
    ours: Verdict
    rule: Verdict
    patience: int | None
    missed: Missed


def summarise(known: Known) -> Summary:
    """The figures as of what has been applied so far."""
    until = known.at
    bought = {
        name: times
        for name, customer in known.customers.items()
        if (times := sorted(customer.bought_until(until)))
    }
    counts = []
    for kind in dict.fromkeys(kind for kind, _ in sorted(known.counts)):
        steps = sorted((step, number) for (of, step), number in known.counts.items() if of == kind)
        counts.append(f"{kind}: " + ", ".join(f"{number:,} {step}" for step, number in steps))
    ours = judged(known.raised, bought, known.horizon, until)
    return Summary(
        until=until,
        customers=known.states,
        purchases=sum(map(len, bought.values())),
        counts=tuple(counts),
        horizon_days=known.horizon / DAY,
        ours=ours,
        rule=judged_rule(bought, known.horizon, known.horizon, until),
        patience=patience(bought, known.horizon, until, ours),
        missed=missed(known, bought, until),
    )


def judged(
    raised: list[tuple[str, int]], bought: Mapping[str, list[int]], horizon: int, until: int
) -> Verdict:
    """The verdict on warnings (customer, instant) that are old enough by ``until``."""
    total = 0
    early = []
    for customer, at in raised:
        if at + horizon > until:
            continue
        total += 1
        times = bought.get(customer, [])
        following = bisect_right(times, at)
        if following == len(times) or times[following] > at + horizon:
            last = times[following - 1] if following else at
            early.append((last + horizon - at) / DAY)
    return Verdict(total, len(early), tuple(sorted(early)))


def judged_rule(bought: Mapping[str, list[int]], wait: int, horizon: int, until: int) -> Verdict:
    """The verdict on the warnings of a rule that waits so long: one in each silence that is longer."""
    return _judged_rule(_silences(bought, wait), wait, horizon, until)


def patience(bought: Mapping[str, list[int]], horizon: int, until: int, ours: Verdict) -> int | None:
    """See ``Summary``."""
    if not ours.judged:
        return None
    silences = _silences(bought, horizon)
    for days in range(horizon // DAY, MOST_PATIENCE * horizon // DAY + 1):
        rule = _judged_rule(silences, days * DAY, horizon, until)
        if rule.judged and rule.right * ours.judged >= ours.right * rule.judged:
            return days
    return None


def _silences(bought: Mapping[str, list[int]], longer: int) -> list[tuple[int, int | None]]:
    """The silences longer than so many microseconds: after which purchase, and which ended it, if any."""
    return [
        (last, following)
        for times in bought.values()
        for last, following in [*pairwise(times), (times[-1], None)]
        if following is None or following > last + longer
    ]


def _judged_rule(silences: list[tuple[int, int | None]], wait: int, horizon: int, until: int) -> Verdict:
    total = right = 0
    for last, following in silences:
        at = last + wait
        if (following is not None and following <= at) or at + horizon > until:
            continue
        total += 1
        right += following is None or following > at + horizon
    return Verdict(total, right)


def missed(known: Known, bought: Mapping[str, list[int]], until: int) -> Missed:
    """Who left, by the truth where it is known, else by silence until the end, and who of them was never
    warned of."""
    recent = until - LAPSED_HORIZONS * known.horizon
    if known.truth is None:
        left = {name for name, times in bought.items() if times[-1] <= recent}
    else:
        left = {name for name, gone in known.truth.items() if name in bought and gone.at <= until}
    warned = {name for name, at in known.raised if name in left and at > bought[name][-1]}
    rest = left - warned
    once = {name for name in rest if len({time // DAY for time in bought[name]}) == 1}
    late = sum(1 for name in rest - once if bought[name][-1] > recent)
    return Missed(len(left), len(warned), len(once), late, known.truth is not None)


def lines(known: Known) -> list[str]:
    """The summary for people."""
    found = summarise(known)
    days = f"{found.horizon_days:g}"
    said = []
    if known.ended is not None:
        said.append(
            f"Played in {known.ended.seconds:.0f} seconds: {found.customers:,} customers, "
            f"{found.purchases:,} purchases."
        )
        if known.ended.refused:
            said.append(f"Refused: {known.ended.refused:,} rows of the file.")
    else:
        said.append(
            f"Stopped at {day(found.until)}: so far {found.customers:,} customers, "
            f"{found.purchases:,} purchases."
        )
    said += [f"  {line}" for line in found.counts]
    ours, rule, gone = found.ours, found.rule, found.missed
    if not ours.judged:
        said.append(f"No warning is older than {days} days yet, so none can be judged.")
    else:
        said.append(
            f"Of {ours.judged:,} warnings old enough to judge, {ours.right:,} ({ours.right / ours.judged:.0%}) "
            f"were right: no purchase in the {days} days that followed."
        )
    if rule.judged:
        said.append(
            f"The rule “silent for longer than {days} days” would have warned {rule.judged:,} times, and "
            f"{rule.right:,} ({rule.right / rule.judged:.0%}) would have been right."
        )
    if len(ours.early) > 1:
        low, middle, high = quantiles(ours.early, n=4, method="inclusive")
        before = sum(1 for one in ours.early if one > 0)
        said.append(
            f"The right warnings came {_early(middle)} that rule (median; the middle half {_span(low, high)}); "
            f"{before / len(ours.early):.0%} of them came before it."
        )
        if found.patience is not None and found.patience > found.horizon_days:
            ahead = middle + found.patience - found.horizon_days
            said.append(
                f"To be right as often, the rule would have to wait for {found.patience} days of silence; the right "
                f"warnings came {_early(ahead)} that (median)."
            )
    if gone.left:
        who = (
            f"The simulator knows who left: {gone.left:,} customers"
            if gone.known
            else f"{gone.left:,} customers left (no purchase in the last {LAPSED_HORIZONS * found.horizon_days:g} days)"
        )
        never = gone.left - gone.warned
        parts = []
        if gone.once:
            parts.append(f"{gone.once:,} had bought on one day only")
        if gone.late:
            parts.append(f"{gone.late:,} left in the last {LAPSED_HORIZONS * found.horizon_days:g} days")
        why = f" ({', '.join(parts)})" if parts else ""
        said.append(f"{who}; {gone.warned:,} of them were warned of, {never:,} never{why}.")
    return said


NEXT = (
    ("make demo DATA=simulated", "a made-up shop: browsing, complaints, truth"),
    ("make demo DATA=groceries", "a grocery chain: offers by category"),
    ("make demo DATA=path/to/orders.csv", "your own"),
    ("make demo SERVERS=local", "on a real Apache Kafka and Redis"),
    ("{churnwatch} backtest path/to/orders.csv", "how right it would have been, on your own history"),
    ("{churnwatch} --help", "all it can do; README.md has the way"),
)
"""Commands to try next, and what they do."""


def next_lines() -> list[str]:
    """The commands to try next, for people."""
    commands = [(command.format(churnwatch=_program()), what) for command, what in NEXT]
    wide = max(len(command) for command, _ in commands)
    return ["Next:", *(f"  {command:<{wide}}  {what}" for command, what in commands)]


def _program() -> str:
    """How whoever has started us may start us again: ``make`` puts nothing on the PATH."""
    own = Path(sys.argv[0])
    if own.name != "churnwatch" or shutil.which("churnwatch"):
        return "churnwatch"
    with contextlib.suppress(ValueError):
        own = own.absolute().relative_to(Path.cwd())
    return str(own)


def day(at: int) -> str:
    """An instant as a day for people."""
    moment = datetime.fromtimestamp(at // MICROS, UTC)
    return f"{moment.day} {moment:%b %Y}"


def in_days(days: float) -> str:
    """A number of days for people."""
    return "1 day" if round(days) == 1 else f"{days:.0f} days"


def _early(days: float) -> str:
    if round(days) == 0:
        return "on the same day as"
    return f"{in_days(days)} before" if days > 0 else f"{in_days(-days)} after"


def _span(low: float, high: float) -> str:
    """From the one that came latest to the one that came earliest."""
    if low > 0:
        return f"{low:.0f} to {in_days(high)} before"
    if high < 0:
        return f"{-high:.0f} to {in_days(-low)} after"
    return f"from {in_days(-low)} after to {in_days(high)} before"
