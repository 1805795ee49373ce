"""``churnwatch explain``: one alert taken apart, and decided again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape

from agents.commands.kafka import Broker, headers, pairs
from agents.commands.scan import Stretch, progress, scan, stretches, whole
from agents.commands.shell import Code, Failure, Shell, examples, shell
from agents.settings import Settings
from streams.alerts import Alert, Reason, decode_alert
from streams.codec import CLOCK_KEY, Codec, Decoded, Tombstone
from streams.topics import ALERTS, COMPACTED, DECISIONS, MODELS

if TYPE_CHECKING:
    from confluent_kafka import Message

    from agents.explain import Part, Read, Replay, Score, Silence, Told
    from models.churn import ChurnModel

EPILOG = examples(
    "churnwatch explain 8f14e45fceea167a5a36dedd4bea2543   an id as in: churnwatch alerts --json",
    "churnwatch explain 8f14e4                             its beginning, where no other id begins so",
    "churnwatch explain 8f14e4 --no-replay                 only what the alert itself carries",
    "churnwatch explain 8f14e4 --json | jq .replay.verdict",
)
SHOWN = 5
"""Ids that are shown when several begin alike."""
_COLOURS = {"high": "red", "medium": "yellow", "low": "green", "lapsed": "dim"}
_VERDICTS = {
    "same": "the same decision",
    "differs": "another decision, and nothing is known that explains it",
    "explained": "another decision; what has changed since:",
    "unknown": "nothing could be replayed",
}


def explain(
    context: typer.Context,
    identity: Annotated[
        str, typer.Argument(metavar="ALERT-ID", help="The id, or its beginning.", show_default=False)
    ],
    replay: Annotated[
        bool, typer.Option("--replay/--no-replay", help="Whether to decide it again from the input topics.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One object on one line.")] = False,
) -> None:
    """Show how an alert came about, number by number, and decide it again.

    It is looked for among the delivered (alerts) and the withheld (decisions).
    The customer's records up to the alert's position are applied again, by the
    same code, and the result is compared. Nothing is consumed or changed.
    """
    call = shell(context)
    settings = call.settings
    broker = Broker(settings.kafka)
    told, earlier = _find(call, broker, identity.strip().lower())
    found: Replay | None = None
    if replay:
        from agents import explain as explaining  # noqa: PLC0415 -- the core takes its time

        read, parts = _records(call, broker, told.alert)
        learned = _learned(call, broker) if told.alert.versions.model != settings.prior.version else []
        found = explaining.replay(told, earlier, read, parts, settings, learned)
    if as_json:
        sys.stdout.write(msgspec.json.encode(_plain(told, found, settings)).decode() + "\n")
    else:
        for line in _lines(told, earlier, found, settings):
            call.out.print(line)
    if found is not None and found.verdict == "differs":
        raise Failure(
            Code.FAILED,
            "The records up to its position decide otherwise than the alert says.",
            "The log is whole and the versions are the same, so this should not be.",
            "If numbers under [prior] or [shop] were changed without a new prior.version, that is why; otherwise "
            "report it with the output of --json.",
        )


# ---- finding


def _find(call: Shell, broker: Broker, wanted: str) -> tuple[Told, list[Told]]:
    """The alert, and all others of its customer. Raises Failure."""
    from agents.explain import Told  # noqa: PLC0415

    kafka = call.settings.kafka
    logical = {kafka.topic(name): name for name in (ALERTS, DECISIONS)}
    there = broker.partitions()
    if kafka.topic(ALERTS) not in there:
        raise Failure(
            Code.KAFKA,
            f"Kafka ({broker.name}) has no topic {kafka.topic(ALERTS)}.",
            "It is made by: churnwatch topics create.",
            "If topics have a prefix, set --prefix or kafka.prefix.",
        )
    parts = whole(broker, there, logical)
    hits: dict[str, Message] = {}
    count = 0
    with progress(call, "Looking for it", parts) as tell:
        for message in scan(broker, parts, tell):
            count += 1
            name = headers(message).get("ce_id", "")
            if wanted and name.startswith(wanted):
                hits.setdefault(name, message)
    if wanted not in hits and len(hits) > 1:
        some = ", ".join(sorted(hits)[:SHOWN]) + (", ..." if len(hits) > SHOWN else "")
        raise Failure(Code.USAGE, f"{len(hits):,} ids begin with {wanted!r}.", some, "Give more of it.")
    hit = hits.get(wanted) or next(iter(hits.values()), None)
    if hit is None:
        raise Failure(
            Code.NOT_FOUND,
            f"No alert has an id that begins with {wanted!r}.",
            f"Looked through {count:,} records of {' and '.join(name for name in logical if name in there)} "
            f"at {broker.name}.",
            "Ids are in: churnwatch alerts --json. If it is of another installation, set --prefix or --brokers; if it "
            "is old, Kafka may have let it expire (retention of the topic).",
        )
    customer = hit.key()
    mine: dict[str, Told] = {}
    with progress(call, "Its customer", parts) as tell:
        for message in scan(broker, parts, tell):
            if message.key() == customer:
                attributes = headers(message)
                alert = _alert(message, attributes)
                if alert is not None and alert.id not in mine:
                    source = attributes.get("ce_source", "").rpartition("/")[2]
                    mine[alert.id] = Told(alert, source, logical[message.topic() or ""], _withheld(message))
    told = mine.pop(headers(hit)["ce_id"], None)
    if told is None:
        raise Failure(
            Code.FAILED,
            f"What has the id {headers(hit)['ce_id']} is no alert that this version can read.",
            "It may be of a newer version, or of another program.",
            "Look at it with: churnwatch alerts --json.",
        )
    return told, sorted(mine.values(), key=lambda each: each.alert.sequence)


def _alert(message: Message, attributes: dict[str, str]) -> Alert | None:
    try:
        return decode_alert(attributes["ce_id"], message.value() or b"")
    except (KeyError, msgspec.DecodeError):
        return None


def _withheld(message: Message) -> str | None:
    why = msgspec.json.decode(message.value() or b"{}").get("withheld")
    return None if why is None else str(why)


class _Record(msgspec.Struct, frozen=True):
    """A record as the codec takes it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def _records(call: Shell, broker: Broker, alert: Alert) -> tuple[list[Read], dict[str, Part | None]]:
    """The customer's events up to the position, and what the topics still hold of that partition."""
    from agents.explain import Part, Read  # noqa: PLC0415
    from agents.transport import partition_of  # noqa: PLC0415

    settings = call.settings
    kafka, shop = settings.kafka, settings.shop
    key = alert.customer.encode()
    names = {kafka.topic(name): name for name in alert.position}
    there = broker.partitions()
    held = stretches(broker, [(topic, partition_of(key, there[topic])) for topic in names if topic in there])
    parts: dict[str, Part | None] = dict.fromkeys(alert.position)
    parts |= {names[s.topic]: Part(s.begin, s.end) for s in held}
    wanted = [
        Stretch(s.topic, s.partition, s.begin, min(s.end, alert.position[names[s.topic]] + 1)) for s in held
    ]
    codec = Codec(
        shop.currency, shop.minor_units, shop.rates, frozenset(kafka.topic(name) for name in COMPACTED)
    )
    read: list[Read] = []
    with progress(call, "Replaying", wanted) as tell:
        for message in scan(broker, wanted, tell):
            if message.key() != key or key == CLOCK_KEY:
                continue
            item = codec.decode(
                _Record(
                    topic=message.topic() or "",
                    partition=message.partition() or 0,
                    offset=message.offset() or 0,
                    timestamp=message.timestamp()[1],
                    key=message.key(),
                    value=message.value(),
                    headers=tuple(pairs(message)),
                )
            )
            if isinstance(item, Decoded | Tombstone):
                read.append(Read(names[message.topic() or ""], item))
    return read, parts


def _learned(call: Shell, broker: Broker) -> list[ChurnModel]:
    """The models of all snapshots there are."""
    from agents.core import usable  # noqa: PLC0415
    from models.snapshot import Book, Known  # noqa: PLC0415

    kafka = call.settings.kafka
    book = Book()
    for message in scan(broker, whole(broker, broker.partitions(), [kafka.topic(MODELS)])):
        book.take(message.key(), message.value())
    known = book.known()
    every = (*known.snapshots, *([known.pinned] if known.pinned else []))
    return [each.model for each in usable(call.settings, Known(every))]


# ---- telling


def _lines(told: Told, earlier: list[Told], found: Replay | None, settings: Settings) -> Iterator[str]:
    """All of it for people, with rich markup."""
    from agents.explain import moment  # noqa: PLC0415

    alert = told.alert
    yield f"[bold]{alert.kind} {alert.transition}[/]  {escape(alert.customer)}  {moment(alert.decided_at)}"
    yield f"[dim]{alert.id}, {_ordinal(alert.sequence)} alert of this customer, {_where(told)}[/]"
    if alert.churn_probability is not None:
        band = alert.risk_band or ""
        yield (
            f"{alert.churn_probability:.1%} likely to buy nothing in the next {alert.horizon_days:g} days: "
            f"[{_COLOURS.get(band, 'default')}]{band}[/]"
            + (f", cause: [cyan]{alert.cause.replace('_', ' ')}[/]" if alert.cause else "")
            + (f", to do: [cyan]{escape(alert.action)}[/]" if alert.action else "")
        )
    yield from _expected(alert)
    for offer in alert.offers:
        yield f"  {offer.type} {escape(offer.sku or offer.category or '')}: {escape(offer.reason or '')}"
    score = found.score if found is not None else None
    if score is not None and score.silence is not None:
        yield from _silence(score.silence, settings)
    if alert.churn_probability is not None:
        yield from _sum(alert, score)
    yield from _policy(told, earlier, found, settings)
    if found is not None:
        yield from _replay(found)


def _expected(alert: Alert) -> Iterator[str]:
    """What the models of purchases and spending expect, where the alert has it."""
    from agents.explain import moment  # noqa: PLC0415

    parts = []
    if alert.expected_next_order is not None:
        parts.append(f"next order {moment(alert.expected_next_order)[:10]}")
    if alert.predicted_clv is not None:
        parts.append(f"orders worth {alert.predicted_clv:,.2f} in 12 months")
    if alert.revenue_at_risk is not None:
        parts.append(f"{alert.revenue_at_risk:,.2f} of it at risk")
    if parts:
        yield "Expected: " + ", ".join(parts)


def _where(told: Told) -> str:
    if told.withheld is None:
        return f"delivered on {told.topic}"
    why = {
        "history": "rests on an archive",
        "silent": "was known before the first live decision",
        "ceiling": "more than policy.deliver_per_minute",
        "paused": "alerts of its kind were paused",
        "shadow": "its worker was in shadow mode",
    }
    return f"withheld ({told.withheld}: {why.get(told.withheld, 'see docs/marketing.md')})"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _silence(s: Silence, settings: Settings) -> Iterator[str]:
    """The silence, step by step, as docs/score.md has it."""
    prior, horizon = settings.prior, settings.policy.horizon_days
    k = prior.strength
    weight = f"{s.gaps:g} + {k:g}"
    middle = f"({s.gaps:g}·{s.mean:.3f} + {k:g}·ln {prior.gap_days:g}) / ({weight})"
    spread = f"({s.gaps:g}·{s.variance:.3f} + {k:g}·{prior.spread:g}²) / ({weight})"
    rows = (
        ("silent since", f"s = {s.days:.2f} days", ""),
        ("usual gap", f"α = {s.alpha:.2f} days", f"ln α = (n·m + k·ln gap_days) / (n + k) = {middle}"),
        ("its spread", f"β = {s.beta:.3f}", f"π / (√3 σ), σ² = (n·v + k·spread²) / (n + k) = {spread}"),
        (
            "left for good",
            f"π = {s.left:.4f}",
            f"a / (a + b + x) = {prior.defect_a:g} / ({prior.defect_a:g} + {prior.defect_b:g} + {s.repeats})",
        ),
        ("silent by chance", f"S(s) = {s.now:.4f}", "1 / (1 + (s/α)^β), of those who have not left"),
        (f"and {horizon:g} days more", f"S(s+H) = {s.later:.4f}", ""),
        (
            "from the silence",
            f"p = {s.churn:.4f}",
            f"(π + (1−π)·S(s+H)) / (π + (1−π)·S(s)); right after the purchase it was {s.fresh:.4f}",
        ),
    )
    yield ""
    yield "[bold]The silence against this customer's own rhythm[/]"
    for name, value, how in rows:
        yield f"  {name:<18}{value:<19}[dim]{escape(how)}[/]" if how else f"  {name:<18}{value}"


def _sum(alert: Alert, score: Score | None) -> Iterator[str]:
    """The parts and their sum: as replayed, and as the alert has them where that is something else."""
    from agents.explain import AGREE  # noqa: PLC0415

    assert alert.churn_probability is not None
    same = score is not None and abs(score.churn - alert.churn_probability) <= AGREE
    if not same:
        yield ""
        yield "[bold]The score, in log-odds of churn[/]" + ("" if score is None else ", as the alert has it")
        yield from _carried(alert, alert.churn_probability)
        if score is None:
            yield (
                "  An alert carries what each group added and where that starts, not the rhythm and the rise: those "
                "follow from the records, by a replay."
            )
            return
    assert score is not None
    yield ""
    yield "[bold]The score, in log-odds of churn[/]" + (
        "" if same else ", replayed under the settings of now"
    )
    reasons = _by_group(score.reasons)
    start = (
        "right after the last purchase" if score.model.source == "statistical" else "as usual in this shop"
    )
    yield _part("base", score.base, f"ln(p / (1 − p)) {start}")
    for group, weight in sorted(score.contributions.items(), key=lambda part: -abs(part[1])):
        if weight:
            yield _part(group, weight, reasons.get(group) or "too little for a reason")
    yield _part("total", score.total, f"1 / (1 + e^−total) = {score.churn:.6f}")


def _carried(alert: Alert, probability: float) -> Iterator[str]:
    """The sum as far as the alert has its parts."""
    from agents.explain import log_odds  # noqa: PLC0415

    total = log_odds(probability)
    if not alert.reasons:
        yield _part("not carried", total, "only churn alerts carry their parts")
    for reason in alert.reasons[-1:] + alert.reasons[:-1]:
        (group,) = _by_group((reason,))
        yield _part(group, reason.contribution or 0.0, reason.text or "")
    yield _part("total", total, f"1 / (1 + e^−total) = {probability:.6f}")


def _by_group(reasons: tuple[Reason, ...]) -> dict[str, str]:
    from alerts.reasons import GROUP_OF  # noqa: PLC0415

    return {GROUP_OF.get(reason.feature, reason.feature): reason.text or "" for reason in reasons}


def _part(name: str, weight: float, how: str) -> str:
    return f"  {name:<18}{weight:>+10.4f}    [dim]{escape(how)}[/]"


def _policy(told: Told, earlier: list[Told], found: Replay | None, settings: Settings) -> Iterator[str]:
    from agents.explain import moment  # noqa: PLC0415
    from alerts.policy import version  # noqa: PLC0415

    alert, policy = told.alert, settings.policy
    score = found.score if found is not None else None
    decision = found.decision if found is not None else None
    yield ""
    yield "[bold]The decision[/]"
    if alert.churn_probability is not None:
        held = (
            f"; left downwards only {policy.hysteresis:g} below"
            if decision is not None and decision.held not in {"none", "low"}
            else ""
        )
        yield (
            f"  {'band':<18}{alert.churn_probability:.6f}: medium from {policy.medium:g}, high from {policy.high:g}{held} "
            f"→ {alert.risk_band}"
        )
    if score is not None and decision is not None and alert.churn_probability is not None:
        lapsed = policy.lapsed_horizons * policy.horizon_days
        yield (
            f"  {'lapsed':<18}{'yes' if alert.risk_band == 'lapsed' else 'no'}: {decision.silent_days:.1f} days silent "
            f"(over {policy.lapsed_days:g}; or over {lapsed:g} and alive below {policy.lapsed_alive:g}, which is "
            f"{score.alive:.4f})"
        )
        if alert.kind == "churn" and alert.transition == "raised":
            reached = "≥" if score.rise >= policy.rise else "<"
            of = (
                f"total − base = {score.total:+.4f} − ({score.base:+.4f})"
                if score.model.source == "statistical"
                else "what silence, and what the customer has said, added since the last purchase"
            )
            yield (
                f"  {'rise':<18}{of} = {score.rise:.4f} {reached} "
                f"{policy.rise:g} (policy.rise); warned from {policy.warn_at} on"
            )
    yield f"  {'set off by':<18}" + (
        f"event {escape(alert.cause_event)}"
        if alert.cause_event is not None
        else "no event: the silence itself"
    )
    steps = [each for each in earlier if (each.alert.kind, each.alert.episode) == (alert.kind, alert.episode)]
    steps = sorted([*steps, told], key=lambda each: each.alert.sequence)
    shown = [
        f"{each.alert.transition} {moment(each.alert.decided_at)[:10]}"
        + (f" {each.alert.risk_band}" if each.alert.risk_band else "")
        + (" (withheld)" if each.withheld else "")
        + (" ← this" if each is told else "")
        for each in steps
    ]
    yield f"  {'episode':<18}opened {moment(alert.episode)}: {', '.join(shown)}"
    yield f"  {'position':<18}" + ", ".join(
        f"{name} {offset}" for name, offset in sorted(alert.position.items())
    )
    now = version(settings.policy)
    same = "that of the settings" if alert.versions.policy == now else f"the settings are {now} now"
    yield (
        f"  {'versions':<18}policy {alert.versions.policy} ({same}), model {escape(alert.versions.model)}, "
        f"features {alert.versions.features}"
    )


def _replay(found: Replay) -> Iterator[str]:
    yield ""
    yield "[bold]Replayed from the log[/]"
    colour = {"same": "green", "differs": "red"}.get(found.verdict, "yellow")
    records = "1 record" if found.records == 1 else f"{found.records:,} records"
    yield f"  {records} of this customer up to the position: [{colour}]{_VERDICTS[found.verdict]}[/]"
    for cause in found.causes:
        yield f"  {'although' if found.verdict == 'same' else 'as'} {escape(cause)}"
    for line in found.different:
        yield f"  replayed, {escape(line)}"
    if found.verdict == "same" and found.decision is None:
        yield "  Only the score was compared: what the policy decides could not be asked again."


def _plain(told: Told, found: Replay | None, settings: Settings) -> dict[str, Any]:
    """For ``--json``: the alert, the score and its steps, the thresholds, and the replay."""
    from streams.alerts import encode  # noqa: PLC0415
    from streams.events import rfc3339  # noqa: PLC0415

    policy = settings.policy
    result: dict[str, Any] = {
        "id": told.alert.id,
        "topic": told.topic,
        "alert": msgspec.Raw(encode(told.alert, told.withheld)),
        "thresholds": {
            name: getattr(policy, name)
            for name in (
                "horizon_days", "medium", "high", "warn_at", "hysteresis", "rise",
                "lapsed_alive", "lapsed_horizons", "lapsed_days",
            )
        },
    }  # fmt: skip
    if found is None:
        return result
    if found.score is not None:
        score = found.score
        result["score"] = {
            "base": score.base,
            "contributions": score.contributions,
            "total": score.total,
            "rise": score.rise,
            "churn_probability": score.churn,
            "alive": score.alive,
        }
        if score.silence is not None:
            result["score"]["silence"] = score.silence._asdict()
    again: dict[str, Any] = {
        "verdict": found.verdict,
        "records": found.records,
        "different": list(found.different),
        "causes": list(found.causes),
    }
    if found.decision is not None:
        plain = found.decision._asdict() | found.decision.outlook.known()
        if found.decision.outlook.expected_next_order is not None:
            plain["expected_next_order"] = rfc3339(found.decision.outlook.expected_next_order)
        again |= {k: v for k, v in plain.items() if v is not None and k not in {"offers", "outlook"}}
    result["replay"] = again
    return result
