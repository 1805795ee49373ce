"""What is known of a history that is being played: a plain model, fed with messages.

It knows no terminal, no server and no clock. Whatever the order in which the partitions' messages arrive,
the same messages of a customer in their order give the same model.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agents.demo.messages import Bought, Ended, Failed, Logged, Measured, Message, Opened, Said
from agents.simulator import Departure
from alerts.reasons import BASE
from features.shop import DAY
from streams.alerts import Alert, Band, Reason, Score

BANDS: Final[tuple[Band, ...]] = ("low", "medium", "high", "lapsed")
RATE_OVER: Final = 2.0
"""Seconds over which rates are measured."""
TELLING: Final = 2
"""Purchases from which on a customer has a rhythm to be drawn."""
_LINES_KEPT = 5
_SHORTER = tuple(
    (re.compile(long), short)
    for long, short in (
        (r"A complaint about (.+?) has been open for", r"complaint about \1 open"),
        (" and is overdue", ", overdue"),
        (", and was reopened", ", reopened"),
        (r"The customer said on .+? that they are leaving", "says that they are leaving"),
        (r"A complaint about (.+?) was (\w+) (.+?) ago \(.*\)", r"complaint about \1 \2 \3 ago"),
    )
)
_hours = re.compile(r"(\d+) hours")
_WAITING_KEPT = 200
_SHOWN_KEPT = 12


class Scored(NamedTuple):
    """A score that was written: when, the probability, and the place of its band in ``BANDS``."""

    at: int
    probability: float
    band: int


@dataclass(slots=True)
class Episode:
    """A churn warning and what became of it: ``end`` is its last transition, if it has one."""

    raised: Alert
    ended_at: int | None = None
    end: str | None = None


@dataclass(slots=True)
class Customer:
    """One customer as far as messages told: purchases sent (ascending), scores and churn episodes."""

    purchases: list[int] = field(default_factory=list)
    scores: list[Scored] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)

    def bought_until(self, at: int) -> list[int]:
        """The purchases not after ``at``: those sent may not have been applied yet."""
        return [time for time in self.purchases if time <= at]


class Known:
    """Everything so far. ``horizon`` is the policy's, in microseconds."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.first = 0
        self.last = 0
        self.at = 0
        self.truth: dict[str, Departure] | None = None
        self.events = 0
        self.lag = 0
        self.states = 0
        self.customers: dict[str, Customer] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.raised: list[tuple[str, int]] = []
        self.said: deque[str] = deque(maxlen=_LINES_KEPT)
        self.logged: deque[str] = deque(maxlen=_LINES_KEPT)
        self.ended: Ended | None = None
        self.failed: Exception | None = None
        self.headlines = Headlines(self.customers)
        self._changes: dict[int, list[int]] = {}  # by day since the epoch: how many entered each band
        self._seen: set[str] = set()
        self._measured: deque[Measured] = deque()

    # ---- what is told

    def take(self, messages: Iterable[Message]) -> None:
        """Learns from messages, in the order in which they came."""
        for message in messages:
            self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case Bought():
                self._customer(message.customer).purchases.append(message.at)
            case Score():
                self._score(message)
            case Alert():
                self._alert(message)
            case Measured():
                self._measure(message)
            case Opened():
                self.first, self.last, self.truth = message
                self.at = self.first
            case Said():
                self.said.append(message.text)
            case Logged():
                self.logged.append(message.text)
            case Ended():
                self.ended = message
                self.at = self.last
            case Failed():
                self.failed = message.error

    def _customer(self, name: str) -> Customer:
        return self.customers.setdefault(name, Customer())

    def _score(self, score: Score) -> None:
        scores = self._customer(score.customer).scores
        if scores and score.decided_at < scores[-1].at:
            return  # sent again
        band = BANDS.index(score.risk_band)
        day = self._changes.setdefault(score.decided_at // DAY, [0] * len(BANDS))
        day[band] += 1
        if scores:
            day[scores[-1].band] -= 1
        scores.append(Scored(score.decided_at, score.churn_probability, band))

    def _alert(self, alert: Alert) -> None:
        if alert.id in self._seen:
            return
        self._seen.add(alert.id)
        self.counts[alert.kind, alert.transition] += 1
        if alert.transition == "raised":
            self.headlines.offer(alert)
        if alert.kind != "churn":
            return
        episodes = self._customer(alert.customer).episodes
        if alert.transition == "raised":
            self.raised.append((alert.customer, alert.decided_at))
            episodes.append(Episode(alert))
        elif alert.transition in {"resolved", "expired"}:
            for episode in reversed(episodes):
                if episode.raised.episode == alert.episode:
                    episode.ended_at, episode.end = alert.decided_at, alert.transition
                    break

    def _measure(self, now: Measured) -> None:
        self.events, self.lag, self.states = now.events, now.lag, now.customers
        self.at = max(self.at, now.at)
        self._measured.append(now)
        while len(self._measured) > 2 and self._measured[1].when <= now.when - RATE_OVER:
            self._measured.popleft()

    # ---- what can be asked

    @property
    def share(self) -> float:
        """How much of the period has been applied, 0 to 1."""
        whole = self.last - self.first
        return (
            min(max((self.at - self.first) / whole, 0.0), 1.0) if whole > 0 else float(self.ended is not None)
        )

    @property
    def warnings(self) -> int:
        """Warnings and offers raised so far."""
        return sum(number for (_, transition), number in self.counts.items() if transition == "raised")

    def events_a_second(self) -> float:
        """Events applied in the last two seconds."""
        return self._rate(lambda one: one.events)

    def days_a_second(self) -> float:
        """Simulated days that passed in a second, of the last two."""
        return self._rate(lambda one: one.at) / DAY

    def _rate(self, of: object) -> float:
        assert callable(of)
        if len(self._measured) < 2:
            return 0.0
        earlier, now = self._measured[0], self._measured[-1]
        seconds = now.when - earlier.when
        return float(of(now) - of(earlier)) / seconds if seconds > 0 else 0.0

    def in_bands(self) -> tuple[int, ...]:
        """How many customers are in each band now."""
        return self.bands_at([self.at])[0]

    def bands_at(self, instants: list[int]) -> list[tuple[int, ...]]:
        """How many customers were in each of ``BANDS`` at the end of the days of these ascending instants."""
        total = [0] * len(BANDS)
        days = sorted(self._changes)
        found = []
        place = 0
        for instant in instants:
            while place < len(days) and days[place] <= instant // DAY:
                for band, change in enumerate(self._changes[days[place]]):
                    total[band] += change
                place += 1
            found.append(tuple(total))
        return found

    def next_story(self, shown: Iterable[str]) -> str | None:
        """A customer worth following who was not shown yet: of those warned of last, the one with most
        purchases; when all were shown, the one shown longest ago."""
        before = list(shown)
        avoid = set(before)
        latest: dict[str, None] = {}
        for name, _ in reversed(self.raised):
            if name in avoid or len(self.customers[name].purchases) < TELLING:
                continue
            latest[name] = None
            if len(latest) == 25:
                break
        if latest:
            return max(latest, key=lambda name: len(self.customers[name].bought_until(self.at)))
        return before[0] if before else None


class Headlines:
    """Warnings come faster than anybody reads: of those since the last time, which one to show."""

    def __init__(self, customers: dict[str, Customer]) -> None:
        self._customers = customers
        self._waiting: deque[Alert] = deque(maxlen=_WAITING_KEPT)
        self._last = ""
        self._shown: deque[str] = deque(maxlen=_SHOWN_KEPT)

    def offer(self, alert: Alert) -> None:
        """One that was raised."""
        self._waiting.append(alert)

    def pick(self) -> Alert | None:
        """The most telling one of those that came since; warnings and offers take turns where both came."""
        if not self._waiting:
            return None
        other = [alert for alert in self._waiting if alert.kind != self._last]
        chosen = max(other or self._waiting, key=self._telling)
        self._waiting.clear()
        self._last = chosen.kind
        self._shown.append(chosen.customer)
        return chosen

    def _telling(self, alert: Alert) -> tuple[bool, int, int, int]:
        customer = self._customers.get(alert.customer)
        bought = len(customer.purchases) if customer else 0
        return alert.customer not in self._shown, len(reasons(alert)), bought, alert.decided_at


def because(reason: Reason) -> str:
    """A reason in a few words, with its value and what is usual where both are known."""
    value, usual = reason.value, reason.usual
    if isinstance(value, float) and isinstance(usual, float):
        if reason.feature == "recency_days":
            return f"silent {value:.0f} days (usual {usual:.0f})"
        if reason.feature == "browsing_30d":
            return f"browsing {value:.1f} (usual {usual:.1f})"
    return _clause(reason.text or reason.feature)


def reasons(alert: Alert) -> list[tuple[str, float]]:
    """The two strongest reasons of an alert with their weight (above 0: towards leaving); for an offer
    what makes it due, with no weight. Where the score starts is no reason to tell."""
    if alert.offers:
        return [(_clause(alert.offers[0].reason or alert.offers[0].type), 0.0)]
    told = [reason for reason in alert.reasons if reason.feature != BASE]
    return [(because(reason), reason.contribution or 0.0) for reason in told[:2]]


def _clause(sentence: str) -> str:
    """A sentence without what makes it one; the commonest ones shorter."""
    said = sentence.partition(" Usual")[0].rstrip(".")
    for long, short in _SHORTER:
        said = long.sub(short, said)
    said = _hours.sub(lambda found: f"{int(found[1]) // 24} days" if int(found[1]) >= 72 else found[0], said)
    return said[:1].lower() + said[1:]
