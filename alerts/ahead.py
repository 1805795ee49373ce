"""Looking ahead: at which instant of the grid a silent customer next has something to say.

While nothing happens to a customer its score is a function of time alone, so most looks can be seen to
change nothing before they are due. Of the coming instants of the grid only the first is kept at which a
decision may differ from what stands: a transition of an episode, a score that moved enough to be
written, an offer that may have become due. Never later than the naive look at every instant would have
found it, and at least once in every stretch of the grid (``Grid.coming``), so that a new policy or model
reaches everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alerts import bands
from alerts.decide import WARN_AT
from alerts.looks import Grid
from alerts.policy import Policy
from features import matrix
from features.customer import Customer
from features.shop import DAY
from features.standing import Standing
from models.churn import ChurnModel

NEVER = 2**62
"""An instant at which nothing is due."""


class Quiet(NamedTuple):
    """What is known of a customer from ``after`` on (microseconds). ``soon``: a look beside the grid, which an
    event has brought about (0: none); ``facts``: see ``features.matrix``; ``offer``: the earliest instant at
    which an offer may be due (see ``alerts.offers.earliest``; 0: never)."""

    customer: Customer
    facts: bytes
    standing: Standing
    stagger: int
    after: int
    soon: int
    offer: int


class Ahead:
    """The next look of many customers at once."""

    def __init__(self, policy: Policy, grid: Grid, model: ChurnModel) -> None:
        self._policy = policy
        self._grid = grid
        self._model = model

    def next(self, quiet: Sequence[Quiet]) -> list[int]:
        """The instant of each customer's next look, after its ``after``."""
        known = np.array(
            [
                (
                    q.customer.last_decisive + q.stagger,
                    q.after,
                    q.soon,
                    s.written,
                    s.written_band,
                    s.churn.band if s.churn else -1,
                    s.upsell.opened if s.upsell else -1,
                    q.offer or NEVER,
                    s.history,
                )
                for q in quiet
                for s in (q.standing,)
            ],
            dtype=np.float64,
        ).T
        chosen: list[int] = self.instants(matrix.table([q.facts for q in quiet]), known).tolist()
        return chosen

    def instants(
        self, rows: matrix.Floats, known: Sequence[matrix.Floats] | matrix.Floats
    ) -> NDArray[np.int64]:
        """As ``next``, of ``features.matrix.rows`` and what else is known, each one value for each customer: where
        the grid starts, ``after``, ``soon``, score and band that were written, band of the churn episode (-1: there
        is none), instant at which the upsell episode opened (-1), ``offer`` (``NEVER``), whether history decided."""
        policy = self._policy
        start, after, soon, written, written_band, held, offered, offer, history = known
        grid, ends = self._grid.coming(start.astype(np.int64), after.astype(np.int64))
        at = np.vstack([np.where(soon > 0, soon.astype(np.int64), grid[:1]), grid])

        x = matrix.at_instants(rows, at, self._model.needs)
        scores = self._model.score(x)
        churn = scores.churn
        open_episode = held >= 0
        band = band_of(churn, scores.alive, x.recency, policy, np.maximum(held, bands.LOW))
        rise = scores.rise
        warns = (band >= WARN_AT[policy.warn_at]) & (band < bands.LAPSED) & (rise >= policy.rise)
        says = np.where(open_episode, band != held, warns)
        says |= (band != written_band) | (np.abs(churn - written) >= policy.score_change)
        high = band >= bands.HIGH
        expires = high | (at - offered > policy.offer_days * DAY)
        says |= np.where(offered >= 0, expires, ~high & (at >= offer))
        # The first look after history, and the end of a stretch, are taken whatever they have to say.
        says |= history > 0
        says[1:] |= ends
        chosen: NDArray[np.int64] = np.where(says, at, NEVER).min(axis=0)
        return chosen


def band_of(
    churn: matrix.Floats,
    alive: matrix.Floats,
    recency: matrix.Floats,
    policy: Policy,
    held: matrix.Floats,
) -> matrix.Floats:
    """``alerts.bands.band`` for many."""
    lapsed = (recency > policy.lapsed_days) | (
        (alive < policy.lapsed_alive) & (recency > policy.lapsed_horizons * policy.horizon_days)
    )
    now = _plain(churn, policy)
    kept = np.minimum(held, _plain(churn + policy.hysteresis, policy))
    band: matrix.Floats = np.where(lapsed, float(bands.LAPSED), np.where(now < held, kept, now))
    return band


def _plain(churn: matrix.Floats, policy: Policy) -> matrix.Floats:
    band: matrix.Floats = np.where(
        churn >= policy.high, float(bands.HIGH), np.where(churn >= policy.medium, float(bands.MEDIUM), 0.0)
    )
    return band
