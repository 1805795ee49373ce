"""What defines the shop's day and money: the same for every customer."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Shop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shop's calendar and currency.

    ``time_zone`` is an IANA name and defines the day (rhythm is measured between distinct
    shop-local purchase days). ``currency`` is the base currency (ISO 4217), ``minor_units`` its
    decimal places, ``rates`` what one unit of another currency is worth in the base currency, and
    ``rates_version`` names that table. ``closing_days`` are ISO dates on which no traffic is
    expected.
    """

    time_zone: str = "UTC"
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] = "USD"
    minor_units: Annotated[int, Meta(ge=0, le=4)] = 2
    rates: dict[str, Annotated[float, Meta(gt=0)]] = {}
    rates_version: str = "1"
    closing_days: tuple[str, ...] = ()
