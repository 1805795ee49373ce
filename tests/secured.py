"""Servers that trust nobody: Kafka with TLS, SCRAM and its authorizer on, Redis with TLS and users; and certificates
for them, good ones and bad ones."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.servers import KafkaServer, RedisServer, free_port

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"
ADMIN = "admin"


class Certificate(NamedTuple):
    """A certificate and its key, each a file in PEM; ``both`` is the two in one, as Kafka wants them."""

    cert: Path
    key: Path
    both: Path


class Authority:
    """Signs certificates in a folder of its own. Its own is the file ``pem``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.pem = folder / "ca.pem"
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        (folder / "openssl.cnf").write_text(
            "[ca]\ndefault_ca = one\n[one]\ndatabase = index\nserial = serial\nnew_certs_dir = .\ndefault_md = sha256\n"
            "policy = any\ncopy_extensions = copy\nunique_subject = no\n[any]\ncommonName = supplied\n"
        )
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90",
            "-subj", f"/CN={name}", "-keyout", "ca.key", "-out", "ca.pem",
        )  # fmt: skip

    def certificate(
        self,
        name: str,
        names: str = "DNS:localhost,IP:127.0.0.1",
        *,
        expired: bool = False,
        password: str | None = None,
    ) -> Certificate:
        """A certificate for host names; ``expired`` ended years ago; ``password`` opens its key."""
        made = Certificate(*(self.folder / f"{name}.{end}" for end in ("pem", "key", "both")))
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-addext", f"subjectAltName={names}", "-keyout", made.key.name, "-out", f"{name}.csr",
        )  # fmt: skip
        time = (
            ("-startdate", "20200101000000Z", "-enddate", "20210101000000Z") if expired else ("-days", "60")
        )
        self._openssl(
            "ca", "-batch", "-notext", "-config", "openssl.cnf", "-cert", "ca.pem", "-keyfile", "ca.key",
            "-in", f"{name}.csr", "-out", made.cert.name, *time,
        )  # fmt: skip
        made.both.write_text(made.key.read_text() + made.cert.read_text())
        if password is not None:
            locked = f"{name}.locked"
            self._openssl(
                "pkcs8", "-topk8", "-in", made.key.name, "-out", locked, "-passout", f"pass:{password}"
            )
            made = made._replace(key=self.folder / locked)
        return made

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(
            ["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


class Certificates:
    """Those that the servers show and that clients have."""

    def __init__(self, folder: Path) -> None:
        self.trusted = Authority(folder / "trusted")
        self.stranger = Authority(folder / "stranger", "stranger")

    @functools.cached_property
    def shown(self) -> dict[str, Certificate]:
        """By what is wrong with them."""
        return {
            "good": self.trusted.certificate("good"),
            "expired": self.trusted.certificate("expired", expired=True),
            "elsewhere": self.trusted.certificate("elsewhere", "DNS:elsewhere.example"),
            "untrusted": self.stranger.certificate("untrusted"),
        }


class SecuredKafka(KafkaServer):
    """One broker, and a listener with TLS and SASL for each certificate that it can show; ``mutual`` wants one of ours.

    ``users`` have passwords (SCRAM-SHA-512); ``plain`` those of PLAIN. Nobody but ``admin`` may do anything until an
    ACL says so; its own controller is known by its certificate.
    """

    def __init__(
        self,
        folder: Path,
        certificates: Certificates,
        users: Mapping[str, str],
        plain: Mapping[str, str] | None = None,
    ) -> None:
        self.certificates = certificates
        self.users = {ADMIN: "adm1n-of-the-broker", **users}
        # One more wants to see a certificate of whoever comes.
        shown = {**certificates.shown, "mutual": certificates.shown["good"]}
        self.ports = {name: free_port() for name in shown}
        controller = certificates.trusted.certificate("controller")
        names = {name: name.upper() for name in self.ports}
        host = "127.0.0.1"
        listeners = ",".join(f"{names[n]}://{host}:{port}" for n, port in self.ports.items())
        told = " ".join(f'user_{name}="{password}"' for name, password in (plain or {}).items())
        settings = {
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ",".join(
                ["CONTROLLER:SSL", *(f"{n}:SASL_SSL" for n in names.values())]
            ),
            "inter.broker.listener.name": "GOOD",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(certificates.trusted.pem),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(controller.both),
            "listener.name.controller.ssl.client.auth": "required",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN};User:CN=controller",
        }
        for name, upper in names.items():
            of = f"listener.name.{upper.lower()}"
            settings |= {
                f"{of}.ssl.keystore.location": str(shown[name].both),
                f"{of}.ssl.client.auth": "required" if name == "mutual" else "requested",
                f"{of}.sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN",
                f"{of}.scram-sha-512.sasl.jaas.config": (
                    f'{SCRAM} username="{ADMIN}" password="{self.users[ADMIN]}";'
                ),
                f"{of}.scram-sha-256.sasl.jaas.config": f"{SCRAM};",
                f"{of}.plain.sasl.jaas.config": f"{PLAIN} {told};",
            }
        super().__init__(folder, settings=settings)
        text = self.properties.read_text()
        controllers = re.findall(r"CONTROLLER://\S+", text)[0]
        self.properties.write_text(f"{text}listeners={listeners},{controllers}\n")
        self.port = self.ports["good"]
        self.brokers = f"localhost:{self.port}"

    def _formatted(self) -> Path:
        """With the users: Kafka knows them before it runs."""
        fresh = self.folder / "formatted"
        properties = self.folder / "format.properties"
        properties.write_text(
            self.properties.read_text().replace(f"log.dirs={self.data}", f"log.dirs={fresh}")
        )
        scram = [
            word
            for name, password in self.users.items()
            for word in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]")
        ]
        done = subprocess.run(
            self._java(
                "kafka.tools.StorageTool", "format", "--config", str(properties),
                "--cluster-id", "churnwatch-secure-0000", *scram,
            ),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return fresh

    def client(self, user: str = ADMIN) -> dict[str, Any]:
        """What librdkafka needs to be a user."""
        return {
            "bootstrap.servers": self.brokers,
            "security.protocol": "sasl_ssl",
            "ssl.ca.location": str(self.certificates.trusted.pem),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": self.users[user],
            "log_level": 0,
        }

    def admin(self) -> AdminClient:
        return AdminClient(self.client())

    def answers(self) -> bool:
        try:
            return bool(self.admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return False


class SecuredRedis(RedisServer):
    """Redis that speaks TLS only, shows one of the certificates and knows the users of a file; the default one is
    off. ``clients``: whether a client must show a certificate (``yes``, ``optional``)."""

    def __init__(
        self,
        folder: Path,
        certificates: Certificates,
        acl: str = "",
        *,
        shows: str = "good",
        clients: str = "optional",
        executable: str | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "users.acl"
        self.password = "adm1n-of-redis"
        default = "" if "user default" in acl else "user default off\n"
        file.write_text(f"{default}user {ADMIN} on >{self.password} ~* &* +@all\n{acl}")
        shown = certificates.shown[shows]
        super().__init__(
            folder,
            settings={
                "tls-cert-file": str(shown.cert),
                "tls-key-file": str(shown.key),
                "tls-ca-cert-file": str(certificates.trusted.pem),
                "tls-auth-clients": clients,
                "aclfile": str(file),
            },
        )
        if executable is not None:
            self.executable = executable
        self.settings["tls-port"] = self.settings["port"]
        self.settings["port"] = "0"
        self.ca = certificates.trusted.pem
        self.tls_url = f"rediss://localhost:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        who = {"username": ADMIN, "password": self.password}
        return redis.Redis.from_url(self.url, **{**who, **options})

    def as_user(self, user: str, password: str) -> redis.Redis:
        """A client over TLS."""
        return redis.Redis.from_url(self.tls_url, username=user, password=password, ssl_ca_certs=str(self.ca))
