from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from agents.metrics import CALLS, LESSONS, PREFIX, RESYNCS, Metrics, UnknownCountError
from alerts.engine import FEATURES_VERSION
from models.learning import Learning
from models.snapshot import Prior
from models.training import Trainer, What
from tests.labels import HORIZON, labels
from tests.servers import ROOT


def every_series(metrics: Metrics) -> bytes:
    """An exposition in which each metric has a series."""
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase) and metric._labelnames:
            metric.labels(*("x" for _ in metric._labelnames))
    return metrics.exposition()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), strict=True)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value("churnwatch_" + name, labels)


def test_promtool_finds_nothing_to_say(metrics: Metrics) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (of the Debian package prometheus) is not installed")
    said = subprocess.run(
        [promtool, "check", "metrics"], check=False, input=every_series(metrics), capture_output=True
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


def test_every_name_has_the_prefix_and_counters_say_total(metrics: Metrics) -> None:
    text = every_series(metrics).decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert all(name.startswith("churnwatch_") for name in kinds)
    assert all(name.endswith("_total") for name, kind in kinds.items() if kind == "counter")
    assert not any(name.endswith("_created") for name in kinds)
    assert 'churnwatch_build_info{python="3' in text


def test_no_label_is_a_customer(metrics: Metrics) -> None:
    labels = set(re.findall(r'(\w+)="', every_series(metrics).decode()))
    allowed = {"stage", "topic", "partition", "type", "reason", "call", "part", "kind", "transition"}
    assert labels <= allowed | {
        *("decision", "le", "version", "python", "outcome", "model", "deciding", "source"),
        *("signal", "band", "tenth"),
    }


def test_counts_of_the_core_reach_their_metrics(metrics: Metrics) -> None:
    metrics.count(
        {
            ("event", "purchase"): 3,
            ("refused", "invalid"): 2,
            ("duplicate",): 4,
            ("late",): 5,
            ("alert", "churn", "raised", "delivered"): 6,
            ("held",): 8,
            ("alert", "churn", "raised", "silent"): 9,
            ("drift", "error"): 10,
        }
    )
    assert value(metrics, "alerts_suppressed_total", kind="churn", reason="silent") == 9
    assert value(metrics, "alerts_suppressed_total", kind="churn", reason="ceiling") == 0
    assert value(metrics, "model_drifts_total", signal="error") == 10
    assert value(metrics, "events_total", type="purchase") == 3
    assert value(metrics, "dead_letters_total", reason="invalid") == 2
    assert value(metrics, "duplicates_total") == 4
    assert value(metrics, "late_events_total") == 5
    assert value(metrics, "alerts_total", kind="churn", transition="raised", decision="delivered") == 6
    assert value(metrics, "looks_held_total") == 8


def test_an_unknown_count_is_an_error_in_tests_and_counted_in_production(metrics: Metrics) -> None:
    with pytest.raises(UnknownCountError):
        metrics.count({("tea",): 1})
    lenient = Metrics(CollectorRegistry())
    lenient.count({("tea",): 2, ("late",): 1})
    assert value(lenient, "uncounted_total") == 2
    assert value(lenient, "late_events_total") == 1


def test_a_lost_partition_leaves_no_series_behind(metrics: Metrics) -> None:
    for partition in ("0", "1"):
        metrics.lag.labels("purchases", partition).set(5)
        metrics.partition_clock.labels(partition).set(5)
    metrics.forget_partition(0, ("purchases", "browses"))
    assert value(metrics, "lag_records", topic="purchases", partition="0") is None
    assert value(metrics, "lag_records", topic="purchases", partition="1") == 5
    assert value(metrics, "partition_clock_timestamp_seconds", partition="0") is None


def rows() -> list[str]:
    """Every metric as a row of the table in docs/metrics.md, in the order in which they are declared."""
    metrics = Metrics(CollectorRegistry())
    labels = {
        (PREFIX + of._name).removesuffix("_total").replace(PREFIX * 2, PREFIX): of._labelnames
        for of in vars(metrics).values()
        if isinstance(of, MetricWrapperBase)
    }
    found = []
    for family in metrics.registry.collect():
        name = family.name.removeprefix(PREFIX)
        kind = family.type
        if kind == "counter":
            name += "_total"
        elif kind == "info":
            name, kind = name + "_info", "gauge"
        of = labels.get(family.name, ())
        if family.name in (PREFIX + "model", PREFIX + "build"):
            of = next(s for s in family.samples).labels or ("model", "source", "version")
        said = family.documentation.replace("|", "\\|")
        found.append(f"| `{name}` | {kind} | {', '.join(sorted(of))} | {said} |")
    return found


def test_the_page_about_metrics_has_each_of_them_as_it_is_declared() -> None:
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 5]
    assert table == rows()


def test_what_can_be_named_beforehand_is_what_there_is() -> None:
    asked = re.findall(r"_patiently\(\s*\"(\w+)\"", (ROOT / "agents/store.py").read_text())
    assert set(asked) == set(CALLS)
    text = "".join((ROOT / f"agents/{name}.py").read_text() for name in ("worker", "ownership"))
    assert set(re.findall(r"_drop\(\w+, \"(\w+)\"\)|resyncs.labels\(\"(\w+)\"\)", text)) <= {
        *((reason, "") for reason in RESYNCS),
        *(("", reason) for reason in RESYNCS),
    }
    assert set(LESSONS) == set(get_args(What))


def test_a_snapshot_of_what_was_learned_is_told_in_its_own_figures(metrics: Metrics) -> None:
    trainer = Trainer(Learning(publish_labels=512), HORIZON, Prior(), FEATURES_VERSION)
    snapshot = trainer.learn(labels(1_024)).published[-1].snapshot
    metrics.show_snapshot(snapshot)
    leading = snapshot.leading
    assert value(metrics, "model_labels", outcome="churned") == leading.gate.churned
    assert value(metrics, "model_labels", outcome="stayed") == leading.gate.stayed
    for figures in leading.figures:
        deciding = "yes" if figures.model == snapshot.promoted else "no"
        names = {"model": figures.model, "deciding": deciding}
        assert value(metrics, "model_auc", **names) == figures.auc
        assert value(metrics, "model_log_loss", **names) == figures.log_loss
    bins = [each for each in leading.reliability if each.labels]
    assert sum(each.labels for each in bins) == 1_024
    gap = sum(each.labels * abs((each.stated or 0) - (each.churned or 0)) for each in bins) / 1_024
    assert value(metrics, "model_calibration_error_ratio") == pytest.approx(gap)
    assert 0 < gap < 1
    assert value(
        metrics, "model_info", model=snapshot.promoted, version=snapshot.version, source=snapshot.source
    )
    # The one before leaves no series behind.
    older = trainer.snapshot()
    metrics.show_snapshot(older)
    assert metrics.exposition().count(b"churnwatch_model_info{") == 1
