"""deploy/kubernetes/: what it builds is valid, fits together, and says of the worker what is true of it."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from agents.cli import app
from agents.failure import Code
from agents.health import Health
from agents.metrics import Metrics
from agents.settings import Settings
from agents.worker import STOP_DEADLINE
from tests.conftest import missing
from tests.deploy.image import environment, stages
from tests.servers import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
PLACES = ("base", "overlays/production")
RELEASES = ("1.30", "1.37")
NAME = {"app.kubernetes.io/name": "churnwatch"}

Manifest = dict[str, Any]


def builder() -> list[str]:
    """The command that builds a kustomization, as it stands on this machine."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    brought = 0
    if shutil.which("kubectl"):
        said = subprocess.run(
            ["kubectl", "version", "--client", "-o", "json"], capture_output=True, check=False
        )
        brought = int(json.loads(said.stdout).get("kustomizeVersion", "v0").lstrip("v").split(".")[0])
    if brought < 4:  # Debian's kubectl brings one of 2019, which knows no labels and no patches
        missing("neither kustomize nor a kubectl with kustomize 4 or newer is on the PATH")
    return ["kubectl", "kustomize"]


@pytest.fixture(scope="module", params=PLACES)
def built(request: pytest.FixtureRequest) -> list[Manifest]:
    """All that one of them makes."""
    done = subprocess.run(
        [*builder(), str(KUBERNETES / request.param)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no word of what will not be supported for long"
    return list(yaml.safe_load_all(done.stdout))


def of(built: list[Manifest], kind: str, name: str | None = None) -> list[Manifest]:
    return [one for one in built if one["kind"] == kind and name in {None, one["metadata"]["name"]}]


def pods(built: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Name and template of everything that becomes pods."""
    for one in built:
        if "template" in one.get("spec", {}):
            yield one["metadata"]["name"], one["spec"]["template"]


@functools.cache
def certificate() -> str:
    """One that nobody needs to trust."""
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=ca", "-keyout", "/dev/null"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def settings(built: list[Manifest], folder: Path) -> Settings:
    """Those of the ConfigMap, with the variables of the image, and files in the place of the Secret's."""
    (config,) = of(built, "ConfigMap")
    ((_, text),) = config["data"].items()
    for name in re.findall(r"/run/secrets/churnwatch/([\w.-]+)", text):
        (folder / name).write_text(certificate() if name.endswith(".crt") else "a secret of some length")
    file = folder / "churnwatch.toml"
    file.write_text(text.replace("/run/secrets/churnwatch", str(folder)))
    env = {name: value for name, value in environment(stages()[-1]).items() if name.startswith("CHURNWATCH")}
    return Settings.load(file, env)


def fits(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("release", RELEASES)
def test_every_manifest_is_valid_by_the_schemas_of_the_api(built: list[Manifest], release: str) -> None:
    assert {one["kind"] for one in built} >= {
        "Deployment", "Job", "ConfigMap", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount",
    }  # fmt: skip
    for one in built:
        assert kubernetes_validate.validate(one, release, strict=True) == release


def test_what_is_wrong_is_found() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": [9464]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, RELEASES[0], strict=True)


def test_selectors_find_the_pods_that_they_are_meant_for(built: list[Manifest]) -> None:
    labels = {name: template["metadata"]["labels"] for name, template in pods(built)}
    assert set(labels) == {"churnwatch-worker", "churnwatch-trainer", "churnwatch-topics"}
    for deployment in of(built, "Deployment"):
        name = deployment["metadata"]["name"]
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert [each for each, found in labels.items() if fits(selector, found)] == [name]
        for spread in deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            assert spread["labelSelector"]["matchLabels"] == selector
    (budget,) = of(built, "PodDisruptionBudget")
    selector = budget["spec"]["selector"]["matchLabels"]
    assert [each for each, found in labels.items() if fits(selector, found)] == ["churnwatch-worker"]
    (worker,) = of(built, "Deployment", "churnwatch-worker")
    assert 0 < budget["spec"]["maxUnavailable"] < worker["spec"]["replicas"]
    (policy,) = of(built, "NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchLabels"] == NAME
    (service,) = of(built, "Service")
    for selector in (policy["spec"]["podSelector"]["matchLabels"], service["spec"]["selector"]):
        assert all(fits(selector, found) for found in labels.values())


def test_what_refers_to_another_object_finds_it(built: list[Manifest]) -> None:
    (config,) = of(built, "ConfigMap")
    (account,) = of(built, "ServiceAccount")
    for name, template in pods(built):
        spec = template["spec"]
        assert spec["serviceAccountName"] == account["metadata"]["name"], name
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes["settings"]["configMap"]["name"] == config["metadata"]["name"], name
        (container,) = spec["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == volumes.keys(), name
        (variable,) = container["env"]
        (file,) = config["data"]
        assert variable == {"name": "CHURNWATCH_CONFIG", "value": f"{mounts['settings']}/{file}"}
        # Where a read-only container may write is where the image says that it does.
        assert environment(stages()[-1])["HOME"] == mounts["tmp"]
    namespaces = {one["metadata"].get("namespace") for one in built if one["kind"] != "Namespace"}
    assert len(namespaces) == 1


def test_no_secret_is_in_it_and_every_file_of_one_is_mounted(built: list[Manifest]) -> None:
    assert not of(built, "Secret")
    (config,) = of(built, "ConfigMap")
    (text,) = config["data"].values()
    told = tomllib.loads(text)
    assert "password" not in {key for section in told.values() for key in section}
    files = {
        value for section in told.values() for key, value in section.items() if key == "ca" or "_file" in key
    }
    page = (ROOT / "docs" / "deployment.md").read_text()
    for _, template in pods(built):
        (container,) = template["spec"]["containers"]
        (place,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "secrets"]
        assert all(str(Path(file).parent) == place for file in files)
        (volume,) = [one["secret"] for one in template["spec"]["volumes"] if one["name"] == "secrets"]
        assert volume["defaultMode"] == 0o440, "the group of the pod, and nobody else"
        for file in files:
            assert f"--from-file={Path(file).name}" in page, "the page says how to make it"
        assert f"create secret generic {volume['secretName']}" in page


def test_no_pod_may_more_than_it_must(built: list[Manifest]) -> None:
    (user,) = stages()[-1].all("USER")
    number, group = map(int, user.words[0].split(":"))
    for name, template in pods(built):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": number, "runAsGroup": group, "fsGroup": group,
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name  # fmt: skip
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }, name  # fmt: skip
        assert re.fullmatch(r"([a-z./]+/)?churnwatch:\d+\.\d+\.\d+", container["image"])
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert container["resources"]["limits"].keys() == {"memory"}, "a throttled worker misses heartbeats"
        assert all("hostPath" not in volume for volume in spec["volumes"])
    for namespace in of(built, "Namespace"):
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_its_settings_are_valid_and_the_ports_are_those_that_are_served(
    built: list[Manifest], tmp_path: Path
) -> None:
    held = settings(built, tmp_path)
    assert held.clock.mode == "wall"
    assert held.worker.http_host == "0.0.0.0"
    served = {"churnwatch-worker": held.worker.http_port, "churnwatch-trainer": held.worker.http_port + 1}
    for deployment in of(built, "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["ports"] == [
            {"name": "http", "containerPort": served[deployment["metadata"]["name"]]}
        ]
    (service,) = of(built, "Service")
    assert service["spec"]["ports"] == [{"name": "http", "port": held.worker.http_port, "targetPort": "http"}]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True, "what is wrong is scraped too"


def test_what_must_get_through_gets_through_and_nothing_else(built: list[Manifest], tmp_path: Path) -> None:
    held = settings(built, tmp_path)
    (policy,) = of(built, "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = policy["spec"]["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": "http"}]
    assert ingress["from"], "from somewhere, not from everywhere"
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    brokers = {int(broker.rpartition(":")[2]) for broker in held.kafka.brokers}
    redis = int(re.search(r":(\d+)/", held.redis.url)[1])  # type: ignore[index]
    assert ports == {53, redis, *brokers}
    # Where an overlay says in which namespace they are, it is the one of their names.
    for rule in policy["spec"]["egress"]:
        for peer in rule.get("to", ()):
            namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            named = [*held.kafka.brokers, held.redis.url]
            assert namespace == "kube-system" or any(f".{namespace}.svc" in one for one in named)


def test_probes_ask_what_is_served_and_mean_what_they_say(built: list[Manifest], tmp_path: Path) -> None:
    health = Health(
        Metrics(CollectorRegistry()), assigned=list, claimed=list, caught_up=list, startup_deadline=1
    )
    routes = {route.get_info()["path"] for route in health.application().router.resources()}
    held = settings(built, tmp_path)
    for deployment in of(built, "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        probes = {kind: container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
        asked = {kind: probe["httpGet"]["path"] for kind, probe in probes.items()}
        assert asked == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
        assert set(asked.values()) <= routes
        assert {probe["httpGet"]["port"] for probe in probes.values()} == {"http"}
        # A loop that stands still for less than a session is still in its group: killing it would be worse.
        patience = probes["liveness"]["periodSeconds"] * probes["liveness"]["failureThreshold"]
        assert patience > held.kafka.session_timeout
        assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 60


def test_a_pod_is_given_longer_than_it_takes_to_stop_and_its_group_to_notice(
    built: list[Manifest], tmp_path: Path
) -> None:
    held = settings(built, tmp_path)
    for deployment in of(built, "Deployment"):
        grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace > STOP_DEADLINE + held.kafka.session_timeout
    (worker,) = of(built, "Deployment", "churnwatch-worker")
    assert worker["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert worker["spec"]["progressDeadlineSeconds"] > held.worker.startup_deadline


def test_every_command_is_one(built: list[Manifest]) -> None:
    for name, template in pods(built):
        (container,) = template["spec"]["containers"]
        assert "command" not in container, "the image's entry point"
        words = [word for word in container["args"] if not word.startswith("--")]
        help_ = CliRunner().invoke(app, [*words[:2], "--help"] if words[0] == "topics" else [words[0], "--help"],
                                   env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})  # fmt: skip
        assert help_.exit_code == 0, name
        assert all(word in help_.stdout for word in container["args"] if word.startswith("--")), name


def test_the_job_gives_up_where_the_exit_code_says_that_it_ends_the_same_way(built: list[Manifest]) -> None:
    (job,) = of(built, "Job")
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [int(Code.USAGE)]
    assert rule["onExitCodes"]["containerName"] == job["spec"]["template"]["spec"]["containers"][0]["name"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_another_setting_is_another_config_map_so_that_workers_are_rolled(
    built: list[Manifest], tmp_path: Path
) -> None:
    copy = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    (config,) = of(built, "ConfigMap")
    place = "overlays/production" if config["metadata"].get("namespace") else "base"
    file = copy / place / "churnwatch.toml"
    file.write_text(file.read_text() + "batch = 100\n")
    done = subprocess.run([*builder(), str(copy / place)], capture_output=True, text=True, check=True)
    (changed,) = of(list(yaml.safe_load_all(done.stdout)), "ConfigMap")
    assert changed["metadata"]["name"] != config["metadata"]["name"]
