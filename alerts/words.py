"""How sentences for people are made: the languages themselves stand outside the core.

A sentence is a message, in English, with places to fill in; quantities and numbers are written before
they are filled in, so that a sentence never bends with what stands in it. ``English`` needs nothing
else. Other languages (``alerts/locale``) are loaded by the shell, which passes in what speaks them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Words(Protocol):
    """One language, with the shop's day."""

    def say(self, message: str, /, **places: str) -> str:
        """The message in this language, its places filled in."""
        ...

    def count(self, one: str, many: str, number: float) -> str:
        """A quantity, such as ``{count} day`` or ``{count} days``: whole from 10 on, below to one decimal."""
        ...

    def number(self, value: float, digits: int) -> str:
        """A number with so many decimals."""
        ...

    def percent(self, share: float) -> str:
        """A share as whole percents."""
        ...

    def day(self, at: int) -> str:
        """The shop's day of an instant (microseconds)."""
        ...


class English:
    """English, as the messages are written, with days in UTC."""

    def say(self, message: str, /, **places: str) -> str:
        """See :class:`Words`."""
        return message.format(**places)

    def count(self, one: str, many: str, number: float) -> str:
        """See :class:`Words`."""
        shown, digits = few(number)
        return (one if shown == 1.0 else many).format(count=self.number(shown, digits))

    def number(self, value: float, digits: int) -> str:
        """See :class:`Words`."""
        return f"{plain(value, digits):,.{digits}f}"

    def percent(self, share: float) -> str:
        """See :class:`Words`."""
        return f"{plain(share * 100, 0):,.0f}%"

    def day(self, at: int) -> str:
        """See :class:`Words`."""
        day = _EPOCH + timedelta(microseconds=at)
        return f"{_MONTHS[day.month - 1]} {day.day}, {day.year}"


ENGLISH: Final[Words] = English()


def message(text: str) -> str:
    """Marks a message that is said later, so that it is found for the catalogues as those in ``say`` are."""
    return text


def plain(value: float, digits: int) -> float:
    """Rounded, without a negative zero."""
    return round(value, digits) + 0.0


def few(number: float) -> tuple[float, int]:
    """A quantity as it is shown, and with how many decimals: 12, 3.4, 1."""
    shown = plain(number, 0 if abs(number) >= 9.95 else 1)
    return shown, 0 if shown == int(shown) else 1
