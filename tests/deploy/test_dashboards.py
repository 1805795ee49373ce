"""The dashboards of ``deploy/grafana/``: well-formed, and every expression answered by a real Prometheus that has
scraped real workers and a trainer. Grafana itself is not run."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from agents.metrics import Metrics
from agents.worker import Worker
from alerts.policy import Policy
from tests.agents.shell import START, Shell, eventually, producer_of
from tests.agents.test_watched import PARTITIONS, Shop
from tests.servers import ROOT, KafkaServer, PrometheusServer, RedisServer

FOLDER = ROOT / "deploy" / "grafana"
FILES = sorted(FOLDER.glob("*.json"))
UNITS = {
    "short", "s", "rps", "eps", "mps", "ops", "bytes", "percentunit", "dateTimeAsIso",
}  # fmt: skip
KINDS = {"stat", "timeseries", "bargauge"}
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards", FOLDER / "dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def panels(file: Path) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in json.loads(file.read_text())["panels"] if panel["type"] != "row"]


def expressions(file: Path) -> Iterator[tuple[str, str]]:
    """Each with the title of its panel, as Grafana asks it for two minutes of all jobs."""
    for panel in panels(file):
        for target in panel["targets"]:
            asked = target["expr"].replace("$__rate_interval", "2m").replace("$job", ".*churnwatch.*")
            assert "$" not in asked, asked
            yield panel["title"], asked


def test_the_files_are_what_their_maker_makes() -> None:
    made = maker()
    assert {file.stem for file in FILES} == set(made.DASHBOARDS)
    for file in FILES:
        assert file.read_text() == made.text(file.stem), f"run {FOLDER.name}/dashboards.py"


@each_file
def test_a_dashboard_can_be_found_and_asks_only_the_datasource_that_was_chosen(file: Path) -> None:
    board = json.loads(file.read_text())
    assert board["uid"] == f"churnwatch-{file.stem}"
    assert board["title"]
    assert board["description"]
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["job"]["datasource"] == chosen
    for panel in panels(file):
        assert panel["datasource"] == chosen
        assert all(target["datasource"] == chosen for target in panel["targets"])


@each_file
def test_every_panel_has_a_title_a_description_a_unit_a_number_and_a_place_of_its_own(file: Path) -> None:
    every = json.loads(file.read_text())["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["title"]
        if panel["type"] == "row":
            continue
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["type"] in KINDS
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"] in UNITS
        steps = defaults["thresholds"]["steps"]
        assert steps[0]["value"] is None
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values)
        names = [target["refId"] for target in panel["targets"]]
        assert names
        assert len(set(names)) == len(names)
    titles = [(panel["title"], panel["type"]) for panel in panels(file)]
    assert len(set(titles)) == len(titles)


@each_file
def test_expressions_name_metrics_that_are_declared_or_recorded(file: Path) -> None:
    declared = Metrics(CollectorRegistry()).exposition().decode()
    known = set(re.findall(r"^# TYPE (\w+)", declared, re.MULTILINE)) | {"churnwatch_build_info"}
    recorded = set(re.findall(r"record: (\S+)", (ROOT / "deploy/prometheus/rules.yml").read_text()))
    for title, expression in expressions(file):
        bare = re.sub(r'"[^"]*"', "", expression)
        for name in re.findall(r"\bchurnwatch:\S+?(?=[\s)]|$)", bare):
            assert name in recorded, (title, name)
        for name in re.findall(r"\bchurnwatch_\w+", bare):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert {name, base} & known, (title, name)


def test_grafana_is_told_where_the_dashboards_and_a_prometheus_are() -> None:
    provisioning = ROOT / "deploy/compose/grafana"
    (path,) = re.findall(r"^ +path: (\S+)$", (provisioning / "dashboards.yml").read_text(), re.MULTILINE)
    datasources = (provisioning / "datasources.yml").read_text()
    assert re.search(r"^ +type: prometheus$", datasources, re.MULTILINE)
    assert re.search(r"^ +isDefault: true$", datasources, re.MULTILINE)
    compose = (ROOT / "docker-compose.yml").read_text()
    assert f"./deploy/grafana:{path}:ro" in compose
    for name in ("dashboards.yml", "datasources.yml"):
        assert f"./deploy/compose/grafana/{name}:/etc/grafana/provisioning/" in compose


def test_the_alarms_point_to_dashboards_that_are_there() -> None:
    rules = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    named = set(re.findall(r"/d/(churnwatch-\w+)", rules))
    assert named <= {f"churnwatch-{file.stem}" for file in FILES}
    assert named


STAYS = ((0, 60, 99, 99), (60, 120, 27, 99), (120, 150, 39, 51))
"""Customers from and to, the day of their last purchase, and from when on they come again."""


def history(shop: Shop) -> None:
    """Some customers keep coming, and some stay away, for good or for a while."""
    producer = producer_of(shop.brokers)
    for day in range(64):
        at = START + timedelta(days=day)
        for first, last, until, again in STAYS:
            if day % 3 == 0 and (day <= until or day >= again):
                for n in range(first, last):
                    event = {
                        "type": "purchase", "customer": f"c{n}", "time": at.isoformat(), "id": f"p{n}-{day}",
                        "lines": [{"amount": 10.0 + n % 7, "category": f"tea{n % 3}"}],
                    }  # fmt: skip
                    producer.produce(shop.prefix + "purchases", json.dumps(event), f"c{n}")
                assert producer.flush(30) == 0
        shop.tick("purchases", at + timedelta(minutes=1), PARTITIONS)


def lost_now(shop: Shell) -> None:
    """A customer of a shop on the wall clock has bought, and says that this was all."""
    producer = producer_of(shop.brokers)
    now = datetime.now(UTC)
    said: tuple[dict[str, Any], ...] = (
        {"type": "purchase", "lines": [{"amount": 9.0}]},
        {"type": "customer_lost", "reason": "moved"},
    )
    for number, event in enumerate(said):
        at = (now + timedelta(seconds=number)).isoformat()
        event |= {"id": f"e{number}", "customer": "ann", "time": at}
        producer.produce(shop.prefix + "purchases", json.dumps(event), "ann")
    assert producer.flush(30) == 0


def test_every_expression_has_an_answer_on_a_prometheus_that_scrapes_workers_and_a_trainer(
    kafka: KafkaServer,
    redis_server: RedisServer,
    prefix: str,
    application: str,
    topics: Callable[..., list[str]],
    prometheus: Callable[..., PrometheusServer],
) -> None:
    topics("purchases", "alerts", "customer-scores", "decisions", "dead-letters", partitions=PARTITIONS)
    topics("models", "brakes", partitions=1)
    shop = Shop(kafka.brokers, redis_server.url, application, prefix)
    live = Shell(kafka.brokers, redis_server.url, application + "-live", prefix + "live.", clock="wall")
    kafka.create_topics(
        [live.prefix + name for name in ("purchases", "alerts", "customer-scores", "decisions")], 1
    )
    kafka.create_topics([live.prefix + "examples"], 1)

    async def body() -> None:
        serving = msgspec.structs.replace(live.settings().worker, http_host="127.0.0.1")
        of_today = Worker(
            live.settings(worker=serving, policy=Policy(medium=0.3, high=0.5)),
            metrics=Metrics(CollectorRegistry(), strict=True),
        )
        async with shop.watched() as (worker, trainer):
            try:
                await asyncio.wait_for(of_today.start(), 40)
                ports = {
                    "churnwatch-worker": [worker.http_port, of_today.http_port],
                    "churnwatch-trainer": [trainer.http_port],
                }
                server = await asyncio.to_thread(prometheus, ports, [ROOT / "deploy/prometheus/rules.yml"])

                async def told(expression: str) -> None:
                    end = asyncio.get_running_loop().time() + 90
                    while not await asyncio.to_thread(server.value, expression):
                        assert asyncio.get_running_loop().time() < end, expression
                        await asyncio.sleep(0.3)

                await told("sum(up) == 3")
                await told("min(churnwatch_partitions_claimed) > 0")
                await eventually(lambda: (owned := of_today.ownership.get(0)) and owned.state.live_since, 60)
                await asyncio.to_thread(history, shop)
                await asyncio.to_thread(lost_now, live)
                await eventually(lambda: shop.all_applied(worker), 90, "all applied")
                await told("sum(churnwatch_event_to_alert_seconds_count) > 0")
                await told("sum(churnwatch_model_labels) == sum(churnwatch_examples_total) > 0")
                await told("churnwatch:score_psi")
                empty: list[str] = []
                for file in FILES:
                    for title, expression in expressions(file):
                        found = await asyncio.to_thread(server.value, expression)
                        if not any(not math.isnan(value) for _, value in found):
                            empty.append(f"{file.stem}, {title}: {expression} -> {found}")
                assert not empty, "\n".join(empty)
                # What was fed is what is seen: nothing of this is zero.
                for expression in (
                    "sum(churnwatch_customers) > 150",
                    'sum(churnwatch_customers_in_band{band=~"medium|high"}) > 0',
                    'sum(churnwatch_warnings_matured{outcome="right"}) > 0',
                    'sum(churnwatch_warnings_matured{outcome="wrong"}) > 0',
                    "max(churnwatch_warnings_lead_seconds) > 0",
                    'sum(increase(churnwatch_alerts_total{kind="churn", transition="resolved"}[1d])) > 0',
                    'sum(increase(churnwatch_alerts_total{kind="upsell", transition="raised"}[1d])) > 0',
                ):
                    assert await asyncio.to_thread(server.value, expression), expression
            finally:
                await asyncio.wait_for(of_today.stop(), 20)

    asyncio.run(body())
