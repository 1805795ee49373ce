"""docker-compose.yml: what it promises, and the same topology on the real servers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    AdminClient,
    ConfigResource,
    ResourceType,
)
from typer.testing import CliRunner

from agents.cli import app
from agents.settings import Settings
from agents.worker import STOP_DEADLINE
from tests.conftest import missing
from tests.deploy.image import Image
from tests.deploy.topology import Compose, Container, Topology, confining
from tests.servers import ROOT, read_all, wait_until

OURS = ("topics", "worker", "trainer", "shop")
JOBS = ("topics",)
# What may be reached from this machine, and nothing else.
OPEN = {"kafka": 9094, "prometheus": 9090, "alertmanager": 9093, "grafana": 3000}


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    if shutil.which("docker-compose") is None:
        missing("docker-compose is not on the PATH (Debian: docker-compose)")
    return Compose(tmp_path_factory.mktemp("compose"), SHOP_CUSTOMERS="2000")


# ---- what the file says


def test_the_docker_compose_of_debian_takes_it_without_a_word(compose: Compose) -> None:
    version = subprocess.run(
        ["docker-compose", "version", "--short"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("1.29."), (
        "the oldest that is still in use; what it takes, newer ones take"
    )
    assert compose.warnings == ""
    assert set(compose.services) == {*OURS, "kafka", "redis", "prometheus", "alertmanager", "grafana"}
    assert compose.services["worker"]["scale"] == 2
    assert compose.services["shop"]["profiles"] == ["shop"]


def test_every_image_is_one_exact_version(compose: Compose) -> None:
    for name, service in compose.services.items():
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-[a-z]+)?", service["image"]), name
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert {compose.services[name]["image"] for name in OURS} == {f"churnwatch:{version[1]}"}
    kafka = re.search(
        r"kafka_2\.13</artifactId>\s*<version>(.+?)<", (ROOT / "deploy/local/pom.xml").read_text()
    )
    assert kafka is not None
    assert compose.services["kafka"]["image"] == f"apache/kafka:{kafka[1]}", "the one that the tests run"


def test_no_container_may_more_than_it_must(compose: Compose) -> None:
    for name, service in compose.services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), f"{name} is not root, by number"
        assert not {"privileged", "network_mode", "pid", "ipc", "devices", "cap_add"} & service.keys(), name
        assert service["mem_limit"], name
        assert service["cpus"], name
        assert service["pids_limit"], name
        for volume in service.get("volumes", ()):
            source, *_, mode = volume.split(":")
            assert mode == ("ro" if source.startswith("/") else "rw"), f"{name}: {volume}"


def test_no_port_is_open_but_those_meant_and_those_on_this_machine_only(compose: Compose) -> None:
    opened = {name: service["ports"] for name, service in compose.services.items() if service.get("ports")}
    assert opened == {name: [f"127.0.0.1:{port}:{port}/tcp"] for name, port in OPEN.items()}
    assert compose.file["networks"]["back"] == {"internal": True}
    for name, service in compose.services.items():
        assert set(service["networks"]) == ({"back", "front"} if name in OPEN else {"back"}), name


def test_every_container_says_how_it_is_and_none_waits_for_less_than_health(compose: Compose) -> None:
    for name, service in compose.services.items():
        assert ("healthcheck" in service) == (name not in {*JOBS, "shop"}), name
        assert service["restart"] == ("no" if name in JOBS else "unless-stopped"), name
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == (
                "service_completed_successfully" if needed in JOBS else "service_healthy"
            ), name


def test_a_worker_is_given_longer_than_it_takes_to_stop(compose: Compose) -> None:
    for name in OURS:
        assert float(compose.services[name]["stop_grace_period"].removesuffix("s")) > STOP_DEADLINE


def test_secrets_are_files_that_nobody_else_reads_and_git_does_not_see(compose: Compose) -> None:
    folder = compose.folder / "deploy/compose/secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    secrets = {name: compose.secret(name).read_text() for name in compose.file["secrets"]}
    assert {path.name for path in folder.iterdir()} == set(secrets)
    for password in ("redis_password", "privacy_key", "grafana_password"):
        assert len(secrets[password].strip()) == 32
        assert secrets[password].strip() not in json.dumps(compose.file)
        assert secrets[password].strip() not in secrets["redis_users"], "its hash is"
    for name, service in compose.services.items():
        for variable in service.get("environment") or {}:
            assert not re.search("(PASSWORD|SECRET|TOKEN)$", variable), f"{name}: {variable}"
    check = ["git", "check-ignore", "--quiet", "deploy/compose/secrets/redis_password"]
    assert subprocess.run(check, cwd=ROOT, check=False).returncode == 0
    # Again changes nothing: what runs keeps its passwords.
    subprocess.run([compose.folder / "deploy/compose/make-secrets"], check=True, capture_output=True)
    assert {name: compose.secret(name).read_text() for name in secrets} == secrets


def test_redis_lets_our_user_do_what_our_commands_take_and_nothing_else(compose: Compose) -> None:
    default, health, ours = compose.secret("redis_users").read_text().splitlines()
    assert default == "user default off"
    assert health == "user health on nopass -@all +ping"
    told = CliRunner().invoke(app, ["acl", "redis", "operator", "--user", "operator=churnwatch"])
    assert told.exit_code == 0
    assert re.sub(r"on #[0-9a-f]{64}", "off", ours) == told.stdout.splitlines()[-1]


def test_everything_that_is_mounted_is_there(compose: Compose) -> None:
    for name, service in compose.services.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("/"):
                assert (ROOT / Path(source).relative_to(compose.folder)).exists(), f"{name}: {source}"
            else:
                assert source in compose.file["volumes"], name


def test_every_setting_of_our_services_is_one(compose: Compose) -> None:
    for name in OURS:
        env = {
            k: str(v) for k, v in compose.services[name]["environment"].items() if k.startswith("CHURNWATCH")
        }
        files = {variable: Path(value).name for variable, value in env.items() if variable.endswith("_FILE")}
        env |= {variable: str(compose.secret(file)) for variable, file in files.items()}
        settings = Settings.load(env=env)
        assert settings.clock.mode == "wall", "live"
        assert set(files.values()) == {secret["source"] for secret in compose.services[name]["secrets"]}


def test_grafana_finds_its_data_and_its_dashboards(compose: Compose) -> None:
    folder = compose.folder / "deploy/compose/grafana"
    (source,) = yaml.safe_load((folder / "datasources.yml").read_text())["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert int(port) == OPEN[host]
    (provider,) = yaml.safe_load((folder / "dashboards.yml").read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in compose.services["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
    for file in (ROOT / "deploy/grafana").glob("*.json"):
        named = set(re.findall(r'"uid": "([^"$]+)"', json.dumps(json.loads(file.read_text()).get("panels"))))
        assert named <= {source["uid"], "-- Grafana --", "-- Mixed --"}, file.name


# ---- the same topology on the real servers


def answers(brokers: str) -> bool:
    client = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
    with contextlib.suppress(KafkaException):
        return bool(client.list_topics(timeout=2).brokers)
    return False


@pytest.fixture(scope="module")
def running(
    compose: Compose, image: Image, jars: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Topology]:
    """Kafka and Redis as the file starts them, topics made, two workers and a trainer that are healthy."""
    topology = Topology(tmp_path_factory.mktemp("topology"), compose, image, jars)
    with topology.all_stopped():
        topology.start_redis()
        topology.start_kafka()
        topology["redis"].until_healthy()
        wait_until(partial(answers, topology.here("kafka:9092")), 60, "Kafka answers")
        topics = topology["topics"]
        assert topics.run(topology.command(topics), topics.environment()) == 0, topics.said()
        started = [*topology.containers["worker"], topology["trainer"]]
        for container in started:
            assert not container.healthy(), "nothing answers yet"
            container.start(topology.command(container), topology.serving(container))
        for container in started:
            container.until_healthy()
        yield topology


def metrics(container: Container) -> dict[str, float]:
    inside = 9465 if container.service["command"] == ["trainer"] else 9464
    with urllib.request.urlopen(f"http://127.0.0.1:{container.port(inside)}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


def test_two_workers_share_the_partitions_and_the_topics_are_there_for_good(running: Topology) -> None:
    claimed = [metrics(worker)["churnwatch_partitions_claimed"] for worker in running.containers["worker"]]
    assert claimed == [3, 3]
    topics = running["topics"]
    assert topics.run(running.command(topics), topics.environment()) == 0, "again changes nothing"
    assert "exists" in topics.said()


@pytest.mark.parametrize("service", ["worker", "trainer"])
def test_what_kubernetes_asks_is_answered_well(running: Topology, service: str) -> None:
    manifest = yaml.safe_load((ROOT / f"deploy/kubernetes/base/{service}.yaml").read_text())
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    for kind in ("startup", "liveness", "readiness"):
        path = container[f"{kind}Probe"]["httpGet"]["path"]
        url = f"http://127.0.0.1:{running[service].port(port['containerPort'])}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200, kind


def test_ours_write_nowhere_and_may_nothing(running: Topology) -> None:
    if not confining():
        pytest.skip("only root may take rights away from a process on this machine")
    worker = running["worker"]
    places = ("/etc/x", str(ROOT / "x"), "/usr/x", str(worker.folder / "x"), "/tmp/x")
    attempt = 'for x; do touch "$x" && echo "$x"; done; chown 1 /tmp/x'
    tried = subprocess.run(
        running.confined(worker, "sh", "-c", attempt, "-", *places),
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.stdout.splitlines() == ["/tmp/x"]
    assert tried.returncode != 0, "not even its own file may it give away"
    # Those that the other tests ask are confined so.
    for container in [*running.containers["worker"], running["trainer"], running["redis"]]:
        assert container.process is not None
        status = Path(f"/proc/{container.process.pid}/status").read_text()
        assert re.search(r"CapBnd:\s+0+\n", status)
        assert re.search(r"NoNewPrivs:\s+1\n", status)


def test_kafkas_variables_are_its_settings(running: Topology) -> None:
    client = AdminClient({"bootstrap.servers": running.here("kafka:9092"), "log_level": 0})
    (asked,) = client.describe_configs([ConfigResource(ResourceType.BROKER, "1")]).values()
    settings = {name: entry.value for name, entry in asked.result(30).items()}
    for variable, value in running["kafka"].service["environment"].items():
        name = variable.removeprefix("KAFKA_").lower().replace("_", ".")
        # Addresses are another matter: the workers, and the producer by the front door, use them.
        if variable.startswith("KAFKA_") and "://" not in value and variable != "KAFKA_HEAP_OPTS":
            assert settings[name] == running["kafka"].here(value), name


def test_redis_keeps_everything_and_lets_in_nobody_without_the_password(running: Topology) -> None:
    redis = running["redis"]
    cli = ["redis-cli", "-p", str(redis.port(6379)), "--no-auth-warning"]

    def asked(*words: str, user: str = "health", password: str = "none") -> str:
        login = ["--user", user, "--pass", password] if user else []
        done = subprocess.run([*cli, *login, *words], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    right = running.compose.secret("redis_password").read_text().strip()
    told = asked("info", user="churnwatch", password=right)
    assert "aof_enabled:1" in told
    assert "maxmemory_policy:noeviction" in told
    assert "maxmemory:536870912" in told
    assert "NOAUTH" in asked("ping", user="")
    assert "NOPERM" in asked("keys", "*")
    assert "WRONGPASS" in asked("info", user="churnwatch", password="guessed")
    for words in (
        ("flushall",),
        ("config", "set", "maxmemory", "1"),
        ("get", "elsewhere"),
        ("shutdown",),
        ("acl", "list"),
    ):
        assert "NOPERM" in asked(*words, user="churnwatch", password=right), words
    # That user may do all that our commands do.
    kept = subprocess.run(
        ["churnwatch", "backup", "-"], env=running["worker"].environment(), capture_output=True, timeout=90,
        check=False,
    )  # fmt: skip
    assert kept.returncode == 0, kept.stderr
    doctor = json.loads(
        subprocess.run(
            ["churnwatch", "doctor", "--json"], env=running["worker"].environment(), capture_output=True, text=True,
            timeout=90, check=False,
        ).stdout
    )  # fmt: skip
    assert doctor["healthy"], doctor
    problems = [
        one for one in doctor["findings"] if one["level"] == "warning" and one["check"].startswith("redis")
    ]
    assert not problems


def test_the_shop_sells_and_is_the_same_shop_when_it_is_started_again(running: Topology) -> None:
    shop = running["shop"]
    workplace = running.workplace(shop)
    shop.start(running.command(shop), shop.environment(), cwd=workplace)

    def counted(name: str) -> float:
        return sum(
            value
            for worker in running.containers["worker"]
            for metric, value in metrics(worker).items()
            if metric.startswith(name)
        )

    wait_until(lambda: counted("churnwatch_events_total") > 3000, 90, "what it sends is applied", every=0.5)
    opened = (workplace / "opened").read_text()
    assert shop.stop(group=True) != 0, "it ends when it is told to, not by itself"
    before = counted("churnwatch_duplicates_total")
    shop.start(running.command(shop), shop.environment(), cwd=workplace)
    wait_until(
        lambda: counted("churnwatch_duplicates_total") > before + 1000, 90, "it is known already", every=0.5
    )
    assert (workplace / "opened").read_text() == opened
    assert shop.process is not None
    assert shop.process.poll() is None, shop.said()


def test_an_event_from_outside_becomes_an_alert(running: Topology) -> None:
    worker = running["worker"]
    now = time.time()

    def event(number: int, name: str, days_ago: float, **more: Any) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - days_ago * 86_400))
        return json.dumps({"id": f"e{number}", "customer": "regular", "type": name, "time": at, **more})

    # By the address that producers on this machine are given.
    front = worker.environment(CHURNWATCH_KAFKA__BROKERS=f"127.0.0.1:{running['kafka'].port(9094)}")

    def send(*lines: str) -> None:
        done = subprocess.run(
            ["churnwatch", "send", "--clock", "none", "-"], input="\n".join(lines) + "\n", env=front,
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def known(*what: str) -> bool:
        done = subprocess.run(
            ["churnwatch", "customer", "regular"], env=worker.environment(), capture_output=True, text=True,
            timeout=90, check=False,
        )  # fmt: skip
        return all(each in done.stdout for each in what)

    # One after the other: what somebody says at their first live decision might have been known before go-live.
    send(*[event(day, "purchase", day, lines=[{"amount": 20}]) for day in range(57, 0, -7)])
    wait_until(partial(known, "orders     9"), 60, "the orders are applied", every=0.5)
    send(event(100, "complaint", 0, complaint="c1", kind="service", severity="high"))
    wait_until(partial(known, "complaints 1 open"), 60, "the complaint is applied", every=0.5)
    send(event(101, "customer_lost", 0))

    def alerts() -> list[dict[str, Any]]:
        found = [json.loads(record.value()) for record in read_all(running.here("kafka:9092"), ["alerts"])]
        return [one for one in found if one["customer"] == "regular" and one["kind"] == "churn"]

    wait_until(alerts, 60, "the alert leaves", every=0.5)
    assert [one["transition"] for one in alerts()] == ["raised"]
    shown = subprocess.run(
        ["churnwatch", "alerts", "--kind", "churn.raised"], env=front, capture_output=True, text=True,
        timeout=90, check=True,
    )  # fmt: skip
    assert "regular" in shown.stdout
    # And whoever asks for it is forgotten, by the key that the containers share.
    subprocess.run(
        ["churnwatch", "forget", "regular"], env=front, capture_output=True, timeout=150, check=True
    )
    assert not known("orders     9")


def test_prometheus_sees_all_of_them_and_follows_the_rules(running: Topology) -> None:
    for program in ("prometheus", "prometheus-alertmanager", "amtool"):
        if shutil.which(program) is None:
            missing(f"{program} is not on the PATH (Debian: prometheus, prometheus-alertmanager)")
    manager, prometheus = running["alertmanager"], running["prometheus"]
    config = running.compose.folder / "deploy/compose/alertmanager.yml"
    subprocess.run(["amtool", "check-config", config], check=True, capture_output=True)
    listen = "--web.listen-address=127.0.0.1:{}"
    where = [manager.here(word) for word in manager.service["command"]]
    manager.start(
        running.confined(manager, "prometheus-alertmanager", *where, listen.format(manager.port(9093))),
        {"PATH": os.environ["PATH"]},
    )

    # The addresses are those of containers: each becomes that of a process here, and the names of a service all of its.
    folder = prometheus.folder / "etc"
    folder.mkdir()
    told = yaml.safe_load(
        prometheus.here((running.compose.folder / "deploy/compose/prometheus.yml").read_text())
    )
    told["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in told["scrape_configs"]:
        for found in job.pop("dns_sd_configs", ()):
            (service,) = found["names"]
            assert found["type"] == "A"
            targets = [f"127.0.0.1:{one.port(found['port'])}" for one in running.containers[service]]
            job.setdefault("static_configs", []).append({"targets": targets})
    (folder / "prometheus.yml").write_text(yaml.safe_dump(told))
    rules = running.compose.folder / "deploy/prometheus"
    mounted = {volume.split(":")[1] for volume in prometheus.service["volumes"]}
    assert {"/etc/prometheus/prometheus.yml", "/etc/prometheus/rules"} <= mounted
    rules.mkdir(exist_ok=True)
    (folder / "rules").symlink_to(rules)
    command = [
        prometheus.here(word) if "--config.file" not in word else f"--config.file={folder / 'prometheus.yml'}"
        for word in prometheus.service["command"]
    ]
    prometheus.start(
        running.confined(prometheus, "prometheus", *command, listen.format(prometheus.port(9090))),
        {"PATH": os.environ["PATH"]},
    )

    def asked(path: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{prometheus.port(9090)}/api/v1/{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
            return data

    for container in (manager, prometheus):
        container.until_healthy()

    def up() -> bool:
        targets = asked("targets")["activeTargets"]
        jobs = sorted(one["labels"]["job"] for one in targets)
        expected = [
            "alertmanager",
            "churnwatch-trainer",
            "churnwatch-worker",
            "churnwatch-worker",
            "prometheus",
        ]
        return jobs == expected and all(one["health"] == "up" for one in targets)

    wait_until(up, 60, "everything that is scraped is up", every=0.5)
    wait_until(
        lambda: asked("alertmanagers")["activeAlertmanagers"], 60, "alarms have somewhere to go", every=0.5
    )
    followed = {group["name"] for group in asked("rules")["groups"]}
    written = {
        group["name"]
        for file in rules.glob("**/*.y*ml")
        for group in (yaml.safe_load(file.read_text()) or {}).get("groups", ())
    }
    assert followed == written


def test_all_of_ours_end_in_time_and_well_when_they_are_stopped(running: Topology) -> None:
    if running["shop"].process is not None:
        running["shop"].stop(group=True)
    for container in [*running.containers["worker"], running["trainer"]]:
        assert container.stop() == 0, container.said()
        assert not container.healthy()
