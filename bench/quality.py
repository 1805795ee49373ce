"""How good the score and the warnings are, and what they cost: three real histories and a simulated shop.

One setting for all of them. Each section is measured by itself and replaces its own figures in
``bench/results/quality.json``; ``quality.md`` is written from them. ``python -m bench.quality cdnow``
measures only that; what a score costs is measured with it.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from agents import datasets
from agents.backtest.lessons import Lessons
from agents.backtest.lightgbm import MissingPackage
from agents.backtest.report import report
from agents.backtest.run import Asked, Found, replayed, run
from agents.commands.backtest import GC_THRESHOLDS
from agents.demo import history
from agents.files import Entry, Reading, entry, extent, read
from agents.settings import Settings
from agents.simulator import simulate
from features import matrix
from features.customer import unpack_hot
from features.shop import DAY
from models.additive import Additive
from models.evaluation import quality
from streams.codec import Codec
from streams.events import to_micros
from tests.chaos.results import machine
from tests.servers import ROOT

FOLDER: Final = ROOT / "bench" / "results"
RETAIL: Final = ROOT.parent / "shared" / "data" / "online_retail_II.csv.gz"
CODEC: Final = Codec("USD", 2, {}, frozenset())
SECTIONS: Final = ("retail", "groceries", "cdnow", "simulated")
BATCH: Final = 2_000
SHOP: Final = 1_500, 365
"""Customers and days of the simulated shop."""
TROUBLED: Final = 60
BROWSING: Final = frozenset({"view", "search", "cart", "checkout"})
TROUBLE: Final = frozenset(
    {"complaint", "complaint_update", "inquiry", "inquiry_update", "survey", "review", "customer_lost"}
)
MODELS: Final = {
    "champion": "**churnwatch**",
    "recency": "recency only",
    "btyd": "buy till you die, online",
    "rfm_logistic": "recency, frequency, money",
    "lightgbm": "LightGBM, refitted at each cut-off",
}
AIMS: Final = {"cdnow": (0.8059, 0.3384), "groceries": (0.8836, 0.3082), "retail": (0.8046, 0.515)}
"""AUC at least, log-loss at most."""
TITLES: Final = {
    "cdnow": "CDNOW, 12 weeks",
    "groceries": "Complete Journey, 4 weeks",
    "retail": "Online Retail II, 12 weeks",
}


class Unavailable(Exception):
    """A section that cannot be measured here; the message says why."""


class History(NamedTuple):
    """Events in order of time, from and to these instants, and the horizon in days."""

    entries: Iterable[Entry]
    span: tuple[int, int]
    horizon: int


def cdnow() -> History:
    """Customers of an online music shop."""
    return _file(datasets.cdnow(), 84)


def groceries() -> History:
    """Households of a grocery chain's panel."""
    opened = history.source("groceries-all", CODEC).open(lambda _: None)
    return History(opened.entries, (opened.first, opened.last), 28)


def retail() -> History:
    """Customers of a gift wholesaler."""
    if not RETAIL.exists():
        raise Unavailable(f"{RETAIL.name} is not on this machine")
    return _file(RETAIL, 84)


def _file(path: Path, horizon: int) -> History:
    reading = Reading(CODEC)
    span = extent(path, reading)
    assert span is not None
    return History(read(path, reading, lambda _: None), span, horizon)


class Timed(NamedTuple):
    """A backtest, and the processor seconds it took without the comparison."""

    found: Found
    seconds: float


def backtested(found: History) -> Timed:
    """The history, replayed under the defaults."""
    settings = replayed(Settings(), found.horizon)
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        lessons = Lessons(settings, "lightgbm")
    except MissingPackage:
        lessons = Lessons(settings)
    began = time.process_time()
    done = run(found.entries, found.span, CODEC, settings, Asked(found.horizon, 28), lessons)
    return Timed(done, time.process_time() - began - lessons.compared_seconds)


# ---- sections


def measured(name: str, opened: Callable[[], History]) -> dict[str, Any]:
    """Scores and warnings on one history."""
    return told(name, backtested(opened()))


def told(name: str, timed: Timed) -> dict[str, Any]:
    """The figures of a backtest."""
    found, used = timed
    document: Any = report(found, name)
    for population in ("all", "active"):
        document["churn"][population].pop("cutoffs")
    alerts = document["alerts"]
    kept = {key: value for key, value in alerts.items() if key not in {"curve", "curves_by_rise", "limits"}}
    return {
        "horizon_days": found.asked.horizon,
        "events": found.events,
        "customers": len(found.names),
        "cutoffs": len(found.cutoffs),
        "labels": document["learned"]["labels"],
        "decides": document["learned"]["decides"],
        "churn": {population: document["churn"][population]["mean"] for population in ("all", "active")},
        "alerts": kept,
        "processor_seconds": round(used, 1),
        "events_per_processor_second": round(found.events / used, 1),
    }


def simulated() -> dict[str, Any]:
    """A shop whose customers browse and complain, with and without that being told."""
    shop = simulate(seed=11, customers=SHOP[0], days=SHOP[1])
    start, end = shop.start, shop.end
    everything = [entry(event) for event in shop if to_micros(event.time) < end]
    found: dict[str, Any] = {}
    for name, left_out in (
        ("everything", frozenset()),
        ("without browsing", BROWSING),
        ("without complaints", TROUBLE),
        ("without both", BROWSING | TROUBLE),
    ):
        kept = [each for each in everything if each.kind not in left_out]
        timed = backtested(History(kept, (start, end - 1), 28))
        found[name] = told(name, timed) | {"after_trouble": _after_trouble(timed.found, everything)}
    return found


def _after_trouble(found: Found, everything: list[Entry]) -> dict[str, Any]:
    """The champion's figures on active customers who had complained, or answered a survey badly or well, in the
    ``TROUBLED`` days before a cut-off, whether or not it was told of it; all cut-offs together."""
    days: dict[bytes, list[int]] = {}
    for each in everything:
        if each.kind in TROUBLE:
            days.setdefault(each.customer.encode(), []).append(each.at // DAY)
    churned, stated = [], []
    for cutoff in found.cutoffs:
        day = cutoff.stated.day
        for place, active, left, p in zip(
            cutoff.stated.customers.tolist(),
            cutoff.stated.active,
            cutoff.churned,
            cutoff.stated.stated["champion"],
            strict=True,
        ):
            if active and any(day - TROUBLED < at <= day for at in days.get(found.names[place], ())):
                churned.append(bool(left))
                stated.append(float(p))
    of = quality(churned, stated)
    return {"n": of.n, "auc": round(of.auc, 6), "log_loss": round(of.log_loss, 6)}


def cdnow_and_cost() -> dict[str, Any]:
    """CDNOW's figures; what a score, a lesson and a state cost is measured on the states at its end."""
    timed = backtested(cdnow())
    keep("cost", cost(timed.found))
    return told("cdnow", timed)


def cost(found: Found) -> dict[str, Any]:
    """What a score, a lesson and a state cost, on the customers of a history."""
    held = found.replay.held[0]
    sizes = np.array([len(raw) for raw in held.hot.values()], dtype=np.float64)
    cold = np.array([len(held.cold.get(key, b"")) for key in held.hot], dtype=np.float64)
    model = found.replay.engine.model
    customers = [unpack_hot(raw) for raw in held.hot.values()][: 2 * BATCH]
    at = [(found.last + 1) * DAY] * BATCH
    overdue = found.settings.policy.complaint_overdue_hours

    def score(first: int) -> None:
        model.score(matrix.inputs(customers[first : first + BATCH], at, overdue))

    scoring = _best(lambda: score(BATCH)) / BATCH
    x = matrix.inputs(customers, [(found.last + 1) * DAY] * len(customers), overdue)
    rows = np.array(x).T.astype(np.float32).tolist()
    dice = np.random.Generator(np.random.PCG64(1))
    churned = (dice.random(len(rows)) < model.score(x).churn).tolist()
    due = np.linspace(0, 300, len(rows)).tolist()

    def learn() -> None:
        Additive(84.0).learn_many(rows, churned, due)

    learning = _best(learn) / len(rows)
    return {
        "customers": len(sizes),
        "score_microseconds": round(scoring * 1e6, 2),
        "learn_microseconds": round(learning * 1e6, 2),
        "hot_bytes": round(float(sizes.mean()), 1),
        "cold_bytes": round(float(cold.mean()), 1),
        "state_bytes": round(float((sizes + cold).mean()), 1),
        "decides": model.name,
    }


def _best(work: Callable[[], object], times: int = 5) -> float:
    """Processor seconds of the quickest run: others share the machine."""
    best = float("inf")
    for _ in range(times):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


# ---- what is kept


def keep(section: str, found: Any, folder: Path = FOLDER) -> dict[str, Any]:
    """Adds a section's figures and writes both files."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "quality.json"
    after: dict[str, Any] = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    after[section] = found
    after["machine"] = machine()
    after["when"] = {**after.get("when", {}), section: datetime.now(UTC).isoformat(timespec="seconds")}
    file.write_bytes(msgspec.json.format(msgspec.json.encode(after), indent=1) + b"\n")
    (folder / "quality.md").write_text("\n".join(page(after)) + "\n")
    return after


def page(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures for people."""
    yield "# Quality, measured"
    yield ""
    yield "Written by `make quality`: histories replayed by `churnwatch backtest` under the defaults, one setting for all."
    yield "How the figures are taken and read: [docs/backtest.md](../../docs/backtest.md). Means over the cut-offs, which go"
    yield "from the middle of each history to its end minus the horizon, every 28 days."
    there = [name for name in AIMS if name in found]
    if there:
        yield from _scores(found, there)
        yield from _warnings(found, there)
    if "simulated" in found:
        yield from _simulated(found["simulated"])
    if "cost" in found:
        yield from _cost(found["cost"])
    yield ""
    yield "## Where"
    yield ""
    said = found["machine"]
    yield ", ".join(f"{key} {value}" for key, value in said.items()) + "."
    yield ""
    yield ", ".join(f"{section} {when}" for section, when in found["when"].items()) + "."


def _scores(found: Mapping[str, Any], there: list[str]) -> Iterator[str]:
    for population, title in (
        ("all", "Everyone who has bought"),
        ("active", "Those who bought within the last horizon"),
    ):
        yield ""
        yield f"## {title}: AUC / log-loss"
        yield ""
        yield "| | " + " | ".join(TITLES[name] for name in there) + " |"
        yield "| --- |" + " ---: |" * len(there)
        for model, called in MODELS.items():
            cells = [found[name]["churn"][population].get(model) for name in there]
            if any(cells):
                yield f"| {called} | " + " | ".join("–" if c is None else f"{c['auc']:.4f} / {c['log_loss']:.4f}" for c in cells) + " |"  # fmt: skip
        if population == "all":
            yield (
                "| aim | " + " | ".join(f"{AIMS[name][0]:.4f} / {AIMS[name][1]:.4f}" for name in there) + " |"
            )
            met = []
            for name in there:
                mine = found[name]["churn"]["all"]["champion"]
                good = mine["auc"] >= AIMS[name][0], mine["log_loss"] <= AIMS[name][1]
                met.append(
                    "yes"
                    if all(good)
                    else "**no**: " + ("log-loss" if good[0] else "AUC" if good[1] else "both")
                )
            yield "| met | " + " | ".join(met) + " |"
    yield ""
    yield "| churnwatch, everyone | " + " | ".join(TITLES[name] for name in there) + " |"
    yield "| --- |" + " ---: |" * len(there)
    for figure, called in (
        ("average_precision", "average precision"), ("brier", "Brier"), ("calibration_error", "calibration error"),
        ("precision_top_decile", "precision in the top tenth"),
    ):  # fmt: skip
        yield (
            f"| {called} | "
            + " | ".join(f"{found[n]['churn']['all']['champion'][figure]:.4f}" for n in there)
            + " |"
        )
    for field, called in (("customers", "customers"), ("cutoffs", "cut-offs"), ("labels", "labels learned"), ("decides", "decides at the end"), ("events", "events"), ("processor_seconds", "processor seconds of the replay")):  # fmt: skip
        cells = [found[n][field] for n in there]
        yield (
            f"| {called} | "
            + " | ".join(
                f"{c:,}" if isinstance(c, int) else f"{c:g}" if isinstance(c, float) else str(c)
                for c in cells
            )
            + " |"
        )


def _warnings(found: Mapping[str, Any], there: list[str]) -> Iterator[str]:
    yield ""
    yield "## Warnings on active customers, set to a precision of 0.7"
    yield ""
    yield "| | threshold, rise | precision | recall | median lead, days | best limit on silence | its lead | ratio |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name in there:
        at = found[name]["alerts"]["at_precision"]["0.7"]
        ours, limit = at["churnwatch"], at["silence_limit"]
        if ours is None or limit is None:
            yield f"| {TITLES[name]} | – | | | | | | |"
            continue
        ratio = "–" if at["lead_ratio"] is None else f"{at['lead_ratio']:.2f}"
        yield (
            f"| {TITLES[name]} | {ours['threshold']:g}, {ours['rise']:g} | {ours['precision']:.3f} | {ours['recall']:.3f} | "
            f"{ours['median_lead_days']:g} | {limit['days']} days | {limit['median_lead_days']:g} | {ratio} |"
        )
    yield ""
    yield "## Warnings as the defaults give them"
    yield ""
    yield "| | precision | recall | median lead, days | a week per 1,000 | a limit as often right | its lead |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name in there:
        alerts = found[name]["alerts"]
        limit = alerts["silence_limit"]
        yield (
            f"| {TITLES[name]} | {_or_dash(alerts['precision'], 3)} | {_or_dash(alerts['recall'], 3)} | "
            f"{_or_dash(alerts['median_lead_days'], 0)} | {_or_dash(alerts['per_1000_customers_a_week'], 1)} | "
            + (f"{limit['days']} days | {limit['median_lead_days']:g} |" if limit else "– | – |")
        )


def _simulated(found: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"## A simulated shop ({SHOP[0]:,} customers, {SHOP[1]} days), with less and less told"
    yield ""
    yield "After trouble: active customers who complained, inquired or answered a survey in the 60 days before a cut-off."
    yield ""
    yield "| | AUC, all | log-loss, all | AUC, active | log-loss, active | after trouble | lead at precision 0.7, days | recall there |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, one in found.items():
        everyone, active = one["churn"]["all"]["champion"], one["churn"]["active"]["champion"]
        ours = one["alerts"]["at_precision"]["0.7"]["churnwatch"]
        lead = "– | –" if ours is None else f"{ours['median_lead_days']:g} | {ours['recall']:.3f}"
        after = one.get("after_trouble")
        troubled = "–" if after is None else f"{after['auc']:.4f} / {after['log_loss']:.4f} ({after['n']:,})"
        yield (
            f"| {name} | {everyone['auc']:.4f} | {everyone['log_loss']:.4f} | {active['auc']:.4f} | {active['log_loss']:.4f} "
            f"| {troubled} | {lead} |"
        )


def _cost(found: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "## Cost, on CDNOW's customers"
    yield ""
    yield "| | measured | aim |"
    yield "| --- | ---: | ---: |"
    yield f"| features and score, µs per customer in a micro-batch of {BATCH:,} | {found['score_microseconds']:g} | at most 8 |"
    yield f"| learning, µs per example (the champion) | {found['learn_microseconds']:g} | at most 40 |"
    yield f"| state, bytes per customer (hot {found['hot_bytes']:g}, cold {found['cold_bytes']:g}) | {found['state_bytes']:g} | at most 1,600 |"


def _or_dash(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


MEASURES: Final[Mapping[str, Callable[[], Any]]] = {
    "cdnow": cdnow_and_cost,
    "groceries": lambda: measured("groceries", groceries),
    "retail": lambda: measured("retail", retail),
    "simulated": simulated,
}


def main(arguments: list[str] | None = None) -> int:
    """Measures the sections that are named, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    wanted = parser.parse_args(arguments).sections or list(SECTIONS)
    unknown = sorted(set(wanted) - set(SECTIONS))
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    for section in wanted:
        print(f"{section} ...", file=sys.stderr, flush=True)
        try:
            found = MEASURES[section]()
        except (Unavailable, datasets.DatasetError) as error:
            print(f"{section} is left out: {error}", file=sys.stderr)
            continue
        keep(section, found)
    print((FOLDER / "quality.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
