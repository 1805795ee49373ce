"""docs/deployment.md: its commands are run as far as they can be here, and what it says is compared."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from agents.cli import app
from tests.conftest import missing
from tests.servers import ROOT

PAGE = ROOT / "docs" / "deployment.md"
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for line in block.splitlines()
]


@functools.cache
def said(*words: str) -> str:
    if shutil.which(words[0]) is None:
        missing(f"{words[0]} is not on the PATH")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def helped(*words: str) -> str:
    return said(*words, "--help")


def flags(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--") and word != "--"}


@pytest.mark.parametrize("line", [line for line in LINES if "churnwatch " in line and "exec" in line])
def test_what_is_run_in_a_container_is_a_command_of_ours(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])
    ours = words[words.index("churnwatch", words.index("exec") + (3 if "kubectl" in line else 1)) :]
    names = [word for word in ours[1:] if word != "-" and not word.startswith("--")]
    done = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert done.exit_code == 0, line
    assert all(flag in done.stdout for flag in flags(ours))


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("docker-compose ")])
def test_docker_compose_knows_what_is_asked_of_it(line: str) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    words = shlex.split(line.partition(" > ")[0])
    command = next(word for word in words if word in {"up", "ps", "exec", "stop", "down"})
    known = helped("docker-compose") + helped("docker-compose", command)
    assert flags(words) <= set(re.findall(r"--[a-z-]+", known)), line
    if command == "exec":
        (service,) = [word for word in words[words.index("exec") + 1 :] if word in services]
        assert service == "worker"
    for service in re.findall(r"--scale (\w+)=", line):
        assert service in services
    for profile in re.findall(r"--profile (\w+)", line):
        assert profile in {each for one in services.values() for each in one.get("profiles", ())}


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("kubectl ")])
def test_kubectl_knows_what_is_asked_of_it(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    ours = words.index("--") if "--" in words else len(words)
    depth = {"create": 4, "rollout": 3}.get(words[1], 2)
    known = helped(*words[:depth]) + said("kubectl", "options")
    assert flags(words[:ours]) <= set(re.findall(r"--[a-z-]+", known)), line
    for option in ("-f", "-k"):
        if option in words:
            assert (ROOT / words[words.index(option) + 1]).exists(), line
    if words[1] == "create":
        for name in re.findall(r"--from-file=(\S+)", line):
            (tmp_path / name).write_text("what is secret")
        made = subprocess.run(
            [*words, "--dry-run=client", "--output=yaml"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        assert len(yaml.safe_load(made.stdout)["data"]) == 5
    if words[1] == "kustomize":
        assert subprocess.run(words, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_other_commands_are_those_of_this_repository() -> None:
    others = [line for line in LINES if line and line.split()[0] not in {"docker-compose", "kubectl"}]
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["worker"]["image"]
    assert others == [f"docker build --tag {image} .", "deploy/compose/make-secrets"]
    done = subprocess.run(
        [ROOT / "deploy/compose/make-secrets", "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage: deploy/compose/make-secrets" in done.stdout
    refused = subprocess.run(
        [ROOT / "deploy/compose/make-secrets", "nonsense"], capture_output=True, check=False
    )
    assert refused.returncode == 2


def test_the_ports_of_the_page_are_those_of_the_file() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for service, port in {"grafana": 3000, "prometheus": 9090, "alertmanager": 9093, "kafka": 9094}.items():
        assert services[service]["ports"] == [f"127.0.0.1:${{{service.upper()}_PORT:-{port}}}:{port}"]
        assert f"127.0.0.1:{port}" in PAGE.read_text()
        assert f"`{service.upper()}_PORT`" in PAGE.read_text()


def test_the_grace_of_the_page_is_that_of_the_manifests() -> None:
    (grace,) = set(
        re.findall(
            r"terminationGracePeriodSeconds: (\d+)", (ROOT / "deploy/kubernetes/base/worker.yaml").read_text()
        )
    )
    assert f"It is given {grace}" in PAGE.read_text()


def test_prometheus_takes_what_the_page_shows_and_names_jobs_as_the_rules_do(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    told = yaml.safe_load(shown)
    # Debian's Prometheus is built without Kubernetes; the rest of the job it reads.
    (job,) = told["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [
        {"role": "endpoints", "namespaces": {"names": ["churnwatch"]}}
    ]
    job["static_configs"] = [{"targets": ["127.0.0.1:9464"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(told))
    assert "SUCCESS" in said("promtool", "check", "config", str(tmp_path / "prometheus.yml"))
    (component,) = [one for one in job["relabel_configs"] if one.get("target_label") == "job"]
    jobs = {
        re.sub(component["regex"], component["replacement"].replace("$1", r"\1"), name)
        for name in ("worker", "trainer")
    }
    ours = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text())["scrape_configs"]
    assert jobs == {one["job_name"] for one in ours if one["job_name"].startswith("churnwatch")}
    rules = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    assert set(re.findall(r'job="([^"]+)"', rules)) <= jobs
    service = yaml.safe_load((ROOT / "deploy/kubernetes/base/metrics.yaml").read_text())
    kept = {one["regex"] for one in job["relabel_configs"] if one.get("action") == "keep"}
    assert kept == {service["metadata"]["name"], service["spec"]["ports"][0]["name"]}
