"""A real Kafka that wants TLS and a password, through Faust and aiokafka."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from agents.failure import KafkaBroken
from agents.settings import Secret
from tests.agents.shell import Shell, eventually, run
from tests.conftest import missing
from tests.servers import KafkaServer, Missing, RedisServer

LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


class SecureKafka(KafkaServer):
    """TLS with a certificate of its own, and two users."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
        self.ca = folder / "cert.pem"
        both = folder / "both.pem"
        both.write_text((folder / "key.pem").read_text() + self.ca.read_text())
        super().__init__(
            folder,
            settings={
                "listener.security.protocol.map": "BROKER:SASL_SSL,CONTROLLER:PLAINTEXT",
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(both),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.ca),
                "sasl.enabled.mechanisms": "PLAIN",
                "sasl.mechanism.inter.broker.protocol": "PLAIN",
                "listener.name.broker.plain.sasl.jaas.config": (
                    f'{LOGIN} username="broker" password="b" user_broker="b" user_shop="right";'
                ),
            },
        )

    def client(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.brokers,
            "security.protocol": "sasl_ssl",
            "ssl.ca.location": str(self.ca),
            "sasl.mechanism": "PLAIN",
            "sasl.username": "shop",
            "sasl.password": "right",
            "log_level": 0,
        }

    def admin(self) -> AdminClient:
        return AdminClient(self.client())

    def answers(self) -> bool:
        try:
            return bool(self.admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return False


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[SecureKafka]:
    try:
        server = SecureKafka(tmp_path / "kafka")
    except Missing as error:
        missing(str(error))
    with server:
        yield server


def test_the_worker_reads_and_warns_over_tls_with_a_password_and_says_when_it_is_wrong(
    secure: SecureKafka, redis_server: RedisServer, application: str, prefix: str
) -> None:
    shell = Shell(secure.brokers, redis_server.url, application, prefix)
    secure.create_topics([prefix + "purchases", prefix + "alerts"], 1)
    producer = Producer(secure.client())
    for n in range(6):
        event = {"id": f"{n}", "type": "view", "customer": "c", "time": "2026-03-01T00:00:00Z"}
        producer.produce(prefix + "purchases", msgspec.json.encode(event), b"c")
    assert producer.flush(20) == 0
    right = msgspec.structs.replace(
        shell.settings().kafka,
        tls=True, ca=str(secure.ca), sasl="PLAIN", username="shop", password=Secret("right"),
    )  # fmt: skip
    wrong = msgspec.structs.replace(right, password=Secret("wrong"))
    stranger = msgspec.structs.replace(right, ca=None)

    async def body() -> None:
        async with shell.worker(kafka=right):
            await eventually(lambda: shell.counted(1) == 6)
            await eventually(lambda: shell.waiting(1) == 0)
        for settings, said in ((wrong, r"kafka\.password"), (stranger, r"kafka\.ca")):
            with pytest.raises(KafkaBroken, match=said):
                async with shell.worker(kafka=settings):
                    pass

    run(body())
