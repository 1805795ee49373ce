"""The languages in which reasons are told: babel's catalogues, numbers, plurals and dates for the core.

The catalogues are text (``alerts/locale/<locale>/LC_MESSAGES/reasons.po``), read when a worker or a command
starts; they travel with the package. What is not in one is said in English.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from gettext import GNUTranslations
from importlib.resources import files
from typing import Final
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal, format_percent

from alerts.words import few, plain
from features.shop import Shop

DOMAIN: Final = "reasons"
LOCALES: Final[Mapping[str, str]] = {
    "en": "English",
    "zh_Hans": "Simplified Chinese",
    "zh_Hant": "Traditional Chinese",
}
"""The locales there are catalogues for, with their names in English."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Language:
    """One language, with the shop's day: the shell's :class:`alerts.words.Words`."""

    def __init__(self, locale: str, time_zone: str = "UTC") -> None:
        self.locale = Locale.parse(locale)
        self._zone: tzinfo = ZoneInfo(time_zone)
        self._translations = _translations(locale)
        # The same few numbers and days come again and again.
        self.number = functools.lru_cache(4096)(self._number)
        self.percent = functools.lru_cache(256)(self._percent)
        self.day = functools.lru_cache(1024)(self._day)

    def say(self, message: str, /, **places: str) -> str:
        """See :class:`alerts.words.Words`."""
        return self._translations.gettext(message).format(**places)

    def count(self, one: str, many: str, number: float) -> str:
        """See :class:`alerts.words.Words`. What is not whole takes the plural's form."""
        shown, digits = few(number)
        whole = int(shown) if not digits else 2
        return self._translations.ngettext(one, many, whole).format(count=self.number(shown, digits))

    def _number(self, value: float, digits: int) -> str:
        exact = Decimal(f"{plain(value, digits):.{digits}f}")
        pattern = "#,##0." + "0" * digits if digits else "#,##0"
        return str(format_decimal(exact, format=pattern, locale=self.locale))

    def _percent(self, share: float) -> str:
        return str(format_percent(Decimal(f"{plain(share * 100, 0):.0f}") / 100, locale=self.locale))

    def _day(self, at: int) -> str:
        local = (_EPOCH + timedelta(microseconds=at)).astimezone(self._zone)
        return str(format_date(local.date(), format="medium", locale=self.locale))


def spoken(shop: Shop) -> Language:
    """The language of a shop's staff."""
    return Language(shop.locale, shop.time_zone)


def catalogue(locale: str) -> Catalog:
    """The catalogue of a locale. Raises KeyError for one that there is none for."""
    if locale not in LOCALES:
        raise KeyError(locale)
    path = files("alerts") / "locale" / locale / "LC_MESSAGES" / f"{DOMAIN}.po"
    return read_po(io.BytesIO(path.read_bytes()), locale=locale, domain=DOMAIN)


def _translations(locale: str) -> GNUTranslations:
    """The catalogue, as it is looked up."""
    compiled = io.BytesIO()
    write_mo(compiled, catalogue(locale))
    compiled.seek(0)
    return GNUTranslations(compiled)
