"""``churnwatch policy preview``: what other thresholds would have warned of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import typer
from rich.table import Table

from agents.commands.alerts import decided
from agents.commands.backtest import history, whole_days
from agents.commands.kafka import Broker, headers
from agents.commands.scan import progress, scan, whole
from agents.commands.shell import Code, Failure, Shell, examples, shell
from agents.files import Reading
from agents.settings import Settings, SettingsError, keys
from alerts.policy import Policy
from features.shop import DAY
from streams.topics import ALERTS, CUSTOMER_SCORES, DECISIONS

if TYPE_CHECKING:
    from agents.preview import Bounds, Told, Volume

EPILOG = examples(
    "churnwatch policy preview orders.csv --propose medium=0.5          a file, replayed under both policies",
    "churnwatch policy preview orders.csv --propose medium=0.5 --propose rise=0.6 --last 8w",
    "churnwatch policy preview --propose medium=0.7                     what the running application recorded",
    "churnwatch policy preview orders.csv --propose medium=0.5 --json | jq .proposed.warnings_per_day",
)
_NOT_HERE = frozenset({"horizon_days"})
_DELIVERY = frozenset({"deliver_per_minute", "type_prefix", "score_change", "actions"})


def preview(
    context: typer.Context,
    events: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A history to replay: CSV, NDJSON or Parquet, also gzipped. Without: what was recorded on Kafka.",
            show_default=False,
        ),
    ] = None,
    propose: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="A threshold of the section policy; repeatable.", show_default=False
        ),
    ] = None,
    last: Annotated[str, typer.Option(metavar="DAYS", help="Of the last so many: 28d, 8w.")] = "28d",
    as_json: Annotated[
        bool, typer.Option("--json", help="One object, with the counts of every day.")
    ] = False,
) -> None:
    """Show how many warnings other thresholds would have given, beside today's.

    A file is replayed twice, from its beginning: exact, with how many warnings
    were right and how early. Without a file it is counted from what the running
    application has recorded, and said in what bounds that is known. Nothing is
    changed: who likes what he sees writes it into the settings.
    """
    call = shell(context)
    days = whole_days(last, 28)
    proposed, names = _proposed(call, propose or [])
    document = (
        _from_records(call, proposed, names, days)
        if events is None
        else _from_file(call, events, proposed, names, days)
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        return
    _show(call, document)


def _proposed(call: Shell, asked: Sequence[str]) -> tuple[Policy, list[str]]:
    """The policy with what is proposed, and the names of that. Raises :class:`Failure` and BadParameter."""
    flags: dict[str, object] = {}
    known = [name.removeprefix("policy.") for name in keys() if name.startswith("policy.")]
    for each in asked:
        name, equals, value = each.partition("=")
        name = name.strip().removeprefix("policy.")
        if not equals or not name:
            raise typer.BadParameter(f"--propose {each!r}: write KEY=VALUE, such as medium=0.5")
        if name in _NOT_HERE:
            raise typer.BadParameter(
                "another horizon is another question, with other labels: churnwatch backtest FILE --horizon 8w"
            )
        if name in _DELIVERY:
            raise typer.BadParameter(f"policy.{name} has no part in what is warned of")
        if name not in known:
            raise typer.BadParameter(f"policy.{name} is no setting; there are {', '.join(known)}")
        flags[f"policy.{name}"] = value.strip()
    path = call.config or call.default()
    try:
        policy = Settings.load(path, call.env, {**call.flags, **flags}).policy
    except SettingsError as e:
        lines = "\n".join(f"  {p.text}" for p in e.problems)
        raise Failure(Code.USAGE, "What is proposed cannot be a policy:", lines, "") from e
    return policy, [name.removeprefix("policy.") for name in flags]


# ---- a file


def _from_file(
    call: Shell, events: Path, proposed: Policy, names: Sequence[str], days: int
) -> dict[str, Any]:
    from agents import preview as core  # noqa: PLC0415 -- numpy and the backtest take their time
    from agents.backtest.run import Asked, replayed  # noqa: PLC0415

    settings = call.settings
    horizon = max(1, round(settings.policy.horizon_days))
    reading = Reading(call.codec(), ZoneInfo(settings.shop.time_zone))
    asked = Asked(horizon, 28)
    document: dict[str, Any] = {"source": "file", "name": events.name, "horizon_days": horizon}
    for title, policy in (("today", settings.policy), ("proposed", proposed)):
        if title == "proposed" and not names:
            break
        under = replayed(msgspec.structs.replace(settings, policy=policy), horizon)
        found = history(call, events, reading, under, asked, what=title.capitalize())
        volume = core.over(found, days)
        document[title] = {"policy": core.shown(policy, names)} | core.plain(volume)
        document |= {
            "from": document[title]["days"][0]["day"],
            "to": document[title]["days"][-1]["day"],
            "judged_from": core.iso(found.judge.first),
            "judged_to": core.iso(found.judge.last),
        }
    document["limits"] = [
        (
            "Both columns are a replay of the whole file, as if its policy had held from the beginning; what changes on the "
            "day of the switch itself is not delivered as news."
        ),
        (
            f"Right is known of silences that began from {document['judged_from']} to {document['judged_to']}: later ones "
            f"have not had their {horizon} days."
        ),
    ]
    return document


# ---- what was recorded


def _from_records(call: Shell, proposed: Policy, names: Sequence[str], days: int) -> dict[str, Any]:
    from agents import preview as core  # noqa: PLC0415

    beyond = sorted(set(names) - core.FROM_RECORDS)
    if beyond:
        raise Failure(
            Code.USAGE,
            f"What policy.{beyond[0]} would change cannot be told from records.",
            f"They hold probabilities and bands; of what can be proposed they can judge {', '.join(sorted(core.FROM_RECORDS))}.",
            "Replay a history instead: churnwatch policy preview FILE.",
        )
    if not core.tellable(call.settings.policy, proposed):
        raise Failure(
            Code.USAGE,
            "What a lower threshold would warn of cannot be told from records.",
            "Of those who were not warned of only leaps of their score were written (policy.score_change).",
            "Replay a history instead: churnwatch policy preview FILE.",
        )
    told, versions = _told(call)
    if not told:
        raise Failure(
            Code.NOT_FOUND,
            "Nothing was recorded yet.",
            "No warning and no score lies on alerts, decisions and customer-scores.",
            "Replay a history instead: churnwatch policy preview FILE.",
        )
    newest = max(each.at for each in told)
    last = newest // DAY
    first = max(last - days + 1, min(each.at for each in told) // DAY)
    found = core.recorded(told, call.settings.policy, proposed, first, last)
    change = call.settings.policy.score_change
    document: dict[str, Any] = {
        "source": "records",
        "name": call.settings.application,
        "horizon_days": call.settings.policy.horizon_days,
        "from": core.iso(first),
        "to": core.iso(last),
        "today": {"policy": core.shown(call.settings.policy, names)} | core.plain(found.volume),
        "limits": [
            (
                f"Of a score it is known only what was written: a change of {change:g} (policy.score_change) or of the band; "
                f"hence at least and at most."
            ),
            (
                "Kafka forgets: alerts and decisions by their retention, all but the newest score of a customer by "
                "compaction."
            ),
            (
                "Right is a warning that no purchase followed within the horizon; when the last purchase was, and so how "
                "early the warning came, the records do not say. churnwatch policy preview FILE does."
            ),
        ],
    }
    if len(versions) > 1:
        document["limits"].append(
            f"{len(versions)} policies decided in this time: {', '.join(sorted(versions))}."
        )
    if names:
        document["proposed"] = {"policy": core.shown(proposed, names), **_bounds(found.bounds, found.volume)}
        document["today"]["by_the_same_reckoning"] = _bounds(found.today, found.volume)
    return document


def _bounds(bounds: Bounds, volume: Volume) -> dict[str, Any]:
    days = max(len(volume.days), 1)
    return {
        name: {"warnings": raised, "warnings_per_day": round(raised / days, 3), "came_to_high": high}
        for name, raised, high in zip(("at_least", "at_most"), bounds.raised, bounds.high, strict=True)
    }


class _Record(msgspec.Struct):
    customer: str = ""
    kind: str = ""
    transition: str = ""
    churn_probability: float = 0.0
    risk_band: str = ""
    decided_at: str = ""
    withheld: str = ""
    versions: dict[str, str] = {}


def _told(call: Shell) -> tuple[list[Told], set[str]]:
    """The records of churn, each once, and the versions of the policies behind them. Raises :class:`Failure`."""
    from agents.preview import Told  # noqa: PLC0415

    kafka = call.settings.kafka
    broker = Broker(kafka)
    wanted = whole(broker, broker.partitions(), map(kafka.topic, (ALERTS, DECISIONS, CUSTOMER_SCORES)))
    found: dict[str, Told] = {}
    versions: set[str] = set()
    scores = kafka.topic(CUSTOMER_SCORES)
    with progress(call, "Reading what was recorded", wanted) as tell:
        for message in scan(broker, wanted, tell):
            try:
                record = msgspec.json.decode(message.value() or b"", type=_Record)
            except msgspec.DecodeError:
                continue
            score = message.topic() == scores
            if not score and record.kind != "churn":
                continue
            at = decided({"decided_at": record.decided_at})
            identity = headers(message).get(
                "ce_id", f"{message.topic()}/{message.partition()}/{message.offset()}"
            )
            step = "" if score else record.transition
            versions.add(record.versions.get("policy", "?"))
            told = Told(
                at, record.customer, record.churn_probability, record.risk_band, step, record.withheld
            )
            found.setdefault(identity, told)
    return list(found.values()), versions


# ---- for people


def _show(call: Shell, document: Mapping[str, Any]) -> None:
    today, proposed = document["today"], document.get("proposed")
    out = call.out
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "today", *(("proposed",) if proposed else ())):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for name, row in _rows(document):
        table.add_row(name, *row)
    out.print(
        f"{document['name']}, {document['from']} to {document['to']} ({len(today['days'])} days), "
        f"horizon {document['horizon_days']:g} days\n",
        markup=False,
    )
    out.print(table)
    out.print("")
    columns = [today] + ([proposed] if proposed and "days" in proposed else [])
    days = Table(
        title="raised in medium / in high / worsened from medium to high",
        title_justify="left", title_style="dim", box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    days.add_column("day", no_wrap=True)
    for title in ("today", "proposed")[: len(columns)]:
        days.add_column(title, justify="right", no_wrap=True)
    for counts in zip(*(of["days"] for of in columns), strict=True):
        days.add_row(counts[0]["day"], *(f"{c['medium']:>4} / {c['high']} / {c['worsened']}" for c in counts))
    out.print(days)
    out.print("")
    for line in (_said(document), *document["limits"]):
        out.print(line, markup=False)


def _said(document: Mapping[str, Any]) -> str:
    """The answer, in a sentence."""
    today, proposed = document["today"], document.get("proposed")
    days = len(today["days"])
    span = f"over the last {days} days"
    now = f"{today['warnings_per_day']:.1f} warnings a day"
    if proposed is None:
        return f"Today's thresholds gave {now} {span}."
    if "warnings_per_day" in proposed:
        would = f"{proposed['warnings_per_day']:.1f}"
    else:
        least, most = proposed["at_least"]["warnings_per_day"], proposed["at_most"]["warnings_per_day"]
        would = f"{least:.1f}" if least == most else f"{least:.1f} to {most:.1f}"
    return f"These thresholds would have given {would} warnings a day {span}; today's gave {now}."


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    today, proposed = document["today"], document.get("proposed")
    sides = [today] + ([proposed] if proposed else [])
    for name in today["policy"]:
        cells = [_cell(side["policy"][name]) for side in sides]
        if name == "version" or len(set(cells)) > 1 or name in {"medium", "high"}:
            yield f"policy {name}" if name == "version" else f"policy.{name}", cells

    def each(name: str, of: Callable[[Mapping[str, Any]], str]) -> tuple[str, list[str]]:
        return name, [of(side) for side in sides]

    def bounds(side: Mapping[str, Any], what: str, exact: str) -> str:
        if "at_least" not in side:
            return exact
        least, most = side["at_least"][what], side["at_most"][what]
        return f"{least:,}" if least == most else f"{least:,} to {most:,}"

    yield each(
        "warnings a day", lambda s: bounds(s, "warnings_per_day", f"{s.get('warnings_per_day', 0):.1f}")
    )
    yield each("warnings", lambda s: bounds(s, "warnings", f"{s.get('warnings', 0):,}"))
    for band in ("medium", "high"):
        yield each(f"  raised in {band}", lambda s, b=band: f"{s['raised'][b]:,}" if "raised" in s else "-")  # type: ignore[misc]
    yield each("  worsened to high", lambda s: f"{s['worsened']:,}" if "worsened" in s else "-")
    if proposed is not None and "at_least" in proposed:
        reckoned = today["by_the_same_reckoning"]
        yield "came to high", [bounds(reckoned, "came_to_high", ""), bounds(proposed, "came_to_high", "")]
        yield "today's warnings, by the same reckoning", [bounds(reckoned, "warnings", ""), ""]
    yield each("outcome known of", lambda s: f"{s['outcome']['known']:,}" if "outcome" in s else "-")
    for name, key, form in (
        ("right", "precision", "{:.0%}"),
        ("of those who left", "recall", "{:.0%}"),
        ("days left to act (median)", "median_lead_days", "{:g}"),
    ):
        cells = [
            "-" if (value := side.get("outcome", {}).get(key)) is None else form.format(value)
            for side in sides
        ]
        if set(cells) != {"-"}:
            yield name, cells


def _cell(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
