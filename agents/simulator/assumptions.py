"""What the simulated shop assumes: its numbers, its kinds of customers and what it sells.

Where each number comes from stands in ``docs/simulator.md``; a test holds that page and this file
together.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from streams.events import ComplaintKind

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class Assumptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every number that may be turned. Shares are probabilities, times are days unless named otherwise."""

    # Coming
    acquisition_front: Positive = 1.6
    prospects: Share = 0.04
    once: Share = 0.16
    first_purchase_days: Positive = 2.0
    # Rhythm
    gap_spread: NotNegative = 0.35
    weekday_loyalty: Share = 0.5
    pause: Share = 0.02
    pause_factor: Positive = 2.5
    # Browsing
    views_per_session: Positive = 3.2
    sessions_per_purchase: NotNegative = 2.7
    search: Share = 0.4
    cart_in_session: Share = 0.55
    cart_removed: Share = 0.06
    checkout_left: Share = 0.3
    # Money
    discounted: Share = 0.18
    return_online: Share = 0.16
    return_store: Share = 0.09
    # Trouble, and what becomes of it
    trouble: Share = 0.04
    complains: Share = 0.5
    solved_quickly: Share = 0.45
    solved_slowly: Share = 0.3
    leaves_quiet: Share = 0.63
    leaves_unsolved: Share = 0.54
    leaves_slow: Share = 0.30
    leaves_quick: Share = 0.05
    # Other reasons to leave: chance per 100 days
    leaves_price: NotNegative = 0.04
    leaves_competitor: NotNegative = 0.05
    leaves_drift: NotNegative = 0.08
    silent: Share = 0.3
    says_lost: Share = 0.08
    # Talk
    survey: Share = 0.15
    survey_after_trouble: Share = 0.4
    review: Share = 0.06
    inquiry: Share = 0.07
    referral: Share = 0.012
    members: Share = 0.3
    uses_per_week: NotNegative = 1.2
    campaign_days: Positive = 30.0


class Archetype(msgspec.Struct, frozen=True):
    """A kind of customer.

    ``share`` among those who are neither prospects nor one-time buyers; ``gap_days`` the median
    over its customers of their mean time between purchases; ``regularity`` the shape of the gamma
    distribution of these times (1 is as irregular as chance, higher is steadier); ``lines`` the mean
    number of lines of a basket; ``hours`` the mean and spread of the hour of day; ``weekdays`` the
    weights from Monday to Sunday; ``channels`` the weights of web, app and store; ``bargains`` how
    much more often than others it buys at a discount; ``price_leaver`` how much more readily it
    leaves for the price; ``categories`` how many it buys from.
    """

    name: str
    share: float
    gap_days: float
    regularity: float
    lines: float
    hours: tuple[float, float]
    weekdays: tuple[float, ...]
    channels: tuple[float, float, float]
    bargains: float = 1.0
    price_leaver: float = 1.0
    categories: int = 3


STEADY_WEEK = (1.0, 1.0, 1.0, 1.0, 1.2, 1.6, 1.1)
WORKING_WEEK = (1.4, 1.5, 1.4, 1.3, 1.0, 0.1, 0.05)
WEEKEND = (0.5, 0.4, 0.4, 0.6, 1.2, 2.2, 1.4)

ARCHETYPES = (
    Archetype("household", 0.24, 9.0, 3.0, 4.0, (17.5, 2.2), WEEKEND, (0.25, 0.25, 0.5), categories=5),
    Archetype("regular", 0.33, 20.0, 2.2, 2.4, (19.0, 2.5), STEADY_WEEK, (0.5, 0.3, 0.2), categories=4),
    Archetype("occasional", 0.22, 40.0, 1.2, 1.6, (20.0, 2.5), STEADY_WEEK, (0.6, 0.2, 0.2), categories=2),
    Archetype("bargain", 0.15, 25.0, 1.0, 2.2, (21.0, 1.8), STEADY_WEEK, (0.5, 0.45, 0.05), 3.0, 3.0),
    Archetype("business", 0.06, 12.0, 4.0, 6.0, (10.5, 1.8), WORKING_WEEK, (0.85, 0.05, 0.1), 0.5, 1.5, 4),
)


class Category(msgspec.Struct, frozen=True):
    """What the shop sells of a kind: after ``cycle_days`` it is used up; ``price`` is the median of a piece."""

    name: str
    cycle_days: float
    price: float
    returned: float = 1.0
    skus: int = 40


CATALOGUE = (
    Category("coffee", 21, 11.9, 0.1),
    Category("pet_food", 28, 24.5, 0.1),
    Category("cleaning", 35, 8.4, 0.1),
    Category("cosmetics", 45, 18.9, 0.6),
    Category("vitamins", 30, 15.5, 0.2),
    Category("baby", 14, 21.0, 0.4),
    Category("stationery", 40, 9.5, 0.4),
    Category("books", 45, 16.0, 0.4),
    Category("toys", 75, 22.0, 0.8),
    Category("clothing", 60, 39.0, 3.0),
    Category("shoes", 120, 69.0, 3.0),
    Category("kitchen", 100, 34.0, 0.9),
    Category("garden", 90, 29.0, 0.7),
    Category("electronics", 200, 149.0, 1.3),
)

REGIONS = ("north", "south", "east", "west", "centre")
STORES_PER_REGION = 3
REGION_SHARES = (0.15, 0.2, 0.15, 0.2, 0.3)
COMPETITORS = ("Nordhandel", "Kaufhof24", "Blue Basket", "the discounter next door")
TROUBLES: tuple[ComplaintKind, ...] = ("delivery", "product", "service", "price", "other")
TROUBLE_SHARES_ONLINE = (0.40, 0.30, 0.15, 0.10, 0.05)
TROUBLE_SHARES_STORE = (0.0, 0.40, 0.40, 0.12, 0.08)
