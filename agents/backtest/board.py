"""What is known of all customers, as one matrix: what a score needs of each stands in a column.

A customer's column changes with its events only; silence changes the score, not what it follows from. So
everybody can be scored at any instant at once, which is what a backtest asks for at every cut-off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from features import matrix
from features.customer import unpack_hot
from features.matrix import Floats, Inputs

Places = NDArray[np.int64]


class Board:
    """Customers in the order in which they were first seen. ``uses``: whether a use counts like a purchase once one
    has bought (``learning.activity``). ``bought``: the day (since 1970, UTC) of the last
    purchase, -1 before the first; ``opened``: who had an open complaint when last looked at."""

    def __init__(self, overdue_hours: float, day_of: Callable[[int], int], *, uses: bool = False) -> None:
        self.names: list[bytes] = []
        self.place: dict[bytes, int] = {}
        self._overdue, self._day_of, self._uses = overdue_hours, day_of, uses
        self._facts: Floats = np.zeros((0, 0))
        self._bought: Places = np.zeros(0, dtype=np.int64)
        self._opened: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

    @property
    def bought(self) -> Places:
        """See the class."""
        return self._bought[: len(self.names)]

    @property
    def opened(self) -> NDArray[np.bool_]:
        """See the class."""
        return self._opened[: len(self.names)]

    def refresh(self, keys: Iterable[bytes], hot: Callable[[bytes], bytes | None], at: int) -> None:
        """Reads the customers anew, as of ``at`` (microseconds)."""
        wanted = list(keys)
        if not wanted:
            return
        customers = [unpack_hot(hot(key)) for key in wanted]
        facts = matrix.rows(customers, [at] * len(wanted), self._overdue)
        for key in wanted:
            if key not in self.place:
                self.place[key] = len(self.names)
                self.names.append(key)
        self._grow(facts.shape[0])
        places = np.array([self.place[key] for key in wanted], dtype=np.int64)
        self._facts[:, places] = facts
        self._bought[places] = [
            self._day_of(max(c.last_purchase, c.last_use if self._uses else 0)) if c.orders else -1
            for c in customers
        ]
        self._opened[places] = [bool(c.open_since) for c in customers]

    def inputs(self, places: Places, at: int) -> Inputs:
        """What models see of these customers at one instant (microseconds)."""
        return matrix.at_instants(self._facts[:, places], np.full(len(places), at, dtype=np.int64))

    def _grow(self, rows: int) -> None:
        have = self._bought.shape[0]
        if len(self.names) <= have and self._facts.shape[0] == rows:
            return
        room = max(1024, 2 * have, len(self.names))
        facts = np.zeros((rows, room))
        bought = np.full(room, -1, dtype=np.int64)
        opened = np.zeros(room, dtype=np.bool_)
        if self._facts.size:
            facts[:, :have] = self._facts
            bought[:have], opened[:have] = self._bought, self._opened
        self._facts, self._bought, self._opened = facts, bought, opened
