"""What other thresholds would have warned of: over a file that is replayed, or over what was recorded.

A replay decides everything anew, under each policy alike, and knows what became of every customer. Records
(``alerts``, ``decisions``, ``customer-scores``) know the decisions of the policy that made them, and of scores only
those that were written: what another policy would have said is therefore told as at least and at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from agents.backtest.run import Found
from agents.backtest.silences import Verdict
from alerts.policy import Policy, version
from features.shop import DAY
from streams.events import Micros

THRESHOLDS: Final = (
    "medium",
    "high",
    "warn_at",
    "rise",
    "hysteresis",
    "lapsed_alive",
    "lapsed_horizons",
    "lapsed_days",
)
"""What is shown of a policy, beside whatever else was proposed."""
FROM_RECORDS: Final = frozenset({"medium", "high", "warn_at"})
"""What can be proposed where there are only records, and only so that fewer are warned of: of those who were not
warned of nobody has written down how their score moved."""
HISTORY: Final = frozenset({"history", "silent"})
"""Why an alert was withheld that was never meant to be delivered."""

Band = Literal["medium", "high"]
BANDS: Final[tuple[Band, ...]] = ("medium", "high")


class Day(NamedTuple):
    """Warnings of one day (since 1970): raised in each band, and worsened from medium to high."""

    day: int
    medium: int
    high: int
    worsened: int


class Outcome(NamedTuple):
    """Of warnings whose outcome is known: how many, how many were right, and the median lead of these in days.
    ``recall``: the share of those who left that were warned of. None: not known."""

    known: int
    right: int
    precision: float | None
    recall: float | None
    lead: float | None


class Volume(NamedTuple):
    """The warnings of a policy over a stretch of days."""

    days: list[Day]
    outcome: Outcome | None

    @property
    def raised(self) -> int:
        """All that were raised."""
        return sum(day.medium + day.high for day in self.days)

    @property
    def worsened(self) -> int:
        """All that came from medium to high."""
        return sum(day.worsened for day in self.days)

    @property
    def per_day(self) -> float:
        """Raised on an average day."""
        return self.raised / max(len(self.days), 1)


class Bounds(NamedTuple):
    """Raised warnings, and customers who came to the high band, at least and at most."""

    raised: tuple[int, int]
    high: tuple[int, int]


def over(found: Found, last: int) -> Volume:
    """The warnings of a replay over its last days, and what became of all whose outcome it knows."""
    first = max(found.first, found.last - last + 1, found.judge.first)
    raised = [each for each in found.warned if each.step == "raised"]
    places = np.array([each.customer for each in raised], dtype=np.int64)
    when = np.array([each.day for each in raised], dtype=np.int64)
    verdict = found.judge.verdict(found.judge.silences.of(places, when), when)
    return Volume(
        _days(((each.day, each.band, each.step) for each in found.warned), first, found.last), _told(verdict)
    )


def _told(verdict: Verdict) -> Outcome:
    return Outcome(verdict.warnings, verdict.right, verdict.precision, verdict.recall, verdict.lead)


def _days(warned: Iterable[tuple[int, str, str]], first: int, last: int) -> list[Day]:
    counts = Counter((day, band if step == "raised" else step) for day, band, step in warned)
    return [Day(day, *(counts[day, what] for what in (*BANDS, "worsened"))) for day in range(first, last + 1)]


# ---- what was recorded


class Told(NamedTuple):
    """A transition of churn, or (``step`` empty) a score, as it was recorded: at an instant, of a customer."""

    at: Micros
    customer: str
    probability: float
    band: str
    step: str = ""
    withheld: str = ""


class Recorded(NamedTuple):
    """What the records say of a stretch of days: ``volume`` of the policies that decided then, ``bounds`` of
    what was asked; ``scores`` that were read, from ``first`` on."""

    volume: Volume
    bounds: Bounds
    today: Bounds
    scores: int


def tellable(today: Policy, proposed: Policy) -> bool:
    """Whether records can tell what was proposed: who is warned of then is warned of today."""

    def at(policy: Policy) -> float:
        return policy.high if policy.warn_at == "high" else policy.medium

    return at(proposed) >= at(today)


def recorded(told: Sequence[Told], today: Policy, proposed: Policy, first: int, last: int) -> Recorded:
    """From records in any order. ``first`` and ``last``: days since 1970, both included."""
    told = sorted(told, key=lambda each: (each.at, each.customer, each.step))
    began, ended = first * DAY, (last + 1) * DAY
    steps = [each for each in told if each.step and each.withheld not in HISTORY]
    inside = [each for each in steps if began <= each.at < ended and each.step in {"raised", "worsened"}]
    volume = Volume(
        _days(((each.at // DAY, each.band, each.step) for each in inside), first, last),
        _outcome(steps, round(today.horizon_days * DAY), ended, began),
    )
    return Recorded(
        volume,
        _bounds(told, today, proposed, began, ended),
        _bounds(told, today, today, began, ended),
        sum(not each.step for each in told),
    )


def _outcome(steps: Sequence[Told], horizon: int, ended: int, began: int) -> Outcome:
    """Right is a warning that no purchase followed within the horizon; when the last purchase was, and so the lead,
    the records do not say."""
    open_: dict[str, int] = {}
    known = right = 0
    for each in steps:
        if each.step == "raised" and began <= each.at:
            open_[each.customer] = each.at
        elif each.step == "resolved" and (at := open_.pop(each.customer, None)) is not None:
            known += 1
            right += each.at - at > horizon
    late = sum(at + horizon < ended for at in open_.values())
    known, right = known + late, right + late
    return Outcome(known, right, right / known if known else None, None, None)


class _Episode:
    """A warning of the policy of the records while it stands: the highest probabilities that are known of it."""

    __slots__ = ("before", "highest", "live", "opened")

    def __init__(self, opened: Micros, live: bool) -> None:
        self.opened, self.live = opened, live
        self.before = self.highest = 0.0


def _bounds(told: Sequence[Told], today: Policy, asked: Policy, began: int, ended: int) -> Bounds:
    """A threshold above today's is passed within a warning that stands today, once in each. At least: it was
    raised in these days and is known to have come so high. At most: it may have; a score that was not written is
    within ``score_change`` of the one before."""
    warn = asked.high if asked.warn_at == "high" else asked.medium
    standing: dict[str, _Episode] = {}
    ours: list[_Episode] = []
    for each in told:
        if each.at >= ended:
            break
        if each.step == "raised":
            episode = standing[each.customer] = _Episode(each.at, each.withheld not in HISTORY)
            ours.append(episode)
        elif each.step in {"resolved", "expired"}:
            standing.pop(each.customer, None)
            continue
        elif each.customer not in standing:
            continue
        episode = standing[each.customer]
        if each.band != "lapsed":
            episode.highest = max(episode.highest, each.probability)
            if each.at < began:
                episode.before = episode.highest

    def counted(threshold: float) -> tuple[int, int]:
        least = sum(e.live and e.opened >= began and e.highest >= threshold for e in ours)
        most = sum(e.before < threshold <= e.highest + today.score_change for e in ours)
        return least, most

    return Bounds(counted(warn), counted(max(warn, asked.high)))


# ---- as plain data


def shown(policy: Policy, more: Iterable[str] = ()) -> dict[str, Any]:
    """A policy's thresholds, and its version."""
    names = dict.fromkeys((*THRESHOLDS, *more))
    return {"version": version(policy)} | {name: getattr(policy, name) for name in names}


def plain(volume: Volume) -> dict[str, Any]:
    """A volume under the names of ``--json``."""
    said: dict[str, Any] = {
        "warnings": volume.raised,
        "warnings_per_day": round(volume.per_day, 3),
        "raised": {band: sum(getattr(day, band) for day in volume.days) for band in BANDS},
        "worsened": volume.worsened,
        "days": [
            {"day": iso(day.day), "medium": day.medium, "high": day.high, "worsened": day.worsened}
            for day in volume.days
        ],
    }
    if volume.outcome is not None:
        of = volume.outcome
        said["outcome"] = {
            "known": of.known,
            "right": of.right,
            "precision": _rounded(of.precision),
            "recall": _rounded(of.recall),
            "median_lead_days": of.lead,
        }
    return said


def iso(day: int) -> str:
    """A day since 1970 as ISO 8601."""
    return str(np.datetime64(day, "D"))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
