"""docker-compose.yml without Docker: the same commands, variables, secrets and checks, on the real servers.

A container has a network and a file system of its own; here all share those of this machine. So in whatever the
file says, ``service:port`` becomes a port of this machine, and a path that it mounts becomes a folder of the test.
Nothing else is changed, and nothing is added but what says where to listen. Where root runs the tests, all but Kafka
run on a read-only file system and without capabilities, as the file has it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.image import Image, stages
from tests.servers import LOCAL, ROOT, free_port, redis_executable, wait_until

FILES = ("docker-compose.yml", "deploy/compose", "deploy/prometheus", "deploy/grafana")


class Compose:
    """The file as docker-compose reads it, in a copy of what it refers to, with secrets made for it."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        for name in FILES:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("secrets"))
            elif source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        subprocess.run([folder / "deploy/compose/make-secrets"], check=True, capture_output=True)
        done = subprocess.run(
            ["docker-compose", "--profile", "shop", "config"], cwd=folder, env={**os.environ, **variables},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.warnings = done.stderr
        self.file: dict[str, Any] = yaml.safe_load(done.stdout)
        self.services: dict[str, dict[str, Any]] = self.file["services"]

    def secret(self, name: str) -> Path:
        return Path(self.file["secrets"][name]["file"])


@functools.cache
def confining() -> bool:
    """Whether this machine lets us."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv"))):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


class Container:
    """One container of a service: its process, its port numbers, its folders."""

    def __init__(self, topology: Topology, service: str, number: int) -> None:
        self.topology = topology
        self.service = topology.compose.services[service]
        self.name = f"{service}-{number}"
        self.folder = topology.folder / self.name
        self.folder.mkdir(parents=True)
        self.log = self.folder / "log"
        self.ports: dict[int, int] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def port(self, inside: int) -> int:
        """Where its port is on this machine."""
        return self.ports.setdefault(inside, free_port())

    def here(self, text: str) -> str:
        """What the file says, for this machine."""
        text = re.sub(
            r"127\.0\.0\.1(:| -p )(\d+)\b",
            lambda found: f"127.0.0.1{found[1]}{self.port(int(found[2]))}",
            text,
        )
        for secret in self.service.get("secrets", ()):
            text = text.replace(
                f"/run/secrets/{secret['source']}", str(self.topology.compose.secret(secret["source"]))
            )
        for volume in self.service.get("volumes", ()):
            source, target = volume.split(":")[:2]
            place = source if source.startswith("/") else self.topology.volume(source)
            text = re.sub(rf"(?<![\w/.]){re.escape(target)}(?![\w.-])", str(place), text)
        return self.topology.here(text)

    def environment(self, **more: str) -> dict[str, str]:
        """Of the image and of the file, and of nobody else."""
        said = {
            name: self.here(str(value)) for name, value in (self.service.get("environment") or {}).items()
        }
        return {**self.topology.image.environment(), **said, **more}

    def run(self, command: Sequence[str], env: Mapping[str, str], *, cwd: Path | None = None) -> int:
        """To its end; the exit code."""
        self.start(command, env, cwd=cwd)
        assert self.process is not None
        return self.process.wait(120)

    def start(self, command: Sequence[str], env: Mapping[str, str], *, cwd: Path | None = None) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(command), cwd=cwd or self.folder, env=dict(env), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def healthy(self) -> bool:
        """What the file's own check says now."""
        kind, *words = self.service["healthcheck"]["test"]
        words = [self.here(word.replace("$$", "$")) for word in words]
        command = ["sh", "-c", words[0]] if kind == "CMD-SHELL" else words
        done = subprocess.run(command, env=self.environment(), capture_output=True, timeout=30, check=False)
        return done.returncode == 0

    def until_healthy(self, seconds: float = 90) -> None:
        def is_healthy() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"{self.name} has ended:\n{self.said()}"
            return self.healthy()

        wait_until(is_healthy, seconds, f"{self.name} is healthy", every=0.2)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self, *, group: bool = False) -> int:
        """As Docker does, and no longer than the file allows; the exit code."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGTERM) if group else self.process.terminate()
        grace = float(self.service.get("stop_grace_period", "10s").removesuffix("s"))
        return self.process.wait(grace)


class Topology:
    """All of them."""

    def __init__(self, folder: Path, compose: Compose, image: Image, jars: Path) -> None:
        self.folder = folder
        self.compose = compose
        self.image = image
        self.jars = jars
        self.containers: dict[str, list[Container]] = {
            name: [Container(self, name, number + 1) for number in range(service.get("scale", 1))]
            for name, service in compose.services.items()
        }

    def __getitem__(self, service: str) -> Container:
        return self.containers[service][0]

    def here(self, text: str) -> str:
        """``service:port`` as a port of this machine; of several containers the first."""
        names = "|".join(map(re.escape, self.containers))
        return re.sub(
            rf"(?<![\w.-])({names}):(\d+)\b",
            lambda found: f"127.0.0.1:{self[found[1]].port(int(found[2]))}",
            text,
        )

    def volume(self, name: str) -> Path:
        place = self.folder / "volumes" / name
        place.mkdir(parents=True, exist_ok=True)
        return place

    @contextlib.contextmanager
    def all_stopped(self) -> Iterator[None]:
        try:
            yield
        finally:
            for container in (one for several in self.containers.values() for one in several):
                if container.process is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(container.process.pid, signal.SIGKILL)
                    container.process.wait()

    # ---- the servers of others, as their images start them

    def start_kafka(self) -> None:
        """By Kafka's own code for its image: variables become server.properties, and the storage is formatted."""
        kafka = self["kafka"]
        env = kafka.environment(PATH=os.environ["PATH"])
        for name, value in env.items():
            if name in {"KAFKA_LISTENERS", "KAFKA_ADVERTISED_LISTENERS"}:
                env[name] = re.sub(
                    r"://:(\d+)", lambda found: f"://127.0.0.1:{kafka.port(int(found[1]))}", value
                )
        final, default = kafka.folder / "config", kafka.folder / "default"
        final.mkdir()
        default.mkdir()
        java = ["java", *shlex.split(env["KAFKA_HEAP_OPTS"]), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        java += [f"-Dlog4j2.configurationFile={LOCAL / 'log4j2.properties'}", "-cp", f"{self.jars}/*"]
        setup = ["kafka.docker.KafkaDockerWrapper", "setup", f"--default-configs-dir={default}"]
        setup += [f"--mounted-configs-dir={kafka.folder / 'mounted'}", f"--final-configs-dir={final}"]
        assert kafka.run([*java, *setup], env) == 0, kafka.said()
        kafka.start([*java, "kafka.Kafka", str(final / "server.properties")], env)

    def start_redis(self) -> None:
        redis = self["redis"]
        program, *words = map(redis.here, redis.service["command"])
        assert program == "redis-server"
        executable = redis_executable()
        assert executable is not None
        where = ["--bind", "127.0.0.1", "--port", str(redis.port(6379))]
        redis.start(self.confined(redis, executable, *words, *where), redis.environment())

    # ---- ours

    def command(self, container: Container) -> list[str]:
        """What the container runs, entry point and all."""
        words = container.service.get("entrypoint", ["churnwatch"]) + container.service["command"]
        return self.confined(container, *(container.here(word.replace("$$", "$")) for word in words))

    def confined(self, container: Container, *words: str) -> list[str]:
        """A command that may do nothing and write nowhere but where the file lets it, as far as that can be here."""
        if not confining():
            return list(words)
        service = container.service
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        scratch = container.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        tmp = any(place.split(":")[0] == "/tmp" for place in service.get("tmpfs", ()))
        volumes = [volume.split(":")[0] for volume in service.get("volumes", ())]
        return [
            "unshare", "--mount", "--propagation", "private", str(Path(__file__).with_name("confined")),
            str(scratch), "tmp:rw" if tmp else "tmp:ro",
            f"ro:{self.image.prefix}", f"ro:{self.compose.folder}", f"ro:{container.folder}",
            *(f"rw:{self.volume(name)}" for name in volumes if not name.startswith("/")),
            "--", "env", "--chdir", str(self.workplace(container)), *words,
        ]  # fmt: skip

    def workplace(self, container: Container) -> Path:
        """The image's working directory, or what is mounted there."""
        (where,) = stages()[-1].all("WORKDIR")
        for volume in container.service.get("volumes", ()):
            source, target = volume.split(":")[:2]
            if target == where.words[0]:
                return self.volume(source)
        return container.folder

    def serving(self, container: Container) -> dict[str, str]:
        """Its variables, and a port of its own beside the others'."""
        inside = 9465 if container.service["command"] == ["trainer"] else 9464
        port = container.port(inside) - (inside - 9464)  # the trainer takes the next one
        return container.environment(CHURNWATCH_WORKER__HTTP_PORT=str(port))
