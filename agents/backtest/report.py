"""What a backtest has found, as one document: ``report.json``.

``churn.all`` and ``churn.active`` hold the figures of each model, ``mean`` over the cut-offs and each of the
``cutoffs``; ``alerts`` says what the warnings were worth. Everything is plain data, and equal for equal input
but for ``run``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agents.backtest.cutoffs import figures
from agents.backtest.run import Found, Warned
from agents.backtest.silences import Judge, Verdict

Ints = NDArray[np.int64]

FORMAT: Final = 1
THRESHOLDS: Final = tuple(round(0.02 * step, 2) for step in range(5, 50))
"""The probabilities at which warnings are tried."""
PRECISION: Final = 0.7
"""At which the longest lead is compared, whatever the policy's thresholds say."""


def report(found: Found, name: str) -> dict[str, object]:
    """The document. ``name``: what the history is called."""
    horizon = found.asked.horizon
    return {
        "format": FORMAT,
        "history": {
            "name": name,
            "from": date(found.first),
            "to": date(found.last),
            "events": found.events,
            "customers": len(found.names),
        },
        "horizon_days": horizon,
        "activity": found.settings.learning.activity,
        "every_days": found.asked.every,
        "models": list(found.models),
        "churn": figures(found.cutoffs, found.models),
        "alerts": alerts(found),
        "learned": found.learned,
        "run": {
            "seconds": round(found.seconds, 3),
            "events_per_second": round(found.events / max(found.seconds, 1e-9), 1),
        },
    }


def alerts(found: Found) -> dict[str, object]:
    """The part about warnings: those of the policy, by band, and beside them the best limit on silence that is
    right as often, and warning everybody."""
    judge = found.judge
    raised = [each for each in found.warned if each.step == "raised"]
    ours = judge.verdict(*_places(judge, raised))
    limits = judge.limits()
    policy = found.settings.policy
    limit = first_right(limits, ours.precision)
    return {
        "from": date(judge.first),
        "to": date(judge.last),
        "silences": int(judge.judged.sum()),
        "lost": judge.losses,
        "active_customers": round(judge.active, 1),
        **told(ours),
        "by_band": {
            band: told(judge.verdict(*_places(judge, of))) for band, of in by_band(found.warned).items()
        },
        "silence_limit": None if limit is None else {"days": limit, **told(limits[limit])},
        "everyone": told(limits[0]),
        "at_precision": {f"{PRECISION:g}": at_precision(found, limits, PRECISION)},
        "thresholds": {
            "medium": policy.medium,
            "high": policy.high,
            "rise": policy.rise,
            "warn_at": policy.warn_at,
        },
        "curve": [
            {"threshold": t, **told(v)} for t, v in zip(THRESHOLDS, curve(found), strict=True) if v.warnings
        ],
        "limits": [{"days": days, **told(verdict)} for days, verdict in enumerate(limits)],
    }


def curve(found: Found, rise: float | None = None) -> list[Verdict]:
    """The verdict of each of ``THRESHOLDS``, with the rise in log-odds that the policy asks for, or another."""
    wanted = found.settings.policy.rise if rise is None else rise
    return found.heights[wanted].verdicts(found.judge, THRESHOLDS)


def _curve(found: Found, rise: float) -> list[dict[str, object]]:
    return [
        {"threshold": t, **told(v)} for t, v in zip(THRESHOLDS, curve(found, rise), strict=True) if v.warnings
    ]


def at_precision(found: Found, limits: Sequence[Verdict], precision: float) -> dict[str, object]:
    """The threshold (and the rise to ask for) with the longest lead that is right at least so often, and the
    shortest limit on silence that is."""
    best: tuple[float, float, Verdict] | None = None
    for rise in sorted(found.heights):
        verdicts = curve(found, rise)
        place = first_right(verdicts, precision)
        if place is not None and (best is None or (verdicts[place].lead or 0.0) > (best[2].lead or 0.0)):
            best = rise, THRESHOLDS[place], verdicts[place]
    limit = first_right(limits, precision)
    asked = curve(found)
    under = first_right(asked, precision)
    ours = best[2].lead if best else None
    theirs = limits[limit].lead if limit is not None else None
    return {
        "churnwatch": None if best is None else {"threshold": best[1], "rise": best[0], **told(best[2])},
        "under_the_policys_rise": None
        if under is None
        else {"threshold": THRESHOLDS[under], **told(asked[under])},
        "silence_limit": None if limit is None else {"days": limit, **told(limits[limit])},
        "lead_ratio": round(ours / theirs, 3) if ours and theirs else None,
    }


def first_right(verdicts: Sequence[Verdict], precision: float | None) -> int | None:
    """The first that is right at least so often: of rising thresholds or limits the one that warns most."""
    if precision is None:
        return None
    for place, verdict in enumerate(verdicts):
        if verdict.precision is not None and verdict.precision >= precision:
            return place
    return None


def by_band(warned: Sequence[Warned]) -> dict[str, list[Warned]]:
    """Warnings by the band they came to: a customer who was warned of in a lower one and got worse counts in
    both, in each when it came to it."""
    found: dict[str, list[Warned]] = {}
    for each in warned:
        found.setdefault(each.band, []).append(each)
    return {band: found[band] for band in ("medium", "high") if band in found}


def told(verdict: Verdict) -> dict[str, object]:
    """A verdict under the names of the document."""
    return {
        "warnings": verdict.warnings,
        "right": verdict.right,
        "precision": _rounded(verdict.precision),
        "recall": _rounded(verdict.recall),
        "median_lead_days": verdict.lead,
        "per_1000_customers_a_week": _rounded(verdict.weekly, 3),
    }


def weekly(
    warned: Sequence[Warned], first: int, last: int
) -> tuple[list[int], dict[str, list[int]], list[float]]:
    """The Mondays of a span (days), how many warnings each band raised in the week that follows each, and the
    revenue at risk in them."""
    mondays = list(range(first - (first + 3) % 7, last + 1, 7))
    counts: dict[str, Counter[int]] = {"medium": Counter(), "high": Counter()}
    money: dict[int, float] = {}
    for each in warned:
        if each.step != "raised":
            continue
        week = each.day - (each.day + 3) % 7
        counts.setdefault(each.band, Counter())[week] += 1
        money[week] = money.get(week, 0.0) + each.revenue
    return (
        mondays,
        {band: [of[monday] for monday in mondays] for band, of in counts.items()},
        [money.get(monday, 0.0) for monday in mondays],
    )


def _places(judge: Judge, warned: Sequence[Warned]) -> tuple[Ints, Ints]:
    customer = np.array([each.customer for each in warned], dtype=np.int64)
    day = np.array([each.day for each in warned], dtype=np.int64)
    return judge.silences.of(customer, day), day


def _rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else round(value, digits)


def date(day: int) -> str:
    """A day since 1970 as ISO 8601."""
    return str(np.datetime64(day, "D"))
