"""Which horizon fits a shop: proposed from how long its customers let pass between purchases.

The rule. Of the purchase days that another one followed, three quarters had it within so many days; rounded to
whole weeks that is the horizon, but at least four weeks (less is a pause, and an offer takes its time), and at
most a quarter of the file (or nothing could be learned from it and tested on it). Long gaps are under way when
the file ends, so gaps are counted as survival times are (Kaplan and Meier, *Nonparametric estimation from
incomplete observations*, 1958), and those who never come again are left out of the share.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.prior import Purchases, TooLittle

SHARE: Final = 0.75
WEEK: Final = 7
LEAST: Final = 4 * WEEK
LEAST_GAPS: Final = 200
SHARES: Final = (0.25, 0.5, 0.75, 0.8, 0.9, 0.95)


class Suggestion(NamedTuple):
    """``days``: the horizon; ``rule``: what bounded it (``share``, ``least`` or ``span``). ``gaps``: gaps seen
    to their end; ``waiting``: silences that the file's end cuts off; ``returns``: the share of purchase days
    that another one follows sooner or later; ``within``: by share, the days within which so many of these had
    it; ``weeks``: the share of these that came in each week (the last entry: later)."""

    days: int
    rule: str
    gaps: int
    waiting: int
    returns: float
    within: dict[float, int]
    weeks: tuple[float, ...]


def suggest(purchases: Purchases) -> Suggestion:
    """The horizon for a shop's purchase days. Raises :class:`agents.prior.TooLittle`."""
    passed: list[int] = []
    open_: list[int] = []
    for bought in purchases.days.values():
        distinct = np.unique(bought)
        passed.extend(np.diff(distinct).tolist())
        open_.append(int(purchases.last - distinct[-1]))
    span = int(purchases.last - purchases.first)
    missing = []
    if len(passed) < LEAST_GAPS:
        missing.append(f"{len(passed):,} gaps between purchase days; it takes {LEAST_GAPS}")
    if span < 4 * LEAST:
        missing.append(f"{span:,} days from the first to the last event; it takes {4 * LEAST}")
    if missing:
        raise TooLittle(missing)
    come = _come(np.array(passed), np.array(open_))
    share = come / come[-1]
    within = {each: int(np.searchsorted(share, each - 1e-12)) for each in SHARES}
    wanted: int = max(round(within[SHARE] / WEEK), 1) * WEEK
    most: int = span // 4 // WEEK * WEEK
    days = min(max(wanted, LEAST), most)
    rule = "share" if days == wanted else "least" if days == LEAST else "span"
    bounds = np.minimum(np.arange(0, 27) * WEEK, len(share) - 1)
    weeks = [*np.diff(share[bounds]).tolist(), float(1.0 - share[bounds[-1]])]
    return Suggestion(days, rule, len(passed), len(open_), float(come[-1]), within, tuple(weeks))


def _come(passed: NDArray[np.int64], waiting: NDArray[np.int64]) -> NDArray[np.float64]:
    """By day, the share of purchase days that another one has followed by then."""
    longest = int(max(passed.max(), waiting.max()))
    ended = np.bincount(passed, minlength=longest + 1)
    gone = ended + np.bincount(waiting, minlength=longest + 1)
    at_risk = gone.sum() - np.concatenate([[0], np.cumsum(gone)[:-1]])
    return 1.0 - np.cumprod(1.0 - ended / np.maximum(at_risk, 1))
