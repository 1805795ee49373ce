"""The rules of ``deploy/prometheus/``: right by promtool, each alert firing and not firing, each explained."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from agents.metrics import Metrics
from tests.agents.test_metrics import every_series
from tests.conftest import missing
from tests.servers import ROOT

RULES = ROOT / "deploy/prometheus"
ALERTS = (RULES / "alerts.yml").read_text()
RECORDED = (RULES / "rules.yml").read_text()
TESTS = sorted((RULES / "tests").glob("*.yml"))
NAMES = re.findall(r"^      - alert: (\w+)$", ALERTS, re.MULTILINE)
NAME = re.compile(r"\b(?:[a-z]+:)?churnwatch[:_][a-z0-9_:]+")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        missing("promtool (of the Debian package prometheus) is not on the PATH")
    return subprocess.run(
        [program, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=240
    )


def stanza(name: str) -> str:
    """All that is said of one alert."""
    return ALERTS.split(f"      - alert: {name}\n")[1].split("      - alert: ")[0]


def test_promtool_takes_the_rules() -> None:
    done = promtool("check", "rules", RULES / "rules.yml", RULES / "alerts.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == 2


@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.stem)
def test_every_alert_fires_and_does_not_fire_as_it_should(file: Path) -> None:
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_of_every_alert_both_cases_are_tested() -> None:
    told = "".join(path.read_text() for path in TESTS)
    cases = re.findall(r"- alertname: (\w+)\n\s+eval_time: \w+\n\s+exp_alerts:( \[\])?\n", told)
    quiet = {name for name, empty in cases if empty}
    loud = {name for name, empty in cases if not empty}
    assert quiet == loud == set(NAMES)
    assert len(cases) == told.count("alertname:"), "a case that this test cannot read"


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_says_what_it_is_how_bad_it_is_and_where_to_read_on(name: str) -> None:
    told = stanza(name)
    assert name.startswith("Churnwatch")
    assert re.search(r"severity: (critical|warning|info)\n", told)
    assert re.search(r"\n        for: \d+[mh]\n", told)
    assert "summary:" in told
    assert "description:" in told
    assert f"/runbooks/{name}.md'" in told
    assert re.search(r"dashboard_url: '.*/d/churnwatch-(service|model|business)'", told)


def test_rules_ask_for_nothing_that_is_not_measured() -> None:
    text = every_series(Metrics(CollectorRegistry())).decode()
    kinds: dict[str, str] = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    known = {name for name, kind in kinds.items() if kind != "histogram"}
    known |= {
        f"{n}_{part}" for n, k in kinds.items() if k == "histogram" for part in ("bucket", "sum", "count")
    }
    known |= set(re.findall(r"^      - record: (\S+)$", RECORDED, re.MULTILINE))
    expressions = [re.sub(r"^\s*#.*$|alert: .*|record: .*", "", part) for part in (ALERTS, RECORDED)]
    asked = {name for part in expressions for name in NAME.findall(_without_annotations(part))}
    assert len(asked) > 25
    assert asked <= known


def _without_annotations(rules: str) -> str:
    return re.sub(r"annotations:\n(?: {10,}.*\n)+", "", re.sub(r"#.*|- name: .*|- record: .*", "", rules))
