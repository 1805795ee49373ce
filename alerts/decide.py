"""Decide: episodes of churn and upsell, from a score to the transitions that it causes.

Pure functions over one customer. An episode opens once, moves between bands with hysteresis, and
ends by a purchase, by lapsing, or (upsell) by a purchase, a complaint or time.
"""

from __future__ import annotations

from typing import NamedTuple

from alerts import bands
from alerts.offers import Candidate, candidates
from alerts.policy import Policy, measure
from alerts.words import ENGLISH, Words
from features.cold import Cold
from features.customer import Customer
from features.matrix import Inputs
from features.shop import DAY
from features.standing import Episode, Standing
from streams.alerts import Kind
from streams.alerts import Transition as TransitionName

WARN_AT = {"medium": bands.MEDIUM, "high": bands.HIGH}


class Score(NamedTuple):
    """One customer's score: see ``models.churn.Scores``. It stands in ``row`` of the inputs ``x`` it follows from."""

    churn: float
    alive: float
    rise: float
    base: float
    contributions: tuple[float, ...]
    usual_days: float
    x: Inputs
    row: int


class Transition(NamedTuple):
    """One step of an episode: ``episode`` is the state after it (the closed one at its end)."""

    kind: Kind
    name: TransitionName
    episode: Episode
    band: int
    offers: tuple[Candidate, ...] = ()


def churn(
    standing: Standing, customer: Customer, score: Score, at: int, policy: Policy
) -> tuple[Episode | None, int, Transition | None]:
    """The churn episode after a decision, the customer's band, and the transition, if any.

    A warning needs the band and a clear rise since the last purchase; a customer who had a low
    chance to begin with is no news. No two episodes open at one instant: it is what names them.
    """
    episode = standing.churn
    silent_days = max(at - customer.last_purchase, 0) / DAY
    held = episode.band if episode else bands.LOW
    band = bands.band(score.churn, score.alive, silent_days, policy, held)
    if episode is None:
        warned = WARN_AT[policy.warn_at] <= band < bands.LAPSED and score.rise >= policy.rise
        if warned and at > standing.warned:
            opened = Episode(at, band, 1, customer.last_purchase)
            return opened, band, Transition("churn", "raised", opened, band)
        return None, band, None
    after = Episode(episode.opened, band, episode.ordinal + 1, episode.since)
    if customer.last_purchase > episode.since:
        band = bands.band(score.churn, score.alive, silent_days, policy)
        return None, band, Transition("churn", "resolved", after, band)
    if band == bands.LAPSED:
        return None, band, Transition("churn", "expired", after, band)
    if band > episode.band:
        return after, band, Transition("churn", "worsened", after, band)
    if band < episode.band:
        return after, band, Transition("churn", "improved", after, band)
    return episode, band, None


def upsell(
    standing: Standing,
    customer: Customer,
    cold: Cold,
    band: int,
    at: int,
    policy: Policy,
    words: Words = ENGLISH,
) -> tuple[Episode | None, Transition | None]:
    """The upsell episode after a decision and the transition, if any.

    An open complaint holds offers back and withdraws one that stands; so does a high risk of churn,
    which calls for another message.
    """
    episode = standing.upsell
    held_back = bool(customer.open_since) or band >= bands.HIGH
    if episode is not None:
        settled = customer.last_purchase > episode.since or at - episode.opened > policy.offer_days * DAY
        if held_back or settled:
            after = Episode(episode.opened, band, episode.ordinal + 1, episode.since, episode.offers)
            return None, Transition("upsell", "withdrawn", after, band)
        return episode, None
    if held_back or (standing.offered and at - standing.offered < policy.offer_pause_days * DAY):
        return None, None
    found = candidates(customer, cold, at, policy, words)
    if not found:
        return None, None
    opened = Episode(at, band, 1, customer.last_purchase, tuple(c.key for c in found))
    return opened, Transition("upsell", "raised", opened, band, tuple(found))


def action(
    transition: Transition,
    customer: Customer,
    policy: Policy,
    cause: str | None = None,
    tier: str | None = None,
) -> str | None:
    """The measure that the business's table has for a warning or offer; None for other transitions."""
    if transition.kind == "upsell":
        if transition.name != "raised":
            return None
        return policy.actions.get(f"upsell.{transition.offers[0].type}") or None
    if transition.name not in ("raised", "worsened"):
        return None
    stage = "first_order" if customer.orders == 1 else "repeat"
    waits = bool(customer.open_since)
    return measure(policy, bands.NAMES[transition.band], cause, stage, open_complaint=waits, tier=tier)
