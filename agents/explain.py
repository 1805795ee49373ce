"""One alert taken apart: its arithmetic, and whether the log still decides it so.

An alert carries its probability and what each group of evidence added, and the ``position`` up to which the
log had been applied. Everything else follows from the records up to there (promise (b) of the contract):
they are applied again with the core's own functions, the customer is scored at the instant of the decision,
and the policy is asked once more, standing where the customer's earlier alerts say that it stood.

Pure: what is read, and from where, is the business of ``agents.commands.explain``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from agents.language import spoken
from agents.settings import Settings
from alerts import bands, decide
from alerts.cause import cause
from alerts.outlook import Expected, Outlook, outlook
from alerts.policy import version as policy_version
from alerts.reasons import Evidence, reasons
from features import matrix
from features.cold import Cold, tier, unprofiled
from features.customer import EMPTY_COLD, FEATURES, Customer, apply
from features.matrix import Inputs
from features.shop import DAY, Calendar
from features.standing import Episode, Standing
from models.churn import ChurnModel, RhythmScore
from streams import topics
from streams.alerts import Alert, Offer, Reason, alert_id
from streams.codec import Decoded, Tombstone
from streams.events import Forget, rfc3339

AGREE: Final = 1.01e-6
"""Probabilities are rounded to 1e-6: so far apart, they are the same."""
MEMORY: Final = 9.0
"""Gaps that a rhythm remembers at most, as in ``models.churn``."""


class Told(NamedTuple):
    """An alert as it was found: ``application`` of its ``source``, ``topic`` (logical), ``withheld``: why it
    was not delivered."""

    alert: Alert
    application: str
    topic: str
    withheld: str | None = None


class Read(NamedTuple):
    """An event of the customer, or a tombstone of their profile, and the logical topic it was read from."""

    topic: str
    item: Decoded | Tombstone


class Part(NamedTuple):
    """What an input topic still holds of a partition: ``begin`` and ``end`` (exclusive); None: no such topic."""

    begin: int
    end: int


def log_odds(probability: float) -> float:
    """The logarithm of the odds; of 0 and 1 that of the nearest probability that is written."""
    p = min(max(probability, 1e-6), 1.0 - 1e-6)
    return math.log(p / (1.0 - p))


# ---- the arithmetic


class Silence(NamedTuple):
    """The numbers of docs/score.md for one customer: ``gaps`` of their own, their ``mean`` and ``variance``
    (logarithms), ``alpha`` (days) and ``beta`` of the log-logistic waiting time, ``repeats`` purchases after
    the first, ``left``: P(gone for good), ``days`` of silence, S(s) ``now`` and S(s + H) ``later``, and
    P(no purchase within the horizon) as it is and as it was right after the purchase."""

    gaps: float
    mean: float
    variance: float
    alpha: float
    sigma: float
    beta: float
    repeats: int
    left: float
    days: float
    now: float
    later: float
    churn: float
    fresh: float


class Score(NamedTuple):
    """``base`` and ``contributions`` by group add up to ``total`` (log-odds); ``rise`` is what was gained since
    the last purchase; ``cause`` what to act on; ``x`` the inputs. ``silence``: the steps of the statistical score,
    None where another model scored."""

    model: ChurnModel
    x: Inputs
    silence: Silence | None
    base: float
    contributions: dict[str, float]
    total: float
    rise: float
    churn: float
    alive: float
    usual_days: float
    reasons: tuple[Reason, ...]
    cause: str
    expected: Expected


def score(customer: Customer, cold: Cold, at: int, settings: Settings, model: ChurnModel) -> Score:
    """The core's score of a customer by a model, with the steps that lead to it."""
    hours = settings.policy.complaint_overdue_hours
    x = matrix.inputs([customer], [at], hours)
    scores = model.score(x)
    contributions = tuple(float(row[0]) for row in scores.contributions)
    evidence = Evidence(
        customer=customer,
        cold=cold,
        at=at,
        x=x,
        groups=model.groups,
        contributions=contributions,
        base=float(scores.base[0]),
        usual=model.usual,
        source=model.source,
        overdue_hours=hours,
        minor_units=settings.shop.minor_units,
    )
    expected = model.expected(x)
    return Score(
        model=model,
        x=x,
        silence=_silence(customer, at, settings) if isinstance(model, RhythmScore) else None,
        base=evidence.base,
        contributions=dict(zip(model.groups, contributions, strict=True)),
        total=float(scores.logit[0]),
        rise=float(scores.rise[0]),
        churn=float(scores.churn[0]),
        alive=float(scores.alive[0]),
        usual_days=float(scores.usual_days[0]),
        reasons=reasons(evidence, spoken(settings.shop)),
        cause=cause(evidence),
        expected=Expected(*expected) if expected is not None else Expected(),
    )


def _silence(customer: Customer, at: int, settings: Settings) -> Silence:
    prior, horizon = settings.prior, settings.policy.horizon_days
    own = customer.rhythm.now
    n, k = min(float(own.gaps), MEMORY), prior.strength
    location = (n * own.mean + k * math.log(prior.gap_days)) / (n + k)
    sigma = math.sqrt((n * own.variance + k * prior.spread**2) / (n + k))
    beta = math.pi / (math.sqrt(3.0) * sigma)
    repeats = max(customer.orders - 1, 0)
    left = prior.defect_a / (prior.defect_a + prior.defect_b + repeats)

    def survival(days: float) -> float:
        return 1.0 / (1.0 + math.exp(min(beta * (math.log(max(days, 1e-3)) - location), 700.0)))

    days = max(at - customer.last_purchase, 0) / DAY
    now, later = survival(days), survival(days + horizon)
    return Silence(
        gaps=n,
        mean=own.mean,
        variance=own.variance,
        alpha=math.exp(location),
        sigma=sigma,
        beta=beta,
        repeats=repeats,
        left=left,
        days=days,
        now=now,
        later=later,
        churn=(left + (1.0 - left) * later) / (left + (1.0 - left) * now),
        fresh=left + (1.0 - left) * survival(horizon),
    )


# ---- the replay


class State(NamedTuple):
    """A customer after ``records`` events, up to ``forgotten`` not counted."""

    customer: Customer
    cold: Cold
    records: int
    forgotten: int = 0


def replayed(read: Iterable[Read], position: Mapping[str, int], calendar: Calendar) -> State:
    """The customer after exactly the records up to a position. Topic after topic: between them the order of
    arrival is not known, and makes no difference."""
    customer, cold, count = Customer(), EMPTY_COLD, 0
    read = [each for each in read if each.item.offset <= position.get(each.topic, -1)]
    forgets = [
        (each.topic, each.item)
        for each in read
        if isinstance(each.item, Decoded) and isinstance(each.item.event, Forget)
    ]
    forgotten = max((forget.at for _, forget in forgets), default=0)
    place = {name: number for number, name in enumerate(topics.INPUTS)}
    for each in sorted(read, key=lambda one: place[one.topic]):
        if isinstance(each.item, Tombstone):
            cold = unprofiled(cold, place[each.topic])
            continue
        if each.item.at <= forgotten or any(
            each.topic == topic and each.item.offset <= forget.offset for topic, forget in forgets
        ):
            continue
        count += 1
        try:
            applied = apply(customer, cold, each.item, place[each.topic], calendar)
        except ValueError:  # went to dead-letters
            continue
        customer, cold = applied.customer, applied.cold
    return State(customer, cold, count, forgotten)


class Decision(NamedTuple):
    """What the policy decides again. ``transition`` and ``band`` are None where it decides nothing; ``cause`` where
    there is none to act on."""

    transition: str | None
    band: str | None
    id: str | None
    cause: str | None
    action: str | None
    outlook: Outlook
    offers: tuple[tuple[str, str], ...]
    held: str
    silent_days: float


Verdict = Literal["same", "differs", "explained", "unknown"]


class Replay(NamedTuple):
    """``verdict``: ``same``; ``differs`` without a reason; ``explained``: it differs, and ``causes`` may say why;
    ``unknown``: there was nothing to replay. ``different`` lists what, ``causes`` what has changed since."""

    verdict: Verdict
    records: int
    score: Score | None
    decision: Decision | None
    different: tuple[str, ...]
    causes: tuple[str, ...]


def replay(
    told: Told,
    earlier: Sequence[Told],
    read: Sequence[Read],
    parts: Mapping[str, Part | None],
    settings: Settings,
    learned: Iterable[ChurnModel] = (),
) -> Replay:
    """Decides an alert again. ``earlier``: the customer's other alerts, delivered or withheld; ``read``: the
    customer's events; ``parts``: what the input topics still hold of the partition, by logical name; ``learned``:
    the models of the snapshots that are known."""
    alert = told.alert
    prior = RhythmScore(settings.prior, settings.policy.horizon_days)
    models: dict[str, ChurnModel] = {model.version: model for model in (*learned, prior)}
    model = models.get(alert.versions.model, prior)
    causes = [*_changed(told, settings, model), *_lost(alert, parts)]
    state = replayed(read, alert.position, Calendar(settings.shop))
    if not state.records:
        return Replay("unknown", 0, None, None, (), tuple(causes))
    found = None
    if state.customer.orders:
        found = score(state.customer, state.cold, alert.decided_at, settings, model)
    different: list[str] = []
    if found is None:
        if alert.churn_probability is not None:
            different.append("no purchase is found before it, so there is no score")
    elif alert.churn_probability is None:
        different.append(f"it says no probability, and the replay {found.churn}")
    elif abs(found.churn - alert.churn_probability) > AGREE:
        different.append(f"the probability is {found.churn}, not {alert.churn_probability}")
    decision = None
    earlier = [each for each in earlier if each.alert.decided_at > state.forgotten]
    before = sorted((e for e in earlier if e.alert.sequence < alert.sequence), key=lambda e: e.alert.sequence)
    numbers = [each.alert.sequence for each in before]
    if alert.kind not in {"churn", "upsell"}:
        causes.append(f"this version does not know how {alert.kind} is decided")
    elif numbers != list(range(1, alert.sequence)):
        gone = alert.sequence - 1 - len(numbers)
        causes.append(
            f"{gone} of the customer's {alert.sequence - 1} earlier alerts are no longer on the topics, so where "
            "the policy stood is not known"
        )
    elif found is not None or alert.kind == "upsell":
        decision = _decided(told, before, read, state, found, settings)
        different += _compared(told, decision)
    if found is not None and alert.kind == "churn":
        different += _reasons(alert, found)
    if not different:
        return Replay("same", state.records, found, decision, (), tuple(causes))
    verdict: Verdict = "explained" if causes else "differs"
    return Replay(verdict, state.records, found, decision, tuple(different), tuple(causes))


def _changed(told: Told, settings: Settings, model: ChurnModel) -> list[str]:
    """The versions that are others now; ``model``: that of the alert, where it is known."""
    versions, now = told.alert.versions, policy_version(settings.policy)
    found = []
    if versions.policy != now:
        found.append(f"it was decided under policy {versions.policy}, the settings now are policy {now}")
    if versions.model != model.version:
        found.append(
            f"it was decided by model {versions.model}, which is neither a snapshot on {topics.MODELS} nor that of the "
            f"settings, {model.version} (prior.version): replayed is the latter"
        )
    if versions.features != FEATURES:
        found.append(
            f"it was decided with features of version {versions.features}, this churnwatch has {FEATURES}"
        )
    if told.application != settings.application:
        found.append(
            f"it is of application {told.application}, the settings are those of {settings.application}"
        )
    return found


def _lost(alert: Alert, parts: Mapping[str, Part | None]) -> list[str]:
    """What of the log is not there any more."""
    found = []
    for name, offset in sorted(alert.position.items()):
        part = parts.get(name)
        if part is None:
            found.append(f"there is no topic {name} any more")
        elif part.end <= offset:
            found.append(f"{name} ends at offset {part.end}, before the position {offset}: it is another log")
        elif part.begin > 0 and name not in topics.COMPACTED:
            found.append(f"the log of {name} begins at offset {part.begin}: what was before has expired")
    return found


def _decided(
    told: Told, before: Sequence[Told], read: Sequence[Read], state: State, found: Score | None, settings: Settings
) -> Decision:  # fmt: skip
    """Asks the policy again."""
    alert, policy = told.alert, settings.policy
    at, customer = alert.decided_at, state.customer
    calendar = Calendar(settings.shop)
    standing = standing_before(before, read, calendar)
    episode = standing.churn
    band = bands.LOW
    step: decide.Transition | None = None
    silent_days = max(at - customer.last_purchase, 0) / DAY
    last = before[-1].alert if before else None
    if alert.kind == "upsell" and last is not None and _one_decision(last, alert):
        # Churn was decided upon just before, and is not again.
        band = bands.NAMES.index(last.risk_band) if last.risk_band is not None else bands.LOW
    elif found is not None:
        asked = decide.Score(
            found.churn,
            found.alive,
            found.rise,
            found.base,
            tuple(found.contributions.values()),
            found.usual_days,
            found.x,
            0,
        )
        episode, band, step = decide.churn(standing, customer, asked, at, policy)
    if alert.kind == "upsell":
        cold = msgspec.structs.replace(state.cold, offered=offered_before(before))
        step = None
        if band < bands.LAPSED or standing.upsell:
            _, step = decide.upsell(standing, customer, cold, band, at, policy)
    held = bands.NAMES[standing.churn.band] if standing.churn else "none"
    if step is None:
        none = bands.NAMES[band] if found else None
        return Decision(None, none, None, None, None, Outlook(), (), held, silent_days)
    behind = found.cause if found is not None and step.kind == "churn" and step.name != "resolved" else None
    identity = alert_id(
        told.application, alert.customer, step.kind, step.episode.opened, step.name, step.episode.ordinal
    )
    return Decision(
        transition=step.name,
        band=bands.NAMES[step.band] if found else None,
        id=identity,
        cause=behind,
        action=decide.action(step, customer, policy, behind, tier(state.cold)),
        outlook=outlook(
            at,
            customer.orders,
            step.band,
            episode is not None,
            None if found is None else found.churn,
            Expected() if found is None else found.expected,
            settings.shop.minor_units,
        ),
        offers=tuple((candidate.type, candidate.name) for candidate in step.offers),
        held=held,
        silent_days=silent_days,
    )


def _one_decision(churn: Alert, alert: Alert) -> bool:
    """Whether an alert left by the same decision as the one of churn before it."""
    return (churn.kind, churn.decided_at, churn.position) == ("churn", alert.decided_at, alert.position)


def standing_before(before: Sequence[Told], read: Sequence[Read], calendar: Calendar) -> Standing:
    """Where the policy stood after these alerts of a customer, in their sequence."""
    churn: Episode | None = None
    upsell: Episode | None = None
    warned = offered = 0
    for each in before:
        alert = each.alert
        band = bands.NAMES.index(alert.risk_band) if alert.risk_band is not None else bands.LOW
        if alert.kind == "churn":
            if alert.transition == "raised":
                since = replayed(read, alert.position, calendar).customer.last_purchase
                churn, warned = Episode(alert.episode, band, 1, since), alert.episode
            elif alert.transition in {"resolved", "expired"} or churn is None:
                churn = None
            else:
                churn = Episode(churn.opened, band, churn.ordinal + 1, churn.since)
        elif alert.kind == "upsell":
            upsell = None
            if alert.transition == "raised":
                since = replayed(read, alert.position, calendar).customer.last_purchase
                names = tuple(key for offer in alert.offers for key in _keys(offer)[:1])
                upsell, offered = Episode(alert.episode, band, 1, since, names), alert.decided_at
    return Standing(churn=churn, upsell=upsell, warned=warned, offered=offered)


def offered_before(before: Sequence[Told]) -> dict[str, int]:
    """When each offer was made last."""
    found: dict[str, int] = {}
    for each in before:
        if each.alert.kind == "upsell" and each.alert.transition == "raised":
            for offer in each.alert.offers:
                found |= dict.fromkeys(_keys(offer), each.alert.decided_at)
    return found


def _keys(offer: Offer) -> list[str]:
    """What identifies an offer among those already made (``alerts.offers.Candidate.key``); as an alert does
    not tell whether what was left in a cart was called by its SKU, both forms."""
    if offer.sku is None:
        return [f"{offer.type}|{offer.category}"]
    plain, marked = f"{offer.type}|{offer.sku}", f"{offer.type}|sku:{offer.sku}"
    return [plain, marked] if offer.type == "cart_abandoned" else [marked]


def _compared(told: Told, decision: Decision) -> list[str]:
    alert = told.alert
    if decision.transition is None:
        return [f"nothing is {alert.transition}: the policy sees no reason to"]
    found = []
    if decision.transition != alert.transition:
        found.append(f"the transition is {decision.transition}, not {alert.transition}")
    if alert.risk_band is not None and decision.band != alert.risk_band:
        found.append(f"the band is {decision.band}, not {alert.risk_band}")
    if decision.cause != alert.cause:
        found.append(f"the cause is {decision.cause}, not {alert.cause}")
    if decision.action != alert.action:
        found.append(f"the action is {decision.action}, not {alert.action}")
    for name, value in decision.outlook._asdict().items():
        if value != getattr(alert, name):
            found.append(f"{name} is {value}, not {getattr(alert, name)}")
    names = [(offer.type, offer.sku if offer.sku is not None else offer.category) for offer in alert.offers]
    if [(kind, name.removeprefix("sku:")) for kind, name in decision.offers] != [
        (kind, (name or "").removeprefix("sku:")) for kind, name in names
    ]:
        found.append("the offers are others")
    if not found and decision.id != alert.id:
        found.append(f"the id is {decision.id}")
    return found


def _reasons(alert: Alert, found: Score) -> list[str]:
    """Reasons that are not those of the alert; what they weigh may differ by rounding."""
    told = {reason.feature: reason.contribution or 0.0 for reason in alert.reasons}
    again = {reason.feature: reason.contribution or 0.0 for reason in found.reasons}
    if told.keys() != again.keys():
        return [f"the reasons are {', '.join(again) or 'none'}, not {', '.join(told) or 'none'}"]
    return [
        f"{feature} weighs {again[feature]:+.6f}, not {told[feature]:+.6f}"
        for feature in told
        if abs(told[feature] - again[feature]) > 1e-5
    ]


def moment(at: int) -> str:
    """An instant for people, to the second."""
    return rfc3339(at)[:19].replace("T", " ") if at else "never"
