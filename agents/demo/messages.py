"""What whoever plays a history tells whoever shows it."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from agents.simulator import Departure
from streams.alerts import Alert, Score


class Opened(NamedTuple):
    """The history was read and the worker stands ready: from when to when (microseconds)."""

    first: int
    last: int
    truth: dict[str, Departure] | None


class Bought(NamedTuple):
    """A purchase was sent."""

    customer: str
    at: int


class Measured(NamedTuple):
    """How far the worker is.

    ``when`` is in seconds of a clock that only runs forward; ``at`` is the simulated instant up to which
    everything was applied; ``events`` were applied, ``lag`` records were sent and not applied yet;
    ``customers`` have a state.
    """

    when: float
    at: int
    events: int
    lag: int
    customers: int


class Said(NamedTuple):
    """One line for people: what is being done, or a row that was refused."""

    text: str


class Logged(NamedTuple):
    """One line that the worker wrote to its log."""

    text: str


class Ended(NamedTuple):
    """All of it was played and applied, after so many seconds; so many rows were refused."""

    seconds: float
    refused: int


class Failed(NamedTuple):
    """It cannot go on."""

    error: Exception


Message: TypeAlias = Opened | Bought | Measured | Said | Logged | Ended | Failed | Alert | Score
