from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    AdminClient,
    ConfigResource,
    ResourceType,
)

from agents import cli
from agents.commands.alerts import sentence
from agents.commands.send import rate
from agents.commands.shell import visible
from agents.embedded import Embedded
from tests.servers import KafkaServer, RedisServer, free_port, wait_until

ROOT = Path(__file__).parents[2]
START = datetime(2025, 1, 6, 9, tzinfo=UTC)


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """What ``--json`` printed."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, with no settings but those of its arguments."""
    for name in os.environ:
        if name.startswith("CHURNWATCH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: str) -> Said:
        capsys.readouterr()
        code = cli.main(list(arguments))
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call


class Shop(NamedTuple):
    """A shop that runs: one input topic on the record clock, a worker, and events that it has applied."""

    flags: tuple[str, ...]
    prefix: str
    brokers: str
    folder: Path


def rows() -> Iterator[str]:
    """c0 buys every 2 days to the end; c1 did so and has stopped in the middle; c2 has sent things back."""
    for n in range(40):
        at = (START + timedelta(days=2 * n)).isoformat().replace("+00:00", "Z")
        yield f"purchase,c0,{at},a{n},tea,drinks,1,10.00,"
        if n < 20:
            yield f"purchase,c1,{at},b{n},tea,drinks,2,20.50,"
        if n in {3, 7}:
            yield f"return,c2,{at},r{n},tea,drinks,-1,-5.25,"
            yield f"purchase,c2,{at},p{n},tea,drinks,1,30,"


@pytest.fixture(scope="module")
def shop(
    kafka: KafkaServer, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    name = f"commands-{uuid.uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("shop")
    (folder / "orders.csv").write_text(
        "event_type,customer_id,ts,order_id,sku,category,quantity,amount,extra\n"
        + "".join(line + "\n" for line in rows())
        + f"purchase,c9,{(START + timedelta(days=79)).isoformat()},z1,tea,drinks,1,-3,\n"
    )
    (folder / "foreign.ndjson").write_text(
        '{"type":"purchase","id":"x1","customer":"c5","time":"2025-04-20T00:00:00Z","currency":"EUR",'
        '"lines":[{"amount":10}]}\n'
    )
    flags = (
        "--application", name, "--prefix", f"{name}.", "--brokers", kafka.brokers, "--redis", redis_server.url,
        "--set", "kafka.inputs=purchases", "--set", "clock.mode=record", "--set", "kafka.session_timeout=6",
    )  # fmt: skip
    env = {k: v for k, v in os.environ.items() if not k.startswith("CHURNWATCH_")}

    def churnwatch(*arguments: str) -> str:
        said = subprocess.run(
            [sys.executable, "-m", "agents.cli", *flags, *arguments],
            capture_output=True, text=True, check=False, cwd=ROOT, env=env,
        )  # fmt: skip
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout + said.stderr

    churnwatch("topics", "create", "--partitions", "2")
    said = churnwatch("send", "--until", "2025-04-20", str(folder / "orders.csv"))
    assert "Sent 64 events and" in said
    assert "line 66: amount: -3 is negative" in said
    # ``send`` would refuse these: they come from another producer.
    producer = Producer({"bootstrap.servers": kafka.brokers, "log_level": 0})
    producer.produce(f"{name}.purchases", (folder / "foreign.ndjson").read_bytes().strip(), b"c5")
    producer.produce(f"{name}.purchases", b"{broken", b"c6", headers=[("trace", b"t1")])
    producer.flush(10)
    log = (folder / "worker.log").open("wb")
    worker = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", *flags, "worker", "--http-port", "0"],
        stdout=log, stderr=log, cwd=ROOT, env=env,
    )  # fmt: skip
    try:
        shop = Shop(flags, f"{name}.", kafka.brokers, folder)
        sent = len(kafka.read_all([f"{name}.purchases"]))
        with redis_server.client() as redis:

            def applied() -> bool:
                assert worker.poll() is None, (folder / "worker.log").read_text()
                done = sum(
                    int(redis.hget(f"{{{name}:p{n}}}:meta", f"off:{name}.purchases") or 0) for n in range(2)
                )
                waiting = sum(redis.xlen(f"{{{name}:p{n}}}:out") for n in range(2))
                return done >= sent and not waiting

            wait_until(applied, 90, "everything is applied and has left", every=0.2)
        yield shop
    finally:
        worker.terminate()
        worker.wait(15)
        log.close()


# ---- a shop that runs


def test_customers_json_has_the_keys_of_the_contract(shop: Shop, run: Run) -> None:
    said = run(*shop.flags, "customers", "--json")
    assert said.code == 0, said.err
    found = {line["customer"]: line for line in said.lines}
    assert set(found) == {"c0", "c1", "c2"}
    assert list(found["c0"]) == [
        "customer", "orders", "returns", "spend", "first_purchase", "last_purchase", "open_complaints",
        "churn_probability", "risk_band", "as_of", "reasons",
    ]  # fmt: skip
    assert (found["c0"]["orders"], found["c0"]["spend"]) == (40, 400.0)
    assert (found["c2"]["orders"], found["c2"]["returns"], found["c2"]["spend"]) == (2, 2, 49.5)
    assert found["c1"]["last_purchase"] == "2025-02-13T09:00:00Z"
    assert found["c0"]["as_of"] == "2025-04-20T00:00:00Z"
    assert found["c1"]["churn_probability"] > 0.5


def test_customers_are_shown_as_a_table_sorted_filtered_and_limited(shop: Shop, run: Run) -> None:
    said = run(*shop.flags, "customers", "--sort", "spend", "--limit", "2")
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines] == ["customer", "c1", "c0"]
    said = run(*shop.flags, "customers", "--json", "--sort", "customer")
    assert [line["customer"] for line in said.lines] == ["c0", "c1", "c2"]
    band = run(*shop.flags, "customer", "c1", "--json").lines[0]["risk_band"]
    said = run(*shop.flags, "customers", "--json", "--band", band)
    assert "c1" in {line["customer"] for line in said.lines}
    assert {line["risk_band"] for line in said.lines} == {band}


def test_one_customer_is_shown_with_reasons_for_people_and_for_programs(shop: Shop, run: Run) -> None:
    said = run(*shop.flags, "customer", "c1", "--json")
    (found,) = said.lines
    assert found["customer"] == "c1"
    assert found["reasons"]
    said = run(*shop.flags, "customer", "c1")
    assert "likely to leave" in said.out
    assert str(found["reasons"][0]["text"]) in said.out


def test_an_unknown_customer_is_not_found(shop: Shop, run: Run) -> None:
    said = run(*shop.flags, "customer", "nobody")
    assert said.code == 3
    assert "No customer 'nobody'" in said.err
    assert "churnwatch customers" in said.err


def test_alerts_show_who_went_silent_once_and_can_be_filtered(shop: Shop, run: Run) -> None:
    said = run(*shop.flags, "alerts", "--json")
    assert said.code == 0, said.err
    alerts = said.lines
    assert [a["time"] for a in alerts] == sorted(a["time"] for a in alerts)
    assert len({a["id"] for a in alerts}) == len(alerts)
    raised = [a for a in alerts if (a["kind"], a["transition"]) == ("churn", "raised")]
    assert "c1" in {a["customer"] for a in raised}
    assert {"id", "type", "source", "time", "position", "versions"} <= set(raised[0])
    said = run(*shop.flags, "alerts", "--json", "--customer", "c1", "--kind", "churn.raised")
    assert said.lines == [a for a in raised if a["customer"] == "c1"]
    said = run(*shop.flags, "alerts", "--json", "--since", "2025-03-10")
    assert said.lines == [a for a in alerts if a["decided_at"] >= "2025-03-10"]
    said = run(*shop.flags, "alerts", "--json", "--limit", "1")
    assert said.lines == alerts[-1:]
    said = run(*shop.flags, "alerts", "--customer", "c1")
    assert "churn raised  c1" in said.out


def test_alerts_can_be_followed_until_interrupted(shop: Shop) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "agents.cli", *shop.flags, "alerts", "--follow", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["id"]
    process.send_signal(2)
    _, err = process.communicate(timeout=15)
    assert process.returncode == 0
    assert "Traceback" not in err


def test_dead_letters_are_counted_shown_and_replayed_with_their_attempts(shop: Shop, run: Run) -> None:
    said = run(*shop.flags, "dlq", "list")
    assert "1  not_json" in said.out
    assert "unknown_currency" in said.out
    letters = run(*shop.flags, "dlq", "list", "--json").lines
    (broken,) = (x for x in letters if x["reason"] == "not_json")
    assert (broken["key"], broken["value"], broken["headers"]) == ("c6", "{broken", {"trace": "t1"})
    (foreign,) = (x for x in letters if x["reason"] == "unknown_currency")
    assert (foreign["customer"], foreign["topic"], foreign["attempts"]) == ("c5", "purchases", 1)

    said = run(*shop.flags, "dlq", "show", foreign["place"])
    assert "currency: 'EUR' is not allowed" in said.out
    assert '"amount": 10' in said.out

    said = run(*shop.flags, "dlq", "replay", "--reason", "unknown_currency", "--dry-run")
    assert "1 would be replayed" in said.out
    said = run(*shop.flags, "dlq", "replay", "--customer", "c5")
    assert said.out == "1 replayed.\n"

    def again() -> list[Any]:
        found = run(*shop.flags, "dlq", "list", "--json", "--customer", "c5").lines
        return [x for x in found if x["attempts"] == 2]

    wait_until(again, 40, "it was refused again, as attempt 2", every=0.2)
    assert again()[0]["value"] == foreign["value"]
    said = run(*shop.flags, "dlq", "replay", "--customer", "c5", "--dry-run")
    assert "1 would be replayed" in said.out, "one record is sent once, however many letters it left"


def test_a_record_that_was_tried_five_times_is_not_replayed(shop: Shop, run: Run) -> None:
    producer = Producer({"bootstrap.servers": shop.brokers, "log_level": 0})
    said = {"topic": "purchases", "partition": "0", "offset": "7", "error": "invalid", "attempts": "5"}
    headers: list[tuple[str, str | bytes | None]] = [(f"churnwatch-{n}", v) for n, v in said.items()]
    producer.produce(shop.prefix + "dead-letters", b"{}", b"tired", headers=headers)
    producer.flush(10)
    answer = run(*shop.flags, "dlq", "replay", "--customer", "tired")
    assert "not replayed, it was tried 5 times" in answer.err
    assert answer.out == "0 replayed. 1 were tried too often.\n"


def test_replay_wants_to_be_told_what(shop: Shop, run: Run) -> None:
    assert run(*shop.flags, "dlq", "replay").code == 2
    assert run(*shop.flags, "dlq", "replay", "0:999999").code == 3
    assert run(*shop.flags, "dlq", "show", "here").code == 2


def test_sending_again_says_what_is_refused_to_a_file(shop: Shop, run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    said = run(*shop.flags, "send", "--dry-run", "--refused", str(bad), str(shop.folder / "orders.csv"))
    assert said.code == 0
    assert said.out.startswith("64 events could be sent, 2025-01-06T09:00:00Z to 2025-03-25T09:00:00Z")
    assert bad.read_text() == "line 66: amount: -3 is negative; that of a purchase must not be\n"


# ---- topics


def policy(brokers: str, topic: str) -> str:
    admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
    (future,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    return str(future.result(10)["cleanup.policy"].value)


def test_topics_are_created_once_with_equal_partitions_and_compaction(
    kafka: KafkaServer, prefix: str, run: Run
) -> None:
    flags = ("--brokers", kafka.brokers, "--prefix", prefix)
    said = run(*flags, "topics", "create", "--partitions", "3", "--dry-run")
    assert f"{prefix}purchases: would be created, 3 partitions" in said.out
    said = run(*flags, "topics", "create", "--partitions", "3")
    assert said.code == 0, said.err
    assert f"{prefix}customers: created, 3 partitions, compacted" in said.out
    counts = {n: len(t.partitions) for n, t in kafka.admin().list_topics(timeout=10).topics.items()}
    for name in ("purchases", "browses", "complaints", "contacts", "customers", "alerts", "dead-letters"):
        assert counts[prefix + name] == 3
    assert policy(kafka.brokers, prefix + "customers") == "compact"
    assert policy(kafka.brokers, prefix + "customer-scores") == "compact"
    assert policy(kafka.brokers, prefix + "purchases") == "delete"
    said = run(*flags, "topics", "create")
    assert said.code == 0
    assert f"{prefix}purchases: exists, 3 partitions" in said.out
    said = run(*flags, "topics", "create", "--partitions", "4")
    assert said.code == 2
    assert "with 3 partitions, not 4" in said.err


def test_unequal_input_topics_are_refused_before_anything_is_created(
    kafka: KafkaServer, prefix: str, run: Run
) -> None:
    kafka.create_topics([prefix + "purchases"], 2)
    kafka.create_topics([prefix + "browses"], 3)
    said = run("--brokers", kafka.brokers, "--prefix", prefix, "topics", "create")
    assert said.code == 2
    assert "different numbers of partitions" in said.err
    assert f"{prefix}browses has 3" in said.err
    assert prefix + "alerts" not in kafka.admin().list_topics(timeout=10).topics


def test_an_input_that_is_compacted_although_events_would_vanish_is_an_error(
    kafka: KafkaServer, prefix: str, run: Run
) -> None:
    kafka.create_topics([prefix + "purchases"], 1, {"cleanup.policy": "compact"})
    said = run("--brokers", kafka.brokers, "--prefix", prefix, "topics", "create")
    assert said.code == 2
    assert f"{prefix}purchases: cleanup.policy is compact, must be delete" in said.err


def test_a_broker_without_an_admin_api_is_asked_for_its_topics_and_that_is_said(
    embedded: Embedded, run: Run
) -> None:
    said = run("--brokers", embedded.brokers, "topics", "create")
    assert said.code == 0, said.err
    assert "has no admin API" in said.err
    assert "purchases: created, 4 partitions" in said.out


# ---- what a person can get wrong


def test_a_broker_that_is_away_is_explained_without_a_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.commands.kafka.PATIENCE", 1.0)
    for command in (["alerts"], ["topics", "create"], ["dlq", "list"]):
        said = run("--brokers", "127.0.0.1:1", *command)
        assert said.code == 5
        assert "Kafka does not answer at 127.0.0.1:1" in said.err
        assert "Connection refused" in said.err
        assert "--brokers" in said.err
        assert "Traceback" not in said.err


def test_a_redis_that_is_away_or_wants_a_password_is_explained(
    own_redis: Callable[..., RedisServer], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.commands.states.PATIENCE", 1.0)
    said = run("--redis", "redis://127.0.0.1:1/0", "customers")
    assert said.code == 4
    assert "Redis does not answer at redis://127.0.0.1:1/0" in said.err
    assert "refused" in said.err or "connecting" in said.err
    server = own_redis()
    with server.client() as client:
        client.config_set("requirepass", "secret")
    said = run("--redis", server.url, "customers")
    assert said.code == 4
    assert "does not let us in" in said.err
    monkeypatch.setenv("CHURNWATCH_REDIS__PASSWORD", "hunter2")
    said = run("--redis", server.url, "customers")
    assert said.code == 4
    assert "hunter2" not in said.err
    monkeypatch.setenv("CHURNWATCH_REDIS__PASSWORD", "secret")
    said = run("--redis", server.url, "customers")
    assert said.code == 3
    assert "knows no application churnwatch" in said.err


def test_a_missing_topic_says_how_to_make_it(
    kafka: KafkaServer, prefix: str, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "x.csv"
    file.write_text("event_type,customer_id,ts,amount\npurchase,c,2025-01-01T00:00:00Z,1\n")
    for command in (["alerts"], ["dlq", "list"], ["send", str(file)]):
        said = run("--brokers", kafka.brokers, "--prefix", prefix, *command)
        assert said.code == 5
        assert "has no topic" in said.err
        assert "churnwatch topics create" in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["send", "nowhere.csv"], 6, "No such file"),
        (["send", "README.md", "--topic", "alerts", "--dry-run"], 6, "no column"),
        (["--set", "kafka.broker=x:1", "worker"], 2, "Did you mean kafka.brokers?"),
        (["--set", "nonsense", "worker"], 2, "section.key=value"),
        (["--config", "nowhere.toml", "customers"], 2, "No such file"),
        (["--redis", "http://x", "customers"], 2, "must be redis://"),
        (["worker", "--http-port", "99999"], 2, "worker.http_port = 99999"),
        (["worker", "--accept-invalid-until", "purchases"], 2, "TOPIC:PARTITION:OFFSET"),
        (["alerts", "--since", "soon"], 2, "is no time"),
        (["dlq", "list", "--frob"], 2, "No such option"),
    ],
)
def test_wrong_usage_says_what_is_wrong(
    run: Run, arguments: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("# Read me\n")
    said = run(*arguments)
    assert said.code == code, said
    assert says in said.err
    assert "Traceback" not in said.err


def test_a_file_that_is_not_sorted_is_not_sent_at_all(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(
        "event_type,customer_id,ts,amount\npurchase,c,2025-01-02T00:00:00Z,1\npurchase,c,2025-01-01T00:00:00Z,1\n"
    )
    said = run("--brokers", "127.0.0.1:1", "send", str(file))
    assert said.code == 6
    assert "line 3" in said.err
    assert "--clock none" in said.err


def test_every_command_teaches_by_example(run: Run) -> None:
    for command in (
        [], ["worker"], ["send"], ["alerts"], ["customers"], ["customer"], ["topics", "create"],
        ["dlq", "list"], ["dlq", "show"], ["dlq", "replay"], ["demo"],
    ):  # fmt: skip
        said = run(*command, "--help")
        assert said.code == 0
        assert "Examples:" in said.out
        assert "churnwatch " + " ".join(command) in said.out.partition("Examples:")[2]
    assert "Exit codes" in run("--help").out


def test_an_error_of_the_program_is_one_line_unless_it_is_being_debugged(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr("agents.commands.customers._read", broken)
    said = run("customers")
    assert said.code == 1
    assert "RuntimeError: oh" in said.err
    assert "--debug" in said.err
    assert "Traceback" not in said.err
    assert "Traceback" in run("--debug", "customers").err


def test_the_settings_file_of_the_folder_is_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "churnwatch.toml").write_text("[policy]\nhigh = 7\n")
    monkeypatch.chdir(tmp_path)
    assert "policy.high = 7 in line 2 of the file churnwatch.toml" in run("customers").err


def test_rates_are_a_second_unless_said_otherwise() -> None:
    assert [rate(text) for text in ("500", "500/s", "120/m", "7200/h")] == [500, 500, 2, 2]


def test_an_alert_is_one_line_whatever_it_holds() -> None:
    line = sentence(
        {"kind": "upsell", "transition": "raised", "customer": "[red]", "offers": [{"type": "replenish"}]}
    )
    assert "\\[red]" in line
    assert "replenish" in line


# ---- a broker with TLS and passwords


class Secured(NamedTuple):
    brokers: str
    ca: Path


@pytest.fixture
def secured(tmp_path: Path, jars: Path) -> Iterator[Secured]:
    """A broker with a listener that wants TLS and SCRAM or PLAIN beside its plain one."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    store = tmp_path / "store.pem"
    store.write_text(key.read_text() + certificate.read_text())
    server = KafkaServer(tmp_path / "kafka")
    port = free_port()
    lines = []
    for line in server.properties.read_text().splitlines():
        name = line.partition("=")[0]
        if name in {"listeners", "advertised.listeners"}:
            line += f",SAFE://127.0.0.1:{port}"
        if name == "listener.security.protocol.map":
            line += ",SAFE:SASL_SSL"
        lines.append(line)
    login = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_me="right";'
    server.properties.write_text(
        "\n".join(lines)
        + "\nssl.keystore.type=PEM"
        + f"\nssl.keystore.location={store}"
        + "\nlistener.name.safe.sasl.enabled.mechanisms=PLAIN"
        + f"\nlistener.name.safe.plain.sasl.jaas.config={login}\n"
    )
    with server:
        yield Secured(f"127.0.0.1:{port}", certificate)


def test_tls_and_passwords_work_and_wrong_ones_are_explained(
    secured: Secured, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.commands.kafka.PATIENCE", 3.0)
    secret = tmp_path / "password"
    secret.write_text("right\n")
    flags = (
        "--brokers", secured.brokers, "--set", "kafka.tls=true", "--set", "kafka.sasl=PLAIN",
        "--set", "kafka.username=me", "--set", f"kafka.password_file={secret}",
    )  # fmt: skip
    trusted = ("--set", f"kafka.ca={secured.ca}")
    said = run(*flags, *trusted, "topics", "create", "--partitions", "1")
    assert said.code == 0, said.err
    assert run(*flags, *trusted, "alerts", "--json") == Said(0, "", "")
    said = run(*flags, "alerts")
    assert said.code == 5
    assert "shows a certificate that we do not trust" in said.err
    assert "kafka.ca" in said.err
    secret.write_text("wrong\n")
    said = run(*flags, *trusted, "alerts")
    assert said.code == 5
    assert "does not let us in" in said.err
    assert "kafka.password_file" in said.err
    assert "wrong" not in said.err


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert visible("tea\tand\nmilk") == "tea\tand\nmilk"
    assert visible("\x1b]0;mine\x07\x9b2J\u202eevil\r") == r"\x1b]0;mine\x07\x9b2J\u202eevil\r"
