"""Playing: the worker as a process of its own, the history sent to it at a tempo, and what comes back."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, cast

import msgspec
import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from agents.demo.history import DemoError, History, Source
from agents.demo.messages import Bought, Ended, Failed, Logged, Measured, Message, Opened, Said
from agents.demo.tempo import LEAD, Tempo, comfortable
from agents.embedded import PARTITIONS, Embedded, die_with_parent
from agents.failure import Code
from agents.files import Entry, FileError
from agents.send import Outgoing, Route, Sender, SendError, feed
from agents.settings import Clock, Settings
from features.shop import DAY, HOUR
from streams import topics
from streams.alerts import decode_alert, decode_score
from streams.codec import encode_clock

AHEAD = 8_000
"""Records that the producer may be ahead of the worker: the embedded Kafka keeps little."""
AHEAD_WATCHED = 400
"""The same at a tempo that a person has chosen: what was sent already cannot be paused."""
READY_WITHIN = 60.0
ANSWERS_WITHIN = 5.0
QUIET = 1.5
"""Seconds without a message after which all have come, once the worker has relayed everything: the
embedded Kafka does not answer when asked for the end of a topic."""
STILL_FOR = 120.0
"""Seconds without any progress after which the demo gives up and says so."""
ENDS_WITHIN = 4.0
_MEASURE_EVERY = 0.15
_PARTS = ("meta", "hot", "cold", "due", "out")
_TAIL = 12


class _Stopped(Exception):
    """Whoever watches has seen enough."""


class Play:
    """A history on its way through a worker, in a thread of its own.

    Everything that happens is told to ``post``; the last message is ``Ended`` or ``Failed``, unless it was
    stopped. A context manager: at its end everything that was started has ended.
    """

    def __init__(
        self,
        settings: Settings,
        chosen: Source,
        embedded: Embedded | None,
        post: Callable[[Message], None],
        tempo: Tempo,
        *,
        watched: bool,
    ) -> None:
        """``watched``: a person looks on. The tempo is then set to one that can be followed, and the
        worker's log is told as messages instead of being written to standard error."""
        run_id = uuid.uuid4().hex[:8]
        self._settings = msgspec.structs.replace(
            settings,
            # When a silent customer is looked at depends on this name: the same each time on servers of its own.
            application="demo" if embedded is not None else f"demo-{run_id}",
            kafka=msgspec.structs.replace(
                settings.kafka, prefix=f"demo-{run_id}.", inputs=chosen.inputs, group=None
            ),
            clock=Clock(mode="record"),
            worker=msgspec.structs.replace(settings.worker, http_port=_free_port(), http_host="127.0.0.1"),
        )
        self._source = chosen
        self._embedded = embedded
        self._post = post
        self._tempo = tempo
        self._watched = watched
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo", daemon=True)
        self._produced = 0
        self._next_check = 0
        self._events = 0
        # How many records and events had been sent when simulated time came to an instant.
        self._marks: tuple[list[int], list[int], list[int]] = ([0], [0], [0])

    def __enter__(self) -> Play:
        """Started."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ended, and what it has made on given servers is deleted."""
        self._stop.set()
        self._thread.join(ENDS_WITHIN + 15)

    # ---- the thread

    def _run(self) -> None:
        try:
            self._prepared()
        except _Stopped:
            pass
        except (DemoError, FileError, SendError, KafkaException, redis.RedisError, OSError) as error:
            self._post(Failed(error if isinstance(error, DemoError | FileError) else _explained(error)))
        except Exception as error:  # noqa: BLE001 -- a bug: raised again by whoever shows, not lost in a thread
            self._post(Failed(error))

    def _prepared(self) -> None:
        settings = self._settings
        names = [
            settings.kafka.topic(name) for name in (*settings.kafka.inputs, *topics.OUTPUTS, topics.MODELS)
        ]
        if self._embedded is not None:
            self._embedded.touch(names)
        else:
            _create(settings, names)
        try:
            with WorkerProcess(
                settings, quiet=self._watched, gentle=self._embedded is None, stopped=self._stop.is_set
            ) as worker:
                self._say("Starting the worker, reading the history.")
                history = self._source.open(self._say)
                worker.until_ready(READY_WITHIN)
                if self._watched:
                    follow = comfortable(history.first, history.last)
                    self._tempo.set(max(LEAD, follow), then=follow)
                self._post(Opened(history.first, history.last, history.truth))
                self._play(history, worker)
        finally:
            if self._embedded is None:
                self._remove(names)

    def _say(self, text: str) -> None:
        if self._stop.is_set():
            raise _Stopped
        self._post(Said(text))

    def _play(self, history: History, worker: WorkerProcess) -> None:
        began = time.monotonic()
        listening = _Listening(self._settings, self._post, self._measured, worker)
        thread = threading.Thread(target=listening.run, name="demo-listening", daemon=True)
        thread.start()
        self._listening = listening
        self._worker = worker
        try:
            route = Route(dict.fromkeys(self._settings.kafka.inputs, PARTITIONS), self._settings.kafka.prefix)
            sender = Sender(self._settings.kafka, pace=self._hold_back)
            sender.run(feed(self._paced(history), route))
            self._mark(history.last)
            sent = time.monotonic()
            self._until(lambda: listening.everything_came(sent))
            self._post(Ended(time.monotonic() - began, history.refused))
        finally:
            listening.stop.set()
            thread.join(3)

    def _paced(self, history: History) -> Iterator[Entry]:
        """The entries when their time has come, and in between the clock at each midnight."""
        told: int | None = None
        for event in history.entries:
            if told is not None:
                for midnight in range((told // DAY + 1) * DAY, event.at + 1, DAY):
                    self._wait(midnight)
                    yield Entry(0, midnight, "clock", "", encode_clock(midnight, history=False))
            self._wait(event.at)
            told = event.at if told is None else max(told, event.at)
            if event.kind == "purchase":
                self._post(Bought(event.customer, event.at))
            yield event
            self._events += event.kind != "clock"

    def _wait(self, at: int) -> None:
        self._tempo.wait(at, self._interrupted)
        if self._stop.is_set():
            raise _Stopped
        if at - self._marks[2][-1] >= HOUR:
            self._mark(at)

    def _interrupted(self) -> bool:
        self._worker.check()
        self._check_listening()
        return self._stop.is_set()

    def _mark(self, at: int) -> None:
        for kept, value in zip(self._marks, (self._produced, self._events, at), strict=True):
            kept.append(value)

    def _hold_back(self, _: Outgoing) -> None:
        if self._produced >= self._next_check:
            ahead = AHEAD if not self._watched else AHEAD_WATCHED
            if self._watched and self._tempo.speed == math.inf:
                ahead = AHEAD // 4
            self._until(lambda: self._produced - self._listening.applied < ahead)
            self._next_check = self._produced + ahead // 4
        self._produced += 1

    def _until(self, done: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not done():
            if self._interrupted():
                raise _Stopped
            if time.monotonic() - max(began, self._listening.moved) > STILL_FOR:
                raise DemoError(
                    f"Nothing has moved for {STILL_FOR:.0f} seconds.{self._worker.last_words()} "
                    "Is the machine very busy, or are the servers away? Try it again."
                )
            time.sleep(0.02)

    def _check_listening(self) -> None:
        if self._listening.failed is not None:
            raise self._listening.failed

    def _measured(self, applied: int, customers: int) -> Measured:
        """How far it is, from how many records have been applied. The partitions advance side by side, so
        the place between two marks is exact only when nothing lags."""
        records, events, instants = self._marks
        place = bisect_right(records, applied) - 1
        lag = self._produced - applied
        done = self._events if not lag else min(events[place] + applied - records[place], self._events)
        return Measured(time.monotonic(), instants[place], done, max(lag, 0), customers)

    def _remove(self, names: list[str]) -> None:
        """What the demo has made on servers that are not its own."""
        settings = self._settings
        application = settings.application
        states = [f"{{{application}:p{number}}}:{part}" for number in range(PARTITIONS) for part in _PARTS]
        try:
            with redis.Redis.from_url(settings.redis.url, **settings.redis.options()) as client:
                for key in (*states, f"{application}:layout"):
                    client.delete(key)
        except redis.RedisError as error:
            self._post(Said(f"The keys of {application} are left behind in Redis: {error}"))
        admin = AdminClient({**settings.kafka.librdkafka(), "log_level": 0})
        for name, future in admin.delete_topics(names).items():
            try:
                future.result(ANSWERS_WITHIN)
            except KafkaException as error:
                self._post(Said(f"The topic {name} is left behind: {error.args[0].str()}"))


def _explained(error: Exception) -> DemoError:
    what = error.args[0].str() if isinstance(error, KafkaException) else str(error)
    code = (
        Code.KAFKA
        if isinstance(error, KafkaException | SendError)
        else Code.REDIS
        if isinstance(error, redis.RedisError)
        else Code.FAILED
    )
    return DemoError(f"A server did not do what it was asked: {what} Are Kafka and Redis still there?", code)


def _create(settings: Settings, names: list[str]) -> None:
    """The demo's own topics on a real broker."""
    brokers = ",".join(settings.kafka.brokers)
    admin = AdminClient({**settings.kafka.librdkafka(), "log_level": 0})
    try:
        admin.list_topics(timeout=ANSWERS_WITHIN)
    except KafkaException as error:
        raise DemoError(
            f"Kafka at {brokers} does not answer: {error.args[0].str()}. Check kafka.brokers and its security "
            "settings, or leave --servers away: the demo then brings its own.",
            Code.KAFKA,
        ) from error
    try:
        with redis.Redis.from_url(settings.redis.url, **settings.redis.options()) as client:
            client.ping()
    except redis.RedisError as error:
        raise DemoError(
            f"Redis does not answer: {error}. Check redis.url and its security settings, or leave --servers away: "
            "the demo then brings its own.",
            Code.REDIS,
        ) from error
    single = {settings.kafka.topic(name) for name in topics.SINGLE}
    wanted = [
        NewTopic(name, num_partitions=1 if name in single else PARTITIONS, replication_factor=1)
        for name in names
    ]
    for name, future in admin.create_topics(wanted).items():
        try:
            future.result(30)
        except KafkaException as error:
            raise DemoError(f"Cannot create the topic {name}: {error.args[0].str()}", Code.KAFKA) from error


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class WorkerProcess:
    """``churnwatch worker`` as a process of its own, ended with the demo.

    ``quiet``: what it writes goes to a file without a name, and is read from there. ``gentle``: it is asked to
    end before it is killed, so that it leaves servers which are not the demo's in order. Start and end it in
    one thread: it dies with the thread that started it.
    """

    def __init__(
        self, settings: Settings, *, quiet: bool, gentle: bool, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._settings = settings
        self._gentle = gentle
        self._stopped = stopped
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = tempfile.TemporaryFile() if quiet else None  # noqa: SIM115 -- closed at the end
        self._read = 0
        self._reading = threading.Lock()
        self._lines: deque[str] = deque(maxlen=_TAIL)

    def __enter__(self) -> WorkerProcess:
        """Started."""
        command = [sys.executable, "-m", "agents.cli", "worker"]
        self._process = subprocess.Popen(  # noqa: S603 -- ourselves
            command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 -- one system call
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Ended: asked first, killed when it does not answer."""
        process = self._process
        if process is not None and process.poll() is None:
            if self._gentle:
                process.terminate()
                try:
                    process.wait(ENDS_WITHIN - 1)
                except subprocess.TimeoutExpired:
                    process.kill()
            else:
                process.kill()
            process.wait()
        if self._log is not None:
            self._log.close()

    def _environment(self) -> dict[str, str]:
        s = self._settings
        own = {
            "APPLICATION": s.application,
            "KAFKA__BROKERS": ",".join(s.kafka.brokers),
            "KAFKA__PREFIX": s.kafka.prefix,
            "KAFKA__INPUTS": ",".join(s.kafka.inputs),
            "KAFKA__SESSION_TIMEOUT": "10",
            "REDIS__URL": s.redis.url,
            "CLOCK__MODE": s.clock.mode,
            "WORKER__HTTP_PORT": str(s.worker.http_port),
            "WORKER__LOG_LEVEL": "warning",
        }
        return {**os.environ, **{f"CHURNWATCH_{name}": value for name, value in own.items()}}

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return None if self._process is None else self._process.poll()

    def new_lines(self) -> list[str]:
        """What it has written to its log since the last time; nothing unless it is quiet."""
        if self._log is None or self._log.closed:
            return []
        with self._reading:
            found = os.pread(self._log.fileno(), 1 << 20, self._read)
            whole = found[: found.rfind(b"\n") + 1]
            self._read += len(whole)
            lines = [line for line in whole.decode(errors="replace").splitlines() if line.strip()]
            self._lines.extend(lines)
            return lines

    def last_words(self) -> str:
        """The end of its log, or where it is, for an error."""
        self.new_lines()
        if self._log is None:
            return " What the worker said stands above."
        if not self._lines:
            return " The worker wrote nothing to its log."
        return " The worker's last words:\n" + "\n".join(f"  {line}" for line in self._lines) + "\n"

    def check(self) -> None:
        """Raises DemoError when the worker has ended."""
        code = self.code
        if code is None:
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        # The worker's own code says what befell it; of a signal, or of codes that are no errors, nothing is known.
        known = (
            code if code in {Code.USAGE, Code.REDIS, Code.KAFKA, Code.POISONED, Code.PORT} else Code.FAILED
        )
        raise DemoError(f"The worker {how}; the demo cannot go on without it.{self.last_words()}", known)

    def until_ready(self, seconds: float) -> None:
        """Waits until every partition is claimed. Raises DemoError."""
        url = f"http://127.0.0.1:{self._settings.worker.http_port}/readyz"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            if self._stopped():
                raise _Stopped
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)
        raise DemoError(f"The worker was not ready within {seconds:.0f} seconds.{self.last_words()}")


class _Listening:
    """Reads alerts and scores, and asks Redis how far the worker is; in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        post: Callable[[Message], None],
        measured: Callable[[int, int], Measured],
        worker: WorkerProcess,
    ) -> None:
        self.stop = threading.Event()
        self.applied = 0
        self.moved = time.monotonic()
        self.failed: Exception | None = None
        self._settings = settings
        self._post = post
        self._measured = measured
        self._worker = worker
        self._newest = time.monotonic()
        self._still = 0.0  # when it was last asked and had nothing to do
        self._redis = redis.Redis.from_url(settings.redis.url, **settings.redis.options())
        self._scores = settings.kafka.topic(topics.CUSTOMER_SCORES)
        self._consumer = Consumer(
            {
                **settings.kafka.librdkafka(),
                "group.id": f"{settings.application}-watching",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": False,
                "log_level": 0,
            }
        )

    def everything_came(self, since: float) -> bool:
        """Whether the worker, asked after ``since``, has nothing left to do or to send, and no message has
        come for a while."""
        return self._still > since and time.monotonic() - max(self._newest, since) > QUIET

    def run(self) -> None:
        """Until told to stop."""
        names = (self._settings.kafka.topic(topics.ALERTS), self._scores)
        self._consumer.assign([TopicPartition(name, n, 0) for name in names for n in range(PARTITIONS)])
        measured = 0.0
        try:
            while not self.stop.is_set():
                for message in self._consumer.consume(500, 0.1):
                    if message.error() is None:
                        self._newest = self.moved = time.monotonic()
                        value = message.value()
                        if value is None:
                            continue  # a customer who is not known any more
                        if message.topic() == self._scores:
                            self._post(decode_score(value))
                        else:
                            headers = dict(cast("list[tuple[str, bytes]]", message.headers()))
                            self._post(decode_alert(headers["ce_id"].decode(), value))
                if time.monotonic() - measured > _MEASURE_EVERY:
                    measured = time.monotonic()
                    self._measure()
        except Exception as error:  # noqa: BLE001 -- raised again where the history is played
            self.failed = error
        finally:
            self._consumer.close()
            self._redis.close()

    def _measure(self) -> None:
        asked = time.monotonic()
        for line in self._worker.new_lines():
            self._post(Logged(line))
        application, kafka = self._settings.application, self._settings.kafka
        offsets = ["off:" + kafka.topic(name) for name in kafka.inputs]
        pipe = self._redis.pipeline(transaction=False)
        for number in range(PARTITIONS):
            partition = f"{{{application}:p{number}}}"
            pipe.hmget(partition + ":meta", offsets)
            pipe.xlen(partition + ":out")
            pipe.hlen(partition + ":hot")
        answers = pipe.execute()
        applied = sum(int(offset or 0) for row in answers[0::3] for offset in row)
        waiting = sum(answers[1::3])
        if applied != self.applied or waiting:
            self.moved = time.monotonic()
        self.applied = applied
        measured = self._measured(applied, sum(answers[2::3]))
        self._still = asked if measured.lag == 0 and waiting == 0 else 0.0
        self._post(measured)
