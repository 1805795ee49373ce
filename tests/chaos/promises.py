"""What is promised (CONTRACT.md, Clocks), checked against everything that a run has written.

Nothing here uses a server: the input is the log of the input topics, what left, and what Redis held.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np

from agents.settings import Settings
from agents.transport import partition_of
from alerts.partition import Partition, unpack
from features.cold import Cold
from features.customer import Customer, unpack_cold, unpack_hot
from features.matrix import Inputs
from models.churn import ChurnModel
from models.deciding import deciding
from models.snapshot import Known
from streams import events, topics
from streams.alerts import Alert, Score, alert_id, decode_alert, decode_score
from streams.codec import Decoded, Refused
from streams.examples import decode_example
from streams.message import Message
from tests import oracle
from tests.chaos.harness import WRITTEN, Application
from tests.chaos.history import Record
from tests.chaos.reference import Held, codec_of, undisturbed
from tests.observed import differences, observed

DAY = 86_400_000_000


class Left(NamedTuple):
    """A message that left: everything of it but where and when."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass
class Found:
    """All that a run has written. ``due`` are the deadlines by partition number and customer."""

    settings: Settings
    log: list[Record]
    left: dict[str, list[Left]]
    ends: dict[tuple[str, int], int]
    offsets: dict[tuple[str, int], int]
    partitions: dict[int, Partition]
    states: dict[int, dict[bytes, tuple[Customer, Cold]]]
    due: dict[int, dict[bytes, int]]
    other_keys: set[str]

    def only(self, log: list[Record], left: dict[str, list[Left]], customers: Collection[bytes]) -> Found:
        """What there is of some customers."""
        states = {
            number: {key: state for key, state in part.items() if key in customers}
            for number, part in self.states.items()
        }
        return replace(self, log=log, left=left, states=states)


@dataclass
class Verdict:
    """The figures of a run that kept its promises. ``repeated``: records that were sent again, of which
    ``repeated_alerts`` were alerts."""

    records: int = 0
    events: int = 0
    customers: int = 0
    alerts: int = 0
    repeated: int = 0
    repeated_alerts: int = 0
    decisions: int = 0
    dead_letters: int = 0
    examples: int = 0
    """Labels that matured and left."""
    learned: int = 0
    """Alerts that a learned model decided."""


def found(application: Application) -> Found:
    """Reads everything back from Kafka and Redis."""
    left: dict[str, list[Left]] = {name: [] for name in WRITTEN}
    for record in application.read(WRITTEN):
        name = record.topic.removeprefix(application.prefix)
        left[name].append(Left(record.key, record.value, tuple(record.headers)))
    return replace(stored(application), log=application.log(), left=left)


def stored(application: Application) -> Found:
    """What Redis holds, and where the logs end; what the logs hold is not read."""
    partitions, states, due = {}, {}, {}
    with application.redis.client() as client:
        known = {f"{application.name}:layout"}
        for number in range(application.partitions):
            for part in ("meta", "hot", "cold", "due", "out"):
                known.add(application.key(number, part))
            blob: Any = client.hget(application.key(number, "meta"), "part")
            hot: Any = client.hgetall(application.key(number, "hot"))
            cold: Any = client.hgetall(application.key(number, "cold"))
            timers: Any = client.zrange(application.key(number, "due"), 0, -1, withscores=True)
            partitions[number] = unpack(blob, number)
            assert not cold.keys() - hot.keys(), "a cold part without its hot part"
            states[number] = {key: (unpack_hot(raw), unpack_cold(cold.get(key))) for key, raw in hot.items()}
            due[number] = {key: int(at) for key, at in timers}
        keys: Any = client.keys(f"*{application.name}*")
        others = {key.decode() for key in keys} - known
    return Found(
        application.settings,
        [],
        {},
        application.ends(),
        application.offsets(),
        partitions,
        states,
        due,
        others,
    )


def check_stored(seen: Found, reference: Mapping[int, Held]) -> None:
    """Checks that Redis holds, customer by customer and timer by timer, what an undisturbed run would."""
    _all_applied(seen)
    _timers(seen)
    _whole_states(seen, reference)


def check_sample(seen: Found, models: Known) -> None:
    """Checks states and alerts of some customers against the oracle, by their own records."""
    history = _History(seen)
    _states(seen, history)
    _identities(seen)
    _positions(seen, history, models)
    _sequences(seen)


def check(application: Application, *, rollback: bool = False, models: Known | None = None) -> Verdict:
    """Checks all promises for a run that has settled. Raises AssertionError with what is broken. ``models``: the
    snapshots that its workers decided by.

    ``rollback``: Redis went back in time, so that under several topics an alert that was sent may belong to
    an interleaving that is no more (promise d).
    """
    seen = found(application)
    single = len(seen.settings.kafka.inputs) == 1 and seen.settings.clock.mode == "record"
    history = _History(seen)
    verdict = Verdict(
        records=len(seen.log),
        events=sum(map(len, history.customers.values())),
        customers=len(history.customers),
    )
    _all_applied(seen)
    _states(seen, history)
    _timers(seen)
    _dead_letters(seen, history)
    bodies_may_differ = rollback and not single
    for name in WRITTEN:
        first, repeated = deduplicated(seen.left[name], bodies_may_differ=bodies_may_differ)
        verdict.repeated += repeated
        if name == topics.ALERTS:
            verdict.alerts, verdict.repeated_alerts = len(first), repeated
        elif name == topics.DEAD_LETTERS:
            verdict.dead_letters = len(first)
        elif name == topics.EXAMPLES:
            verdict.examples = len(first)
        else:
            verdict.decisions += len(first)
    verdict.learned = sum(alert.score_source == "learned" for _, alert in _alerts(seen))
    _identities(seen)
    _positions(seen, history, models or Known())
    if not bodies_may_differ:
        _sequences(seen)
    if single:
        reference = undisturbed(seen.settings, seen.log, models=models)
        _whole_states(seen, reference)
        _same_messages(seen, [message for held in reference.values() for message in held.out])
    return verdict


class _History:
    """The log as the codec reads it, by customer, and what is refused."""

    def __init__(self, seen: Found) -> None:
        codec = codec_of(seen.settings)
        prefix = seen.settings.kafka.prefix
        self.customers: dict[bytes, list[oracle.Read]] = defaultdict(list)
        self.partition: dict[bytes, int] = {}
        self.refused: Counter[tuple[str, int, int]] = Counter()
        count = len(seen.partitions)
        for record in seen.log:
            item = codec.decode(record)
            name = record.topic.removeprefix(prefix)
            if isinstance(item, Decoded):
                assert partition_of(item.key, count) == record.partition
                self.customers[item.key].append(oracle.Read(name, record.offset, item))
                self.partition[item.key] = record.partition
            elif isinstance(item, Refused):
                self.refused[name, record.partition, record.offset] += 1
        for records in self.customers.values():
            # Between topics the order of arrival is not known, and within the windows it makes no difference.
            records.sort(key=lambda read: topics.INPUTS.index(read.topic))


# ---- (a): what events say of a customer


def _all_applied(seen: Found) -> None:
    assert seen.offsets == seen.ends, "the offsets are not at the log's end"
    assert not seen.other_keys, f"Redis holds keys that nobody knows: {seen.other_keys}"
    prefix = seen.settings.kafka.prefix
    for (topic, number), end in seen.ends.items():
        assert seen.partitions[number].applied[topic.removeprefix(prefix)] == end - 1
    # `clock` records are read even where they mean nothing.


def _states(seen: Found, history: _History) -> None:
    stored = {key: state for states in seen.states.values() for key, state in states.items()}
    assert stored.keys() == history.customers.keys(), "other customers than those of the log"
    zone, overdue = seen.settings.shop.time_zone, seen.settings.policy.complaint_overdue_hours
    wrong = {}
    for key, records in history.customers.items():
        assert key in seen.states[history.partition[key]], f"{key!r} is kept with another partition"
        at = max(read.item.at for read in records) + DAY
        true = oracle.recompute(records, at, time_zone=zone, overdue_hours=overdue)
        differing = differences(observed(*stored[key], at, overdue_hours=overdue), true)
        if differing:
            wrong[key] = differing
    assert not wrong, f"{len(wrong)} of {len(stored)} customers are not what their events say: {_few(wrong)}"


def _whole_states(seen: Found, reference: Mapping[int, Held]) -> None:
    for number, held in reference.items():
        partition = seen.partitions[number]
        assert partition == held.state, f"partition {number} differs: {partition} is not {held.state}"
        right = {key: (unpack_hot(raw), unpack_cold(held.cold.get(key))) for key, raw in held.hot.items()}
        assert seen.states[number].keys() == right.keys(), f"partition {number} has other customers"
        wrong = {
            key: (_without_due(state), _without_due(right[key]))
            for key, state in seen.states[number].items()
            if _without_due(state) != _without_due(right[key])
        }
        assert not wrong, f"{len(wrong)} customers differ from the undisturbed run: {_few(wrong)}"


def _without_due(state: tuple[Customer, Cold]) -> tuple[Customer, Cold]:
    """Which of several deadlines the sorted set was told is a matter of batches; it is never too late."""
    customer = unpack_copy(state[0])
    customer.standing = msgspec.structs.replace(customer.standing, due=0)
    return customer, state[1]


def unpack_copy(customer: Customer) -> Customer:
    """A copy that may be changed."""
    return msgspec.structs.replace(customer)


# ---- timers


def _timers(seen: Found) -> None:
    for number, states in seen.states.items():
        due, clock = seen.due[number], seen.partitions[number].clock
        assert not due.keys() - states.keys(), "deadlines of customers whom nobody knows"
        for key, (customer, _) in states.items():
            standing = customer.standing
            deadline = standing.next_deadline()
            assert due.get(key, 0) == standing.due, f"{key!r}: the sorted set holds another deadline"
            assert not deadline or 0 < standing.due <= deadline, f"{key!r}: the stored deadline is too late"
        left = {key: at for key, at in due.items() if at <= clock}
        assert not left, f"{len(left)} timers were left behind: {_few(left)}"


# ---- what left


def identity(message: Left) -> str:
    """What tells a message from others: its id, or where the record of a dead letter lay."""
    headers = dict(message.headers)
    if not headers:
        example = decode_example(message.value)
        return f"{example.partition}:{example.sequence}"
    if "churnwatch-error" in headers:
        return b":".join(headers[f"churnwatch-{n}"] or b"" for n in ("topic", "partition", "offset")).decode()
    return (headers["ce_id"] or b"").decode()


def deduplicated(messages: Iterable[Left], *, bodies_may_differ: bool = False) -> tuple[dict[str, Left], int]:
    """The first message of each id in their order, and how many were repetitions, which must be the same."""
    first: dict[str, Left] = {}
    repeated = 0
    for message in messages:
        ident = identity(message)
        if first.setdefault(ident, message) is not message:
            repeated += 1
            same = first[ident] == message
            assert same or bodies_may_differ, f"{ident} came twice: {first[ident]} and {message}"
    return first, repeated


def _dead_letters(seen: Found, history: _History) -> None:
    letters, _ = deduplicated(seen.left[topics.DEAD_LETTERS])
    applied = {(r.topic.removeprefix(seen.settings.kafka.prefix), r.partition, r.offset): r for r in seen.log}
    kept = set()
    for letter in letters.values():
        headers = dict(letter.headers)
        name, partition, offset = (
            (headers[f"churnwatch-{part}"] or b"").decode() for part in ("topic", "partition", "offset")
        )
        at = name, int(partition), int(offset)
        kept.add(at)
        assert (letter.key, letter.value) == (applied[at].key, applied[at].value), f"{at} was not kept whole"
    assert kept == history.refused.keys(), "dead letters are not what is invalid"


def _alerts(seen: Found) -> list[tuple[Left, Alert]]:
    """Every alert that left or was withheld, repetitions too."""
    return [
        (message, decode_alert(identity(message), message.value or b""))
        for name in (topics.ALERTS, topics.DECISIONS)
        for message in seen.left[name]
    ]


def _identities(seen: Found) -> None:
    """An id never names another customer, episode or transition, and is the hash that it should be."""
    named: dict[str, tuple[object, ...]] = {}
    for message, alert in _alerts(seen):
        what = alert.customer, alert.kind, alert.episode, alert.transition
        assert named.setdefault(alert.id, what) == what, f"{alert.id} names {named[alert.id]} and {what}"
        assert message.key == alert.customer.encode()
        headers = dict(message.headers)
        assert headers["ce_subject"] == message.key
        name = seen.settings.application
        assert any(
            alert.id == alert_id(name, alert.customer, alert.kind, alert.episode, alert.transition, ordinal)
            for ordinal in range(1, 1000)
        ), f"{alert.id} is not the id of {what}"


def _of(first: dict[str, Left], customer: str) -> list[Alert]:
    """One customer's alerts in the order in which they came first."""
    alerts = (decode_alert(ident, message.value or b"") for ident, message in first.items())
    return [alert for alert in alerts if alert.customer == customer]


def _sequences(seen: Found) -> None:
    """First deliveries of one customer come in `sequence`, and none is missing."""
    for name in (topics.ALERTS, topics.DECISIONS):
        last: dict[str, int] = {}
        first, _ = deduplicated(seen.left[name])
        for ident, message in first.items():
            alert = decode_alert(ident, message.value or b"")
            assert alert.sequence > last.get(alert.customer, 0), (
                f"{alert.kind}.{alert.transition} {ident} of {alert.customer} comes too late: "
                f"{[(a.sequence, a.transition, events.rfc3339(a.decided_at)) for a in _of(first, alert.customer)]}"
            )
            last[alert.customer] = alert.sequence
    numbers: dict[str, set[int]] = defaultdict(set)
    for _, alert in _alerts(seen):
        numbers[alert.customer].add(alert.sequence)
    for states in seen.states.values():
        for key, (customer, _) in states.items():
            expected = set(range(1, customer.standing.sequence + 1))
            assert numbers.get(key.decode(), set()) == expected, f"alerts of {key!r} are missing"


# ---- (b): an oracle that applies exactly the records up to `position` decides the same


def _positions(seen: Found, history: _History, models: Known) -> None:
    unit = 10.0**seen.settings.shop.minor_units
    learned = {each.version: deciding(each, seen.settings.prior, unit) for each in models.snapshots}
    said: list[Alert | Score] = [alert for _, alert in _alerts(seen) if alert.churn_probability is not None]
    said += [decode_score(message.value or b"") for message in seen.left[topics.CUSTOMER_SCORES]]
    known: dict[tuple[object, ...], float] = {}
    for each in said:
        key = each.customer.encode()
        model = learned.get(each.versions.model)
        rest = each.customer, each.decided_at, tuple(sorted(each.position.items())), each.versions.model
        if rest not in known:
            applied = [r for r in history.customers[key] if r.offset <= each.position.get(r.topic, -1)]
            known[rest] = (
                probability(applied, each.decided_at, seen.settings)
                if model is None
                else learned_probability(applied, each.decided_at, seen.settings, model)
            )
        assert each.churn_probability is not None
        assert abs(known[rest] - each.churn_probability) <= 1.01e-6, (
            f"the records up to {each.position} say {known[rest]}, not {each}"
        )


def learned_probability(
    records: Sequence[oracle.Read], at: int, settings: Settings, model: ChurnModel
) -> float:
    """What the model says of what the oracle says."""
    newest = max([at, *(read.item.at for read in records)])
    said: dict[str, Any] = oracle.recompute(records, newest, time_zone=settings.shop.time_zone)
    # Between topics something later may have been read: what changes with time is told as of the decision.
    items = oracle.accepted(records)
    of = {
        "bought": [i.at for i in items if oracle.is_purchase(i)],
        "browsed": [i.at for i in items if isinstance(i.event, events.View | events.Search)],
        "used": [i.at for i in items if isinstance(i.event, events.Use)],
        "returned": [i.at for i in items if isinstance(i.event, events.Return)],
        "empty_searches": [
            i.at for i in items if isinstance(i.event, events.Search) and i.event.results == 0
        ],
        "carts": [i.at for i in items if isinstance(i.event, events.Cart) and i.event.action == "add"],
        "bad_complaints": [i.at for i in items if oracle.went_badly(i.event)],
    }
    halves = {name: int(name.rpartition("_")[2]) for name in Inputs._fields if name[-1].isdigit()}
    for name, half in {**halves, "bad_complaints": 90}.items():
        instants = of[name if name in of else name.rpartition("_")[0]]
        # A counter is kept at its newest event and read no earlier.
        said[name] = oracle.decayed(instants, half, max([at, *instants]))
    said["recency"] = max(0, at - max(of["bought"])) / DAY
    said["age"] = max(0, at - min(of["bought"])) / DAY
    said["browse_recency"] = min(max(0, at - max(of["browsed"])) / DAY, 365.0) if of["browsed"] else 0.0
    overdue = settings.policy.complaint_overdue_hours * oracle.HOUR
    said["overdue_complaints"] = sum(at - opened >= overdue for opened in said["open_since"])
    said["recent_complaint"] = said["closed_at"] > 0 and at - said["closed_at"] < 30 * DAY
    said["satisfaction"] = said["satisfaction"] if said["satisfaction"] >= 0 else 1.0
    x = Inputs(**{name: np.array([float(said[name])]) for name in Inputs._fields})
    return float(model.score(x).churn[0])


def probability(records: Sequence[oracle.Read], at: int, settings: Settings) -> float:
    """The documented score (models/churn.py), written down a second time, of what the oracle says."""
    prior, horizon = settings.prior, settings.policy.horizon_days
    items = oracle.accepted(records)
    bought = [item.at for item in items if oracle.is_purchase(item)]
    last = max(bought)
    days, _ = oracle.purchase_days(bought, settings.shop.time_zone)
    rhythm: dict[str, Any] = oracle.rhythm(days)
    browsed = [item.at for item in items if isinstance(item.event, events.View | events.Search)]
    # A counter is kept at its newest event and read no earlier.
    browsing = oracle.decayed(browsed, 30, max([at, *browsed]))
    cases = oracle.cases(items, events.Complaint, events.ComplaintUpdate).values()
    open_since = [case.opened for case in cases if case.open]
    overdue = sum(
        at - opened >= settings.policy.complaint_overdue_hours * oracle.HOUR for opened in open_since
    )
    closed = max((case.status_at for case in cases if case.opened and not case.open), default=0)
    answer, _ = oracle.newest_satisfaction(items)
    lost = max((item.at for item in items if isinstance(item.event, events.CustomerLost)), default=0)

    n, k = min(rhythm["gaps"], 9.0), prior.strength
    location = (n * rhythm["gap_mean"] + k * math.log(prior.gap_days)) / (n + k)
    sigma = math.sqrt((n * rhythm["gap_variance"] + k * prior.spread**2) / (n + k))
    beta = math.pi / (math.sqrt(3.0) * sigma)
    left = prior.defect_a / (prior.defect_a + prior.defect_b + len(bought) - 1)

    def stays(silent: float) -> float:
        return left + (1 - left) / (1 + math.exp(beta * (math.log(max(silent, 1e-3)) - location)))

    silent = max(0, at - last) / DAY
    evidence = prior.open_complaint * min(len(open_since), 2) + prior.overdue_complaint * min(overdue, 2)
    if not open_since and closed and at - closed < 30 * DAY:
        evidence += prior.recent_complaint
    evidence += prior.browsing * math.log1p(browsing)
    evidence += prior.dissatisfaction * max(0.5 - (answer if answer >= 0 else 1.0), 0.0) / 0.5
    evidence += prior.said_lost * (lost > last)
    p = min(max(stays(silent + horizon) / stays(silent), 1e-6), 1 - 1e-6)
    return 1 / (1 + math.exp(-(math.log(p / (1 - p)) + evidence)))


# ---- (c): one topic on the record clock


def _same_messages(seen: Found, right: Sequence[Message]) -> None:
    """All that left equals, byte for byte and per customer in order, what the undisturbed run wrote."""
    for name in WRITTEN:
        first, _ = deduplicated(seen.left[name])
        wanted = [Left(m.key, m.value, m.headers) for m in right if m.topic == name]
        ours, theirs = _by_customer(first.values()), _by_customer(wanted)
        wrong = {
            key: (ours.get(key), theirs.get(key))
            for key in ours.keys() | theirs.keys()
            if ours.get(key) != theirs.get(key)
        }
        assert not wrong, f"{name} of {len(wrong)} customers differ from the undisturbed run: {_few(wrong)}"


def _by_customer(messages: Iterable[Left]) -> dict[object, list[Left]]:
    result: dict[object, list[Left]] = defaultdict(list)
    for message in messages:
        # Records that are broken share a key, examples have none: they come from several partitions.
        shared = not message.headers or "churnwatch-error" in dict(message.headers)
        result[identity(message) if shared else message.key].append(message)
    return result


def _few(wrong: Mapping[Any, Any]) -> str:
    return "; ".join(f"{key!r}: {value}" for key, value in list(wrong.items())[:2])[:4000]
