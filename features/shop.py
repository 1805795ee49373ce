"""What defines the shop's day and money: the same for every customer."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta


class Shop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shop's calendar and currency.

    ``time_zone`` is an IANA name and defines the day (rhythm is measured between distinct
    shop-local purchase days). ``currency`` is the base currency (ISO 4217), ``minor_units`` its
    decimal places, ``rates`` what one unit of another currency is worth in the base currency, and
    ``rates_version`` names that table. ``closing_days`` are ISO dates on which no traffic is
    expected. ``locale`` is the language in which its staff read reasons.
    """

    time_zone: str = "UTC"
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] = "USD"
    minor_units: Annotated[int, Meta(ge=0, le=4)] = 2
    rates: dict[str, Annotated[float, Meta(gt=0)]] = {}
    rates_version: str = "1"
    closing_days: tuple[str, ...] = ()
    locale: Literal["en", "zh_Hans", "zh_Hant"] = "en"


MICROS = 1_000_000
HOUR = 3_600 * MICROS
DAY = 24 * HOUR
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0
_QUARTER = HOUR // 4


class Calendar:
    """Shop-local days and hours of instants (microseconds since the Unix epoch, UTC).

    Offsets are remembered per quarter of an hour, so that a shop with daylight saving costs no more
    than one without; only in a quarter within which the offset changes each instant is looked up.
    """

    def __init__(self, shop: Shop) -> None:
        self._zone = None if shop.time_zone == "UTC" else ZoneInfo(shop.time_zone)
        self._offsets: dict[int, int | None] = {}
        self.closed = frozenset(
            date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal() for day in shop.closing_days
        )

    def local(self, at: int) -> int:
        """The instant moved by the zone's offset, so that division by DAY gives the local day."""
        if self._zone is None:
            return at
        quarter = at // _QUARTER
        if quarter not in self._offsets:
            if len(self._offsets) > 100_000:
                self._offsets.clear()
            first, last = quarter * 900, quarter * 900 + 899
            offset = self._offset(first)
            self._offsets[quarter] = offset if offset == self._offset(last) else None
        known = self._offsets[quarter]
        return at + (self._offset(at // MICROS) if known is None else known)

    def _offset(self, second: int) -> int:
        """Microseconds that the zone is ahead of UTC at a second since the epoch."""
        ahead = datetime.fromtimestamp(second, self._zone).utcoffset()
        return 0 if ahead is None else int(ahead.total_seconds()) * MICROS

    def day(self, at: int) -> int:
        """Shop-local day, counted from 1970-01-01."""
        return self.local(at) // DAY

    @staticmethod
    def weekday(day: int) -> int:
        """Monday is 0."""
        return (day + _EPOCH_WEEKDAY) % 7
