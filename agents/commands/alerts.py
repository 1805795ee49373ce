"""``churnwatch alerts``: what was warned of, and as it is warned of."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer
from confluent_kafka import Message
from rich.markup import escape

from agents.commands.kafka import Broker, headers
from agents.commands.shell import examples, instant, shell
from streams.events import to_micros
from streams.topics import ALERTS

EPILOG = examples(
    "churnwatch alerts                                       all there are, oldest first",
    "churnwatch alerts --follow                              and then each as it is raised, until Ctrl-C",
    "churnwatch alerts --kind churn --band high --since 7d   of the last week, the urgent ones",
    "churnwatch alerts --customer 12346 --json | jq .reasons  why one customer was warned of",
    "churnwatch alerts pause                                 deliver no more, until churnwatch alerts resume",
)
_COLOURS = {"high": "red", "medium": "yellow", "low": "green", "lapsed": "dim"}


def alerts(
    context: typer.Context,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay, and show new ones as they come.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One object a line: id, type, source, time and all fields of the alert."),
    ] = False,
    customer: Annotated[str | None, typer.Option(help="Of this customer only.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="churn, upsell, winback or service; with .transition: churn.raised.")
    ] = None,
    band: Annotated[str | None, typer.Option(help="low, medium, high or lapsed.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Decided then or later: 2026-01-31, or 7d, 12h ago.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the newest so many (of those before --follow).")
    ] = None,
) -> None:
    """Show alerts from Kafka, or (pause, resume) keep them from being delivered.

    Nothing is consumed: others see them too. An alert that was sent twice is shown once.
    """
    if context.invoked_subcommand is not None:
        return
    call = shell(context)
    start = None if since is None else instant(since)
    broker = Broker(call.settings.kafka)
    topic = call.settings.kafka.topic(ALERTS)

    def wanted(alert: Mapping[str, Any]) -> bool:
        what = f"{alert.get('kind')}.{alert.get('transition')}"
        return (
            (customer is None or alert.get("customer") == customer)
            and (kind is None or kind in {what, alert.get("kind")})
            and (band is None or alert.get("risk_band") == band)
            and (start is None or decided(alert) >= start)
        )

    def show(alert: Mapping[str, Any]) -> None:
        if as_json:
            sys.stdout.write(msgspec.json.encode(alert).decode() + "\n")
            sys.stdout.flush()
        else:
            call.out.print(sentence(alert))

    past: list[dict[str, Any]] = []
    try:
        with broker.explained():
            seen: set[str] = set()
            past += (a for a in _once(broker.read(topic), seen) if wanted(a))
            past.sort(key=decided)
            for alert in past if limit is None else past[-limit:]:
                show(alert)
            if follow:
                # From the beginning again, so that what came in between is not missed; the rest is known by id.
                told = broker.read(topic, follow=True, tell=lambda said: call.err.print(said, markup=False))
                for alert in _once(told, seen):
                    if wanted(alert):
                        show(alert)
    except KeyboardInterrupt:
        if not follow:
            raise
        return  # the way to end it
    if not past and not follow and not as_json:
        call.err.print("No alerts" + (" like that." if any((customer, kind, band, since)) else " yet."))


def _once(messages: Iterator[Message], seen: set[str]) -> Iterator[dict[str, Any]]:
    for message in messages:
        alert = decode(message)
        if alert is not None and alert["id"] not in seen:
            seen.add(alert["id"])
            yield alert


def decode(message: Message) -> dict[str, Any] | None:
    """An alert with its CloudEvents attributes beside its own fields; None for what is none."""
    attributes = {k[3:]: v for k, v in headers(message).items() if k.startswith("ce_")}
    try:
        data = msgspec.json.decode(message.value() or b"")
    except msgspec.DecodeError:
        return None
    if not isinstance(data, dict) or "id" not in attributes:
        return None
    envelope = {name: attributes[name] for name in ("id", "type", "source", "time") if name in attributes}
    return {**envelope, **data}


def decided(alert: Mapping[str, Any]) -> int:
    """When it was decided, microseconds; 0 when it does not say."""
    try:
        at = alert.get("decided_at", alert.get("time"))
        return at if isinstance(at, int) else to_micros(msgspec.convert(at, type=datetime))
    except (msgspec.ValidationError, TypeError):
        return 0


def sentence(alert: Mapping[str, Any]) -> str:
    """An alert as one line with rich markup: when, what, who, how likely, why, and what to do."""
    when = escape(str(alert.get("time") or alert.get("decided_at") or "")[:16].replace("T", " "))
    band = str(alert.get("risk_band") or "")
    colour = _COLOURS.get(band, "default")
    parts = [
        f"[dim]{when}[/]",
        f"[bold]{escape(str(alert.get('kind', '?')))} {escape(str(alert.get('transition', '?')))}[/]",
        escape(str(alert.get("customer", "?"))),
    ]
    if band:
        probability = alert.get("churn_probability")
        shown = f" {probability:.0%}" if isinstance(probability, int | float) else ""
        parts.append(f"[{colour}]{escape(band)}{shown}[/]")
    reasons = alert.get("reasons") or []
    why = "; ".join(str(r.get("text", "")).rstrip(".") for r in reasons[:2] if isinstance(r, dict))
    offers = alert.get("offers") or []
    if offers and isinstance(offers[0], dict):
        first = offers[0]
        why = f"{first.get('type')} {first.get('category') or first.get('sku') or ''}".strip()
    if why:
        parts.append(escape(why))
    if alert.get("action"):
        parts.append(f"[cyan]→ {escape(str(alert['action']))}[/]")
    if alert.get("history"):
        parts.append("[dim](history)[/]")
    return "  ".join(parts)
