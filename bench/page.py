"""The results for people: ``speed.md``, written anew from all that ``speed.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.events import KINDS

Results = Mapping[str, Any]

ENGINES = {
    "churnwatch": "**churnwatch**: the whole path to the warning",
    "faust_empty": "Faust, an agent that does nothing",
    "faust_table": "Faust, a Table with a bare state per customer",
    "quix": "Quix Streams, a bare state per customer",
    "bytewax": "bytewax, a bare state per customer",
}
INTRODUCTION = """# Speed, measured

Written by `make bench`; what each figure means and how it is taken: [docs/speed.md](../../docs/speed.md).
churnwatch does everything to every event: decode, state, features, score, decision, deadlines, one atomic commit
to Redis, and the relay of what leaves. The others keep a counter, or nothing.

![Processor seconds per million events](speed.svg)"""
PER_EVENT = {
    "decision_points_per_event": "decisions",
    "looks_per_event": "looks at silent customers",
    "alerts_per_event": "alerts",
    "scores_written_per_event": "messages to customer-scores",
    "commits_per_event": "commits",
    "aof_bytes_per_event": "bytes of Redis' log",
    "lua_p50_ms": "Lua p50, ms",
    "lua_p99_ms": "Lua p99, ms",
}


def page(results: Results) -> str:
    """The whole page; a section that was never measured is left out."""
    sections = [
        INTRODUCTION, _aims(results), _engines(results), _path(results), _latency(results), _memory(results),
        _sweep(results), _takeover(results), _profile(results), _where(results),
    ]  # fmt: skip
    return "\n\n".join(section for section in sections if section) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def _figure(found: Results, *path: str) -> Any:
    """A figure by its path, None where it was not measured."""
    value: Any = found
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 1 else 2 if abs(value) >= 0.1 else 4
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".")


def _aims(results: Results) -> str:
    ours = _figure(results, "engines", "churnwatch", "uniform", "cpu_seconds_per_million")
    empty = _figure(results, "engines", "faust_empty", "uniform", "cpu_seconds_per_million")
    outbox = ("latency", "to_outbox_ms")
    asked: list[tuple[str, Any, str, bool]] = []
    if ours is not None:
        asked.append(("processor seconds per million events, uniform", ours, "under 20", ours < 20))
        asked.append(("the same, as an aim", ours, "under 10", ours < 10))
    if ours and empty:
        asked.append(("times less than the empty Faust agent", empty / ours, "at least 4", empty >= 4 * ours))
    if "latency" in results:
        p50, p99 = _figure(results, *outbox, "p50"), _figure(results, *outbox, "p99")
        cores = _figure(results, "latency", "worker_cores")
        asked.append(("to the outbox at 1,000 events/s, p50 in ms", p50, "at most 20", p50 <= 20))
        asked.append(("the same, p99 in ms", p99, "at most 50", p99 <= 50))
        asked.append(("cores of the worker at that rate", cores, "at most 0.2", cores <= 0.2))
    if not asked:
        return ""
    rows = [(what, _shown(value), aim, "yes" if met else "**no**") for what, value, aim, met in asked]
    return "## Targets\n\n" + table(("", "measured", "target", "met"), rows)


def _engines(results: Results) -> str:
    found = results.get("engines")
    if not found:
        return ""
    kinds = [kind for kind in KINDS if any(kind in by for by in found.values())]
    names = [name for name in ENGINES if name in found]

    def rows(figure: str) -> list[list[str]]:
        return [[ENGINES[n], *(_shown(_figure(found, n, kind, figure)) for kind in kinds)] for n in names]

    spread = [
        [
            ENGINES[name],
            *(", ".join(map(_shown, _figure(found, name, k, "repetitions") or ())) for k in kinds),
        ]
        for name in names
    ]
    parts = [
        "## Engines side by side",
        "Processor seconds (user and system) of the worker per million events; less is better.",
        table(("", *kinds), rows("cpu_seconds_per_million")),
        "Events per second, one worker process.",
        table(("", *kinds), rows("events_per_second")),
        "Beside it the broker, processor seconds per million events (changelogs are written there).",
        table(("", *kinds), rows("broker_cpu_seconds_per_million")),
        "And Redis.",
        table(("", *kinds), rows("redis_cpu_seconds_per_million")[:1]) if "churnwatch" in found else "",
        "The repetitions behind the first table.",
        table(("", *kinds), spread),
    ]
    return "\n\n".join(part for part in parts if part)


def _path(results: Results) -> str:
    ours = _figure(results, "engines", "churnwatch")
    if not ours:
        return ""
    kinds = [kind for kind in KINDS if kind in ours]
    rows = [[name, *(_shown(ours[kind].get(figure)) for kind in kinds)] for figure, name in PER_EVENT.items()]
    return "## What churnwatch did for each event\n\n" + table(("per event", *kinds), rows)


def _latency(results: Results) -> str:
    found = results.get("latency")
    if not found:
        return ""
    rows = [
        [name, *(_shown(found[key][which]) for which in ("p50", "p99", "max"))]
        for key, name in (
            ("to_outbox_ms", "to the durable outbox"),
            ("to_alert_ms", "to a consumer of `alerts`"),
        )
    ]
    cores = ", ".join(
        f"{name} {found[f'{name}_cores']:.2f}" for name in ("worker", "redis", "broker", "harness")
    )
    events = f"{found['events']:,} events, {found['events_per_commit']:g} in each commit, {found['alerts']:,} alerts"
    said = f"Cores: {cores}. {events}."
    title = f"## Latency at {found['events_per_second']:,} events a second"
    return "\n\n".join((title, table(("milliseconds from the producer", "p50", "p99", "worst"), rows), said))


def _memory(results: Results) -> str:
    found = results.get("memory")
    if not found:
        return ""
    names = [name for name in ("cdnow", "mix") if "bytes_per_customer" in found.get(name, {})]
    figures = (
        "bytes_per_customer",
        "hot_bytes_per_customer",
        "cold_bytes_per_customer",
        "due_bytes_per_customer",
    )
    rows = [
        [name, *(_shown(found[name][f]) for f in figures), _shown(found[name]["customers"])] for name in names
    ]
    missing = [f"`{name}`: {found[name]['missing']}" for name in found if "missing" in found[name]]
    head = ("bytes of Redis per customer", "all in", "of it hot", "cold", "deadlines", "customers")
    return "\n\n".join(("## Memory", table(head, rows), *missing))


def _sweep(results: Results) -> str:
    found = results.get("sweep")
    if not found:
        return ""
    by_size = {int(name): value for name, value in found.items() if name.isdigit()}
    rows = [
        [
            f"{size:,}", f"{value['looks']:,}", _shown(value["milliseconds"]), _shown(value["microseconds_per_look"]),
            _shown(value["worker_cpu_microseconds_per_look"]), _shown(value["redis_query_microseconds"]),
        ]
        for size, value in sorted(by_size.items())
    ]  # fmt: skip
    head = (
        "customers",
        "looks",
        "ms in all",
        "µs a look",
        "µs of processor a look",
        "µs of Redis to find them",
    )
    return "## The same number due among few and among many\n\n" + table(head, rows)


def _takeover(results: Results) -> str:
    found = results.get("takeover")
    if not found:
        return ""
    rows = [
        [name, _shown(found[key]["seconds"]), ", ".join(map(str, found[key]["repetitions"]))]
        for key, name in (("sigterm", "SIGTERM"), ("sigkill", "SIGKILL"))
    ]
    said = (
        "Seconds from the signal until the other works on all of its partitions. After a SIGKILL the brokers wait "
        f"for the session to run out, here {found['session_timeout_seconds']:g} s."
    )
    return "\n\n".join(("## One of two workers ends", said, table(("", "median", "repetitions"), rows)))


def _profile(results: Results) -> str:
    found = results.get("profile")
    if not found:
        return ""
    if "missing" in found:
        return f"## Where the time goes\n\n{found['missing']}"
    shares = [[part, f"{share:.1%}"] for part, share in found["shares"].items()]
    functions = [[f"`{name}`", f"{share:.1%}"] for name, share in found["functions"].items()]
    return "\n\n".join(
        (
            "## Where the time goes",
            f"The worker on `{found['kind']}`, {found['samples']:,} samples.",
            table(("part of the path", "share"), shares),
            table(("function", "share of its own"), functions),
        )
    )


def _where(results: Results) -> str:
    said = [*results.get("machine", {}).items(), *results.get("versions", {}).items()]
    when = sorted(results.get("when", {}).values())
    if not when:
        return ""
    span = when[0] if when[0] == when[-1] else f"{when[0]} to {when[-1]}"
    busy = max(results.get("load_before", {}).values(), default=0.0)
    load = f"The load average before it was at most {busy:g}: what others did on the machine."
    return f"Measured {span}. {load} Machine: " + ", ".join(f"{name} {value}" for name, value in said) + "."
