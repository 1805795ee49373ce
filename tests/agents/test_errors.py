"""What a person gets wrong, on real servers: each time the message says what happened, why, and what to do."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import logging
import os
import re
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

import agents.commands.kafka
import agents.commands.states
import agents.worker
from agents import failure, logs, start
from agents.failure import Code, Unrecoverable
from agents.store import Layout
from tests.agents.command_line import CommandLine, Said
from tests.agents.test_secure import SecureKafka
from tests.conftest import missing
from tests.servers import KafkaServer, Missing, RedisServer, wait_until

ROOT = Path(__file__).parents[2]
HEADER = "event_type,customer_id,ts,order_id,amount\n"
ORDERS = HEADER + "purchase,c1,2025-01-01T00:00:00Z,o1,10\npurchase,c2,2025-01-02T00:00:00Z,o2,20\n"
CLOSED = "127.0.0.1:1"


# ---- commands as processes of their own


PIPE = subprocess.PIPE


def begin(*arguments: str, stdout: int = PIPE, stderr: int = PIPE) -> subprocess.Popen[str]:
    """Starts ``churnwatch`` with no settings but those of its arguments."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("CHURNWATCH_")}
    return subprocess.Popen(
        [sys.executable, "-m", "agents.cli", *arguments],
        cwd=ROOT, env={**env, "COLUMNS": "200", "NO_COLOR": "1"}, text=True,
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
    )  # fmt: skip


def end(process: subprocess.Popen[str], within: float = 60) -> Said:
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{process.args!r} still runs after {within:g} s: {out} {err}") from None
    return Said(process.returncode, out or "", err or "")


def head(process: subprocess.Popen[str]) -> Said:
    """Reads its first line and goes away, as ``head -1`` does."""
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    return Said(process.returncode, line, err)


def together(*calls: Sequence[str]) -> list[Said]:
    """Runs several side by side: each takes a second to start."""
    processes = [begin(*call) for call in calls]
    return [end(process) for process in processes]


def explains(said: Said, code: Code, *words: str) -> None:
    """Ended with the code, and the message holds the words; a traceback was not asked for."""
    assert said.code == code, said
    for word in words:
        assert word in said.err, f"{word!r} is not in: {said.err}"
    assert "Traceback" not in said.err


class Place:
    """Flags of an application of a test's own."""

    def __init__(self, kafka: str, redis: str, name: str) -> None:
        self.name = name
        self.flags = (
            "--application", name, "--prefix", f"{name}.", "--brokers", kafka, "--redis", redis,
            "--set", "kafka.inputs=purchases", "--set", "clock.mode=record", "--set", "kafka.session_timeout=6",
        )  # fmt: skip

    def worker(self, *more: str) -> tuple[str, ...]:
        """A worker that does not wait long for servers that are not there."""
        patience = (
            "--set",
            "worker.startup_deadline=3",
            "--set",
            "redis.timeout=1",
            "--set",
            "redis.patience=3",
        )
        return (*self.flags, *patience, *more, "worker", "--http-port", "0")


@pytest.fixture
def place(kafka: KafkaServer, redis_server: RedisServer, application: str) -> Place:
    return Place(kafka.brokers, redis_server.url, application)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in the test's own process look sooner what is there."""
    monkeypatch.setattr(agents.commands.kafka, "SLICE", 0.3)
    monkeypatch.setattr(agents.commands.kafka, "DOUBT", 0.2)
    monkeypatch.setattr(agents.commands.states, "PATIENCE", 0.5)


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a web server: neither Kafka nor Redis, and a port that is taken."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


# ---- no Kafka


def test_a_broker_that_is_not_there_is_told_from_a_wrong_name_and_from_another_server(
    churnwatch: CommandLine, impatient: None, redis_server: RedisServer, web: int
) -> None:
    for address, why, todo in (
        (CLOSED, "Connection refused: nothing listens at 127.0.0.1:1", "Is Kafka running there?"),
        ("nohost.invalid:9092", "No host is called nohost.invalid", "Check the name"),
        (f"127.0.0.1:{redis_server.port}", "it is Redis", "Check the port"),
        (f"127.0.0.1:{web}", "Something else than Kafka listens", "Check the port"),
    ):
        said = churnwatch("--brokers", address, "alerts")
        explains(said, Code.KAFKA, f"Kafka does not answer at {address}", why, todo, "--brokers")


def test_every_command_that_needs_kafka_says_so_within_seconds(
    churnwatch: CommandLine, impatient: None, tmp_path: Path
) -> None:
    (tmp_path / "orders.csv").write_text(ORDERS)
    for command in (
        ["send", "orders.csv"], ["alerts", "--follow"], ["topics", "create"], ["dlq", "list"], ["dlq", "show", "0:1"],
        ["dlq", "replay", "--all"],
    ):  # fmt: skip
        began = time.monotonic()
        explains(churnwatch("--brokers", CLOSED, *command), Code.KAFKA, "Connection refused", "--brokers")
        assert time.monotonic() - began < 5


def test_kafka_that_wants_a_password_or_tls_or_does_not_is_explained_to_commands_and_worker(
    churnwatch: CommandLine, impatient: None, tmp_path: Path, kafka: KafkaServer, redis_server: RedisServer
) -> None:
    try:
        server = SecureKafka(tmp_path / "kafka")
    except Missing as error:
        missing(str(error))
    (tmp_path / "right").write_text("right\n")
    (tmp_path / "wrong").write_text("hunter2\n")
    with server:
        tls = ("--set", "kafka.tls=true")
        trusted = (*tls, "--set", f"kafka.ca={server.ca}")

        def user(password: str) -> tuple[str, ...]:
            file = tmp_path / password
            return (
                "--set", "kafka.sasl=PLAIN", "--set", "kafka.username=shop", "--set", f"kafka.password_file={file}",
            )  # fmt: skip

        cases: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
            (server.brokers, (*trusted, *user("wrong")), ("does not let us in", "kafka.password_file")),
            (server.brokers, (), ("wants TLS", "kafka.tls = true", "kafka.ca")),
            (server.brokers, trusted, ("wants a user and a password", "kafka.sasl", "kafka.password_file")),
            (server.brokers, (*tls, *user("right")), ("certificate", "kafka.ca")),
            (kafka.brokers, tls, ("speaks without TLS", "kafka.tls = false")),
            (kafka.brokers, user("right"), ("asks nobody for a password", "kafka.sasl")),
        ]
        for brokers, flags, words in cases:
            said = churnwatch("--brokers", brokers, *flags, "alerts")
            explains(said, Code.KAFKA, *words)
            assert "hunter2" not in said.err
        workers = [
            Place(brokers, redis_server.url, "secure").worker(*flags) for brokers, flags, _ in cases[1:3]
        ]
        for (_, _, words), said in zip(cases[1:3], together(*workers), strict=True):
            explains(said, Code.KAFKA, words[0], words[1].rpartition("_file")[0] or words[1])
            assert "hunter2" not in said.err


def test_a_worker_without_kafka_or_redis_says_what_it_waits_for_and_then_ends(
    place: Place, kafka: KafkaServer, redis_server: RedisServer
) -> None:
    kafka.create_topics([f"{place.name}.purchases"], 1)
    nobody, no_redis, kafka_for_redis, wrong_password = together(
        place.worker("--brokers", CLOSED),
        place.worker("--redis", "redis://127.0.0.1:1/0"),
        place.worker("--redis", f"redis://{kafka.brokers}"),
        place.worker("--set", "redis.username=nobody", "--set", f"redis.password_file={ROOT / 'LICENSE'}"),
    )
    explains(nobody, Code.KAFKA, "nothing listens at 127.0.0.1:1", "Trying again for 3 s", "--brokers")
    explains(
        no_redis, Code.REDIS, "Redis does not answer at redis://127.0.0.1:1/0", "Is Redis running", "--redis"
    )
    explains(kafka_for_redis, Code.REDIS, "it is Kafka", "Check the port")
    explains(wrong_password, Code.REDIS, "does not let us in", "redis.username", "redis.password")
    assert "Apache" not in wrong_password.err


# ---- no Redis


def test_a_redis_that_is_not_there_is_told_from_another_server_and_from_tls(
    churnwatch: CommandLine, impatient: None, redis_server: RedisServer, kafka: KafkaServer, web: int
) -> None:
    port = redis_server.port
    for url, why, todo in (
        ("redis://127.0.0.1:1/0", "nothing listens at 127.0.0.1:1", "Is Redis running there?"),
        ("redis://nohost.invalid/0", "No host is called nohost.invalid", "Check the name"),
        (f"redis://{kafka.brokers}/0", "it is Kafka", "Check the port"),
        (f"redis://127.0.0.1:{web}/0", "Something else than Redis listens", "check its host and port"),
        (f"rediss://127.0.0.1:{port}/0", "speaks without TLS", "redis://"),
        ("unix:///nowhere.sock", "No such file", "--redis"),
        (f"redis://127.0.0.1:{port}/99", "no database of that number", "redis.url"),
    ):
        explains(churnwatch("--redis", url, "customers"), Code.REDIS, why, todo)


def test_an_unknown_application_and_an_unknown_customer_are_not_found(
    churnwatch: CommandLine, redis_server: RedisServer, application: str
) -> None:
    flags = ("--redis", redis_server.url, "--application", application)
    explains(churnwatch(*flags, "customers"), Code.NOT_FOUND, "knows no application", "churnwatch worker")
    with redis_server.client() as client:
        client.set(f"{application}:layout", json.dumps({"partitions": 2, "clock": "wall"}))
    explains(
        churnwatch(*flags, "customer", "who"), Code.NOT_FOUND, "No customer 'who'", "churnwatch customers"
    )


# ---- topics and state that do not fit


def test_unequal_topics_and_another_layout_are_refused_with_what_to_do(
    place: Place, kafka: KafkaServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "orders.csv").write_text(ORDERS)
    name = place.name
    kafka.create_topics([f"{name}.purchases"], 2)
    kafka.create_topics([f"{name}.browses"], 3)
    with redis_server.client() as client:
        for layout in (Layout(2, "wall"), Layout(5, "record")):
            stored = json.dumps({"partitions": layout.partitions, "clock": layout.clock})
            client.set(f"{name}-{layout.clock}:layout", stored)
    both = ("--set", "kafka.inputs=purchases,browses")
    worker, send, topics, clock, count = together(
        place.worker(*both),
        [*place.flags, *both, "send", str(tmp_path / "orders.csv")],
        [*place.flags, *both, "topics", "create"],
        place.worker("--application", f"{name}-wall"),
        place.worker("--application", f"{name}-record"),
    )
    for said in (worker, send, topics):
        explains(said, Code.USAGE, "number", "of partitions", f"{name}.purchases", f"{name}.browses", "reate")
    explains(clock, Code.USAGE, "clock.mode = wall, the settings say record", "Set clock.mode = wall")
    explains(count, Code.USAGE, "built with 5 partitions, Kafka has 2", "Choose another `application`")


# ---- the worker's port


def test_a_port_that_is_taken_is_said_with_who_has_it_and_how_to_choose_another(
    place: Place, web: int
) -> None:
    taken, elsewhere = together(
        [*place.flags, "worker", "--http-port", str(web)],
        [*place.flags, "--debug", "worker", "--http-host", "192.0.2.1", "--http-port", "0"],
    )
    mine = f"(process {os.getpid()}) listens there"
    explains(taken, Code.PORT, f"127.0.0.1:{web}", mine, "--http-port", "0 takes any")
    assert elsewhere.code == Code.PORT
    for word in ("Traceback", "192.0.2.1", "no such address", "--http-host"):
        assert word in elsewhere.err


# ---- Redis out of memory, a disk that is full


def orders(path: Path, count: int) -> float:
    """A file of so many customers with one order each; what they have spent."""
    rows = (f"purchase,c{i},2025-01-{1 + 20 * i // count:02d}T00:00:00Z,o{i},{i}.5\n" for i in range(count))
    path.write_text(HEADER + "".join(rows))
    return sum(i + 0.5 for i in range(count))


def spent(churnwatch: CommandLine, place: Place) -> float:
    said = churnwatch(*place.flags, "customers", "--json")
    return float(sum(line["spend"] for line in said.lines)) if said.code == 0 else 0.0


@contextlib.contextmanager
def working(place: Place, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker that is stopped with Ctrl-C at the end, in good order."""
    with log.open("wb") as file:
        process = begin(
            *place.flags, "worker", "--http-port", "0", stdout=file.fileno(), stderr=file.fileno()
        )
        try:
            yield process
            process.send_signal(signal.SIGINT)
            assert process.wait(12) == Code.DONE, log.read_text()
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()
            process.wait()


def test_a_redis_out_of_memory_stops_the_worker_which_goes_on_with_more_and_nothing_is_lost(
    churnwatch: CommandLine,
    kafka: KafkaServer,
    own_redis: Callable[..., RedisServer],
    application: str,
    tmp_path: Path,
) -> None:
    redis = own_redis(settings={"maxmemory-policy": "noeviction"})
    place = Place(kafka.brokers, redis.url, application)
    total = orders(tmp_path / "orders.csv", 4000)
    kafka.create_topics([f"{place.name}.{name}" for name in ("purchases", "alerts", "customer-scores")], 1)
    explains(end(begin(*place.flags, "send", str(tmp_path / "orders.csv"))), Code.DONE)
    with redis.client() as client:
        info: dict[str, int] = client.info("memory")
        client.config_set("maxmemory", info["used_memory"] + 600_000)
        said = end(begin(*place.flags, "worker", "--http-port", "0", "--log-format", "console"))
        explains(
            said, Code.REDIS, "reached its maxmemory", "nothing is lost", "CONFIG SET maxmemory", "noeviction"
        )
        client.config_set("maxmemory", 0)
    with working(place, tmp_path / "worker.log"):
        wait_until(lambda: spent(churnwatch, place) == total, 40, "every order is counted once", every=0.3)
    said = head(begin(*place.flags, "customers", "--json"))
    assert (said.code, said.lines[0]["orders"], said.err) == (Code.DONE, 1, "")
    with Path("/dev/full").open("w") as full:
        said = end(begin(*place.flags, "customers", "--json", stdout=full.fileno()))
    explains(said, Code.INPUT, "The output could not be written", "No space left on device", "Make room")


class CrampedRedis(RedisServer):
    """Survives a write that its limit on the size of files refuses, as it survives a disk that is full."""

    def command(self) -> list[str]:
        return ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh", *super().command()]


def test_a_worker_waits_for_a_redis_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(
    churnwatch: CommandLine, kafka: KafkaServer, application: str, tmp_path: Path
) -> None:
    total = orders(tmp_path / "orders.csv", 4000)
    with CrampedRedis(tmp_path / "redis") as redis:
        place = Place(kafka.brokers, redis.url, application)
        kafka.create_topics(
            [f"{place.name}.{name}" for name in ("purchases", "alerts", "customer-scores")], 1
        )
        explains(end(begin(*place.flags, "send", str(tmp_path / "orders.csv"))), Code.DONE)
        resource.prlimit(redis.pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        log = tmp_path / "worker.log"
        with working(place, log) as worker:
            wait_until(lambda: "cannot write to its disk" in log.read_text(), 40, "it says so")
            assert re.search(
                r"No space left on device.*: make room there; trying again for \d+ s", log.read_text()
            )
            assert worker.poll() is None
            resource.prlimit(
                redis.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
            wait_until(
                lambda: spent(churnwatch, place) == total, 40, "every order is counted once", every=0.3
            )


# ---- files


@pytest.mark.parametrize(
    ("name", "content", "why", "todo"),
    [
        ("nowhere.csv", None, "No such file", "Check the path"),
        ("folder", None, "directory", "a file in that folder"),
        ("empty.csv", b"", "is empty", "names of its columns"),
        ("cut.csv.gz", gzip.compress(ORDERS.encode(), mtime=0)[:50], "gzipped, and damaged or cut off", "gzip -t"),
        ("bad.parquet", b"PAR1 garbage", "damaged or no Parquet", "Copy it again"),
        ("few.csv", b"event_type,customer_id\nx,y\n", "has no column ts, amount", "It needs the columns event_type"),
        ("semi.csv", ORDERS.replace(",", ";").encode(), "by semicolons, not commas", "Export it with commas"),
        ("utf16.csv", ORDERS.encode("utf-16"), "UTF-16", "iconv -f UTF-16"),
        ("book.xlsx", b"PK\x03\x04 garbage", "a spreadsheet", "Save the sheet as CSV"),
        ("all.json", b'[{"type":"purchase"}]', "a JSON array", "jq -c"),
        ("noise", b"a\0\1\2\3", "is no text", "Check the file"),
        ("quote.csv", f'{HEADER}purchase,c,"{"x" * 140_000}\n'.encode(), "field larger than", "quotation mark"),
        ("latin.csv", f"{HEADER}purchase,Müller,2025-01-01,o,1\n".encode("latin-1"), "Latin-1", "--dry-run"),
        ("back.csv", f"{HEADER}purchase,c,2025-01-02,o,1\npurchase,c,2025-01-01,p,1\n".encode(), "line 3", "Sort the file"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_sent_says_what_it_is_and_what_to_do(
    churnwatch: CommandLine, tmp_path: Path, name: str, content: bytes | None, why: str, todo: str
) -> None:
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    explains(churnwatch("send", "--dry-run", name), Code.INPUT, why, todo)


def test_a_file_that_may_not_be_read_and_one_that_cannot_be_written_are_explained(
    churnwatch: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orders.csv").write_text(ORDERS + "purchase,c,never,o,1\n")
    for where, why in (("/dev/full", "No space left"), (".", "directory"), ("no/where", "No such file")):
        said = churnwatch("send", "--dry-run", "--refused", where, "orders.csv")
        explains(said, Code.INPUT, where, why)
    (tmp_path / "orders.csv").chmod(0)
    (tmp_path / "closed").mkdir()
    monkeypatch.chdir(tmp_path / "closed")
    (tmp_path / "closed").chmod(0)
    with nobody():
        said = churnwatch("send", "--dry-run", "orders.csv")
    explains(said, Code.USAGE, "churnwatch.toml", "Permission denied", "--config")
    monkeypatch.chdir("/")
    with nobody():
        said = churnwatch("send", "--dry-run", str(tmp_path / "orders.csv"))
    explains(said, Code.INPUT, "Permission denied", "Ask its owner")


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """As a user who may not read what is not his: root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


# ---- the streams that a command writes to


def test_a_disk_that_is_full_and_a_reader_that_goes_away_leave_no_traceback(
    place: Place, kafka: KafkaServer, tmp_path: Path
) -> None:
    (tmp_path / "orders.csv").write_text(ORDERS + "purchase,c,never,o,1\n")
    kafka.create_topics([f"{place.name}.alerts"], 1)
    producer = Producer({"bootstrap.servers": kafka.brokers, "log_level": 0})
    body = json.dumps({"customer": "c", "kind": "churn", "transition": "raised"}).encode()
    for n in range(3000):
        producer.produce(f"{place.name}.alerts", body, b"c", headers=[("ce_id", str(n).encode())])
    assert producer.flush(20) == 0
    with Path("/dev/full").open("w") as full:
        alerts = begin(*place.flags, "alerts", "--json", stdout=full.fileno())
        shown = begin("send", "--dry-run", str(tmp_path / "orders.csv"), stdout=full.fileno())
        told = begin("send", "--dry-run", str(tmp_path / "orders.csv"), stderr=full.fileno())
        helped = begin("--help", stdout=full.fileno())
        pipe = begin(*place.flags, "alerts", "--json")
        for said in map(end, (alerts, shown, helped)):
            explains(
                said, Code.INPUT, "The output could not be written", "No space left on device", "Make room"
            )
        assert end(told).code == Code.INPUT
    said = head(pipe)
    assert (said.code, said.lines[0]["customer"], said.err) == (Code.DONE, "c", "")


def test_ctrl_c_ends_every_command_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text(ORDERS)
    calls = (
        ["alerts", "--follow"], ["send", str(tmp_path / "orders.csv")], ["topics", "create"], ["dlq", "list"],
        ["dlq", "replay", "--all"], ["customers"], ["customer", "c"],
    )  # fmt: skip
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:
        processes = []
        for call in calls:
            # Each calls a server of its own, which takes connections and never says a word.
            deaf = stack.enter_context(socket.socket())
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(10)
            address = "{}:{}".format(*deaf.getsockname())
            process = begin("--brokers", address, "--redis", f"redis://{address}/0", *call)
            processes.append(process)
            waiting.register(deaf, selectors.EVENT_READ, process)
        while waiting.get_map():
            connected = waiting.select(60)
            assert connected
            for key, _ in connected:
                key.data.send_signal(signal.SIGINT)
                waiting.unregister(key.fileobj)
        for call, process in zip(calls, processes, strict=True):
            said = end(process, 30)
            code = Code.DONE if "--follow" in call else Code.INTERRUPTED
            assert (said.code, "Traceback" in said.err) == (code, False), (call, said)


def test_ctrl_c_while_it_is_loaded_ends_it_with_130_and_without_a_word(tmp_path: Path) -> None:
    """A package that it needs is never done with loading."""
    (tmp_path / "typer.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(600)\n")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from agents.start import main; sys.exit(main())"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    said = end(process, 30)
    assert (said.code, said.err) == (Code.INTERRUPTED, "")
    assert start.INTERRUPTED == Code.INTERRUPTED


def test_a_broker_that_goes_away_is_told_to_who_sends_and_to_who_follows(
    own_kafka: Callable[..., KafkaServer], tmp_path: Path
) -> None:
    kafka = own_kafka()
    kafka.create_topics(["purchases", "alerts"], 1)
    producer = Producer({"bootstrap.servers": kafka.brokers, "log_level": 0})

    def warn(customer: str) -> None:
        body = json.dumps({"customer": customer}).encode()
        producer.produce("alerts", body, b"c", headers=[("ce_id", customer.encode())])
        assert producer.flush(20) == 0

    warn("past")
    orders(tmp_path / "orders.csv", 3000)
    flags = (
        "--brokers", kafka.brokers, "--set", "kafka.inputs=purchases", "--set", "kafka.session_timeout=1",
        "--set", "kafka.request_timeout=2",
    )  # fmt: skip
    follow = begin(*flags, "alerts", "--follow", "--json")
    send = begin(*flags, "send", "--rate", "100/s", str(tmp_path / "orders.csv"))
    assert follow.stdout is not None
    assert follow.stderr is not None
    for customer in ("past", "present"):
        warn(customer)  # the first once more, which is shown once
        assert json.loads(follow.stdout.readline())["customer"] == customer
    wait_until(lambda: written(kafka, "purchases") > 5, 30, "some are sent", every=0.1)
    kafka.kill()
    said = end(send)
    explains(
        said,
        Code.KAFKA,
        "Sending stopped",
        "nothing listens at",
        "had been acknowledged",
        "send the file again",
    )
    assert f"Kafka ({kafka.brokers}) does not answer any more" in follow.stderr.readline()
    follow.send_signal(signal.SIGINT)
    assert end(follow) == Said(Code.DONE, "", "")


def written(kafka: KafkaServer, topic: str) -> int:
    """Records on the one partition of a topic."""
    reader = Consumer({"bootstrap.servers": kafka.brokers, "group.id": "none", "log_level": 0})
    try:
        return int(reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=5)[1])
    finally:
        reader.close()


def test_ctrl_c_in_the_middle_of_a_file_says_how_much_was_sent(
    place: Place, kafka: KafkaServer, tmp_path: Path
) -> None:
    topic = f"{place.name}.purchases"
    kafka.create_topics([topic], 1)
    orders(tmp_path / "orders.csv", 1000)
    process = begin(*place.flags, "send", "--rate", "20/s", str(tmp_path / "orders.csv"))
    wait_until(lambda: written(kafka, topic) > 5, 30, "some are sent", every=0.1)
    process.send_signal(signal.SIGINT)
    said = end(process, 10)
    explains(said, Code.INTERRUPTED, "Stopped: ", "events had been sent of")
    (events,) = re.findall(r"Stopped: (\d+) events", said.err)
    clocks = 1 + int(events) // 200  # one at each midnight that was passed
    assert int(events) <= written(kafka, topic) <= int(events) + clocks


# ---- settings and flags


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "nowhere.toml", "alerts"], ("nowhere.toml", "No such file", "Check the path")),
        (["--config", "broken.toml", "worker"], ("broken.toml", "is not TOML")),
        (["--set", "kafka.broker=x:1", "alerts"], ("unknown key kafka.broker", "Did you mean kafka.brokers?")),
        (["--set", "redis.password=hunter2", "customers"], ("CHURNWATCH_REDIS__PASSWORD", "redis.password_file")),
        (["--redis", "redis://me:hunter2@x/0", "customers"], ("user name or a password", "redis.password_file")),
        (["--set", "policy.high=7", "alerts"], ("policy.high = ", "from 0 to 1")),
        (["--application", "a b", "customers"], ("application", "must be a name")),
        (["--brokers", "kafka", "alerts"], ("kafka.brokers", "host:port")),
        (["worker", "--http-port", "99999"], ("worker.http_port = 99999", "from 0 to 65535")),
        (["worker", "--accept-invalid-until", "alerts:0:1"], ("of an input topic", "purchases")),
        (["worker", "--log-level", "loud"], ("--log-level", "'debug'")),
        (["alerts", "--since", "soon"], ("is no time", "2026-01-31")),
        (["alerts", "--limit", "0"], ("--limit", "greater than or equal to 1")),
        (["send", "x.csv", "--rate", "fast"], ("is no rate", "500/s")),
        (["send", "x.csv", "--clock", "none", "--until", "2026-01-01"], ("--until needs --clock record",)),
        (["send"], ("Missing argument",)),
        (["dlq", "show", "here"], ("is no place", "3:17")),
        (["dlq", "replay"], ("say which", "--all")),
        (["customers", "--band", "worst"], ("'worst'", "lapsed")),
        (["topics", "create", "--partitions", "0"], ("--partitions",)),
        (["frob"], ("No such command 'frob'",)),
    ],
)  # fmt: skip
def test_wrong_settings_and_flags_are_named_with_what_is_allowed(
    churnwatch: CommandLine, tmp_path: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    (tmp_path / "broken.toml").write_text("a = [\n")
    said = churnwatch(*arguments)
    explains(said, Code.USAGE, *words)
    assert "hunter2" not in said.err


def test_an_unknown_variable_is_refused(churnwatch: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHURNWATCH_KAFKA__BROKER", "x:1")
    explains(churnwatch("alerts"), Code.USAGE, "unknown variable", "Did you mean CHURNWATCH_KAFKA__BROKERS?")


# ---- the worker's log


def test_a_library_says_the_same_only_once_in_a_while() -> None:
    seldom = logs.Seldom()

    def passes(name: str, text: str, level: int = logging.ERROR) -> bool:
        return seldom.filter(logging.LogRecord(name, level, "", 0, text, (), None))

    assert [passes("aiokafka.conn", "away") for _ in range(3)] == [True, False, False]
    assert [passes("agents.store", "away") for _ in range(2)] == [True, True]
    assert not passes("agents.transport", "[^App]: Starting...", logging.INFO)


# ---- exit codes


def listed() -> dict[int, str]:
    """The codes of the page, with their names."""
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert all(all(cells) for cells in rows)
    return {int(code): name for code, name, *_ in rows}


def test_the_page_of_exit_codes_holds_every_code_and_no_other(churnwatch: CommandLine) -> None:
    assert listed() == {code.value: code.name for code in Code}
    helped = churnwatch("--help").out.partition("Exit codes:")[2].replace("\xa0", " ")
    for code in Code:
        assert f"{code.value} {code.meaning}" in helped


def test_what_ends_a_worker_ends_it_with_a_code_of_the_page() -> None:
    def below(kind: type[Unrecoverable]) -> Iterator[type[Unrecoverable]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    kinds = list(below(failure.Unrecoverable))
    assert len(kinds) > 4
    assert {kind.code for kind in kinds} <= set(Code)
    codes = {getattr(agents.worker, name) for name in vars(agents.worker) if name.startswith("EXIT_")}
    assert codes == {Code.POISONED, Code.CUT_SHORT, Code.INTERRUPTED}


def test_a_supervisor_restarts_what_may_heal_and_leaves_the_rest_to_a_person() -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    (prevented,) = re.findall(r"^RestartPreventExitStatus=(.*)$", page, re.MULTILINE)
    left = {int(code) for code in prevented.split()}
    rows = re.findall(r"^\| (\d+) \| `\w+` \|.*\| (yes|no)[^|]*\|$", page, re.MULTILINE)
    assert {int(code) for code, answer in rows if answer == "no"} == left | {Code.DONE, Code.INTERRUPTED}
