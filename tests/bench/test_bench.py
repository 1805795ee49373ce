"""The benchmark measures what it says: its events, its arithmetic, its page, and a little of everything for real."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from bench import environment, latency, profile, results
from bench.__main__ import app
from bench.engines import FULL, NAMES, Lap, figures
from bench.events import DAY, KINDS, LINES, SIZE, START, Events, Kind
from bench.page import page
from bench.stage import Used
from streams import events as ev
from streams.codec import CLOCK_KEY, Codec, Decoded, Tick
from tests.application import Row
from tests.conftest import missing
from tests.servers import ROOT, Missing, kafka_jars, redis_executable

CODEC = Codec("USD", 2, {}, frozenset())
LATER = START // 1000 + 400 * DAY // 1000


def decoded(kind: Kind, count: int = 20_000) -> list[Decoded]:
    """Every event of a kind as the path reads it."""
    found = []
    for i, row in enumerate(Events(kind, count).rows()):
        item = CODEC.decode(Row("purchases", 0, i, LATER, row.key, row.value))
        assert isinstance(item, Decoded), item
        found.append(item)
    return found


# --- events


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_a_flat_event_has_201_bytes(kind: Kind) -> None:
    assert {len(row.value) for row in Events(kind, 20_000).rows()} == {SIZE}
    assert SIZE == 201


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_decodes_and_comes_in_the_order_of_time(kind: Kind) -> None:
    found = decoded(kind)
    assert len(found) == 20_000
    assert all(a.at <= b.at for a, b in pairwise(found))
    assert len({item.event.id for item in found}) == 20_000


@pytest.mark.parametrize("kind", KINDS)
def test_the_clock_is_told_at_each_midnight_and_at_the_end(kind: Kind) -> None:
    rows = list(Events(kind, 40_000).with_clock())
    ticks = [row.at for row in rows if row.key == CLOCK_KEY]
    midnights = list(range(START, rows[-1].at + 1, DAY))
    assert ticks[: len(midnights)] == midnights
    assert ticks[-1] == rows[-2].at
    assert all(a.at <= b.at for a, b in pairwise(rows))
    item = CODEC.decode(Row("purchases", 0, 0, LATER, rows[-1].key, rows[-1].value))
    assert isinstance(item, Tick)


def test_the_same_seed_gives_the_same_events() -> None:
    assert list(Events("mix", 2_000).rows()) == list(Events("mix", 2_000).rows())
    assert list(Events("mix", 2_000).rows()) != list(Events("mix", 2_000, seed=8).rows())


def busiest(kind: Kind) -> float:
    """The share of the events that the busiest hundredth of all customers has."""
    of = Counter(row.key for row in Events(kind, 100_000).rows())
    return sum(n for _, n in of.most_common(500)) / 100_000


def test_uniform_customers_are_alike_and_zipf_customers_are_not() -> None:
    assert busiest("uniform") < 0.04
    assert 0.4 < busiest("zipf") < 0.8


def test_the_mix_has_orders_of_eight_lines_ten_views_to_each_and_some_complaints() -> None:
    found = decoded("mix", 60_000)
    kinds = Counter(type(item.event) for item in found)
    orders = [item.event for item in found if isinstance(item.event, ev.Purchase)]
    assert {len(order.lines) for order in orders} == {LINES}
    assert 9 < kinds[ev.View] / kinds[ev.Purchase] < 11
    assert 0.005 < kinds[ev.Complaint] / kinds[ev.Purchase] < 0.03


# --- arithmetic


def lap(worker: float, wall: float, records: int = 1_000_000, **more: float) -> Lap:
    return Lap(records, Used(worker, 1.0, 2.0, wall), more)


def test_a_figure_is_the_median_of_the_repetitions_per_million_events() -> None:
    found = figures(
        [lap(9, 10, looks_per_event=1), lap(40, 20, looks_per_event=3), lap(10, 5, looks_per_event=2)]
    )
    assert found["cpu_seconds_per_million"] == 10
    assert found["events_per_second"] == 100_000
    assert found["repetitions"] == [9, 40, 10]
    assert found["redis_cpu_seconds_per_million"] == 1
    assert found["looks_per_event"] == 2
    assert figures([lap(3, 1, 200_000)])["cpu_seconds_per_million"] == 15


def test_a_section_replaces_its_own_figures_only() -> None:
    before: dict[str, Any] = {
        "engines": {"quix": {"mix": 1, "zipf": 2}, "bytewax": {"mix": 3}},
        "sweep": {"due": 4},
    }
    after = results.merged(before, "engines", {"quix": {"mix": 5}, "churnwatch": {"mix": 6}})
    assert after["engines"] == {
        "quix": {"mix": 5, "zipf": 2},
        "bytewax": {"mix": 3},
        "churnwatch": {"mix": 6},
    }
    assert after["sweep"] == {"due": 4}
    assert before["engines"]["quix"] == {"mix": 1, "zipf": 2}
    assert results.merged(after, "sweep", {"due": 7})["sweep"] == {"due": 7}


def test_a_plan_of_fewer_events_warms_up_with_a_quarter_and_gives_nobody_more() -> None:
    plan = FULL.of(40_000)
    assert (plan.loaded, plan.given["churnwatch"], plan.warm["churnwatch"]) == (40_000, 40_000, 10_000)
    assert all(plan.warm[name] < plan.given[name] <= min(40_000, FULL.given[name]) for name in NAMES)
    assert FULL.of(1_000_000).given["faust_table"] == FULL.given["faust_table"]


def test_an_event_is_durable_at_the_first_look_that_finds_its_offset_applied() -> None:
    seen = latency.Seen(place={0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (0, 2)})
    steps = [(1.0, [1, 0, 0, 0]), (2.0, [2, 1, 0, 0])]
    assert latency.applied(seen, steps) == {0: 1.0, 1: 2.0, 2: 2.0}


def test_a_sample_belongs_to_the_innermost_part_that_is_known() -> None:
    root, site = ROOT, "/x/site-packages"
    found = profile.summary(
        "\n".join(
            (
                f"run (/p/asyncio/runners.py:1);_events ({root}/agents/worker.py:3);decode ({root}/streams/codec.py:7) 50",
                f"run (/p/asyncio/runners.py:1);carry ({root}/agents/relay.py:3);send ({site}/aiokafka/producer/p.py:7) 20",
                f"run (/p/asyncio/runners.py:1);array ({site}/redis/client.py:3);loads (/p/json/decoder.py:7) 20",
                f"main ({root}/agents/cli.py:1);run (/p/asyncio/runners.py:1) 10",
            )
        )
    )
    assert found["samples"] == 100
    assert found["shares"] == {"decode": 0.5, "relay": 0.2, "Redis": 0.2, "event loop of the worker": 0.1}
    assert found["functions"]["decode (streams/codec.py)"] == 0.5


# --- the page


def test_a_page_of_nothing_measured_yet_is_a_page() -> None:
    assert page({}).startswith("# Speed, measured")


def test_the_page_leaves_out_what_was_not_measured() -> None:
    text = page({"engines": {"churnwatch": {"uniform": figures([lap(12, 10)])}}})
    assert "| 12 | under 20 | yes |" in text
    assert "| 12 | under 10 | **no** |" in text
    assert "Latency" not in text


# --- the command line and its document


def test_every_command_of_the_document_is_known() -> None:
    text = (ROOT / "docs" / "speed.md").read_text()
    lines = re.findall(r"^python -m bench.*$", text, re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        words = shlex.split(line.partition("  ")[0])[3:]
        command = [word for word in words[:1] if not word.startswith("-")]
        done = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
        assert done.exit_code == 0, line
        assert all(word in done.stdout for word in words if word.startswith("--")), line


def test_an_engine_that_there_is_not_is_refused_with_those_there_are() -> None:
    done = CliRunner().invoke(app, ["engines", "--only", "flink"])
    assert done.exit_code == 2
    assert "bytewax" in done.output


# --- for real

KEYS = {
    "engines": ("churnwatch", "faust_empty"),
    "latency": ("to_outbox_ms", "to_alert_ms", "worker_cores"),
    "memory": ("cdnow", "mix"),
    "sweep": ("due", "10000", "20000"),
    "takeover": ("sigterm", "sigkill", "session_timeout_seconds"),
    "profile": (),
    "machine": ("cores", "memory", "processor"),
    "versions": ("python", "kafka", "redis-server", "faust-streaming", "bytewax", "quixstreams"),
    "load_before": ("engines", "latency"),
    "when": ("engines", "latency", "memory", "sweep", "takeover", "profile"),
}


def test_a_quick_run_of_everything_gives_every_figure_that_is_promised(tmp_path: Path) -> None:
    try:
        kafka_jars()
        environment.make()
    except (Missing, environment.CannotMake) as error:
        missing(str(error))
    if redis_executable() is None:
        missing("redis-server is not on the PATH")
    # Two engines of one kind: each of the others takes as long again.
    options = [
        "--quick",
        "--only",
        "churnwatch,faust_empty",
        "--kinds",
        "uniform",
        "--results",
        str(tmp_path),
    ]
    command = [sys.executable, "-m", "bench", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, Any] = msgspec.json.decode((tmp_path / "speed.json").read_bytes())
    for section, keys in KEYS.items():
        assert set(keys) <= found[section].keys(), section
    for name in KEYS["engines"]:
        measured = found["engines"][name]["uniform"]
        assert measured["cpu_seconds_per_million"] > 0
        assert measured["events_per_second"] > 0
    ours = found["engines"]["churnwatch"]["uniform"]
    assert ours["decision_points_per_event"] > 0.2
    assert ours["aof_bytes_per_event"] > 100
    assert found["latency"]["alerts"] > 100
    assert found["memory"]["mix"]["bytes_per_customer"] > 100
    assert found["sweep"]["10000"]["looks"] == found["sweep"]["20000"]["looks"] > 0
    assert found["takeover"]["sigkill"]["seconds"] > found["takeover"]["session_timeout_seconds"] / 2
    text = (tmp_path / "speed.md").read_text()
    assert all(
        f"## {title}" in text for title in ("Engines side by side", "Memory", "One of two workers ends")
    )
    assert "<svg" in (tmp_path / "speed.svg").read_text()
