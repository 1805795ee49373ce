"""What a worker writes down: one line of each record, for people or machines, and no more of customers than is meant."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agents import logs, tracing
from agents.settings import Settings
from agents.settings import Worker as WorkerSettings
from tests.agents.command_line import CommandLine
from tests.agents.shell import Shell, producer_of
from tests.servers import ROOT, KafkaServer, RedisServer, read_all, wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def logged(
    form: logs.Form, *, debug: bool = False, error: bool = False, level: int = logging.WARNING, **more: Any
) -> str:
    try:
        raise RuntimeError("oh")
    except RuntimeError as e:
        given = (type(e), e, e.__traceback__) if error else None
        record = logging.LogRecord("agents.x", level, "", 0, "It %s", ("broke",), given)
        record.__dict__.update(more)
        return logs.formatter(form, debug=debug, terminal=False).format(record)


def test_a_line_is_for_people_or_one_object_and_has_a_traceback_only_when_it_is_debugged() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \[warning\] It broke", logged("console"))
    quiet = logged("console", error=True)
    assert "\n" not in quiet
    assert "RuntimeError: oh" in quiet
    assert "--debug" in quiet
    assert "Traceback" in logged("console", debug=True, error=True)
    assert logged("console", level=logging.CRITICAL) == "Error: It broke"
    told = json.loads(logged("json", error=True))
    assert list(told)[:4] == ["time", "level", "logger", "message"]
    assert (told["level"], told["logger"], told["error"]) == ("warning", "agents.x", "RuntimeError")
    assert "traceback" not in told
    assert "Traceback" in json.loads(logged("json", debug=True, error=True))["traceback"]


def test_fields_stand_beside_the_sentence() -> None:
    assert json.loads(logged("json", records=3, topic="purchases"))["records"] == 3
    assert logged("console", records=3, topic="purchases").endswith("It broke records=3 topic=purchases")


def test_where_there_is_no_terminal_lines_are_objects_unless_asked_otherwise() -> None:
    assert logged("auto").startswith("{")
    record = logging.LogRecord("agents.x", logging.INFO, "", 0, "Well", (), None)
    on_a_terminal = logs.formatter("auto", debug=False, terminal=True).format(record)
    assert "\x1b[" in on_a_terminal
    assert "Well" in on_a_terminal


def test_a_customer_is_shown_by_a_keyed_hash_where_there_is_a_key(tmp_path: Path) -> None:
    assert WorkerSettings().shown(b"c1") == "c1"
    (tmp_path / "key").write_text("k" * 32 + "\n")
    worker = Settings.load(flags={"worker.log_key_file": str(tmp_path / "key")}).worker
    assert worker.shown(b"c1") == hmac.new(b"k" * 32, b"c1", hashlib.sha256).hexdigest()[:16]
    other = Settings.load(env={"CHURNWATCH_WORKER__LOG_KEY": "other"}).worker
    assert other.shown(b"c1") not in {"c1", worker.shown(b"c1")}


class Collector:
    """An OTLP receiver: what arrives over HTTP is parsed by the protocol's own schema."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    outer.services |= {
                        a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
                    }
                    for scope in resource.scope_spans:
                        outer.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_worker_at_debug_tells_each_batch_in_one_line_nothing_of_customers_and_continues_the_trace_of_an_event(
    kafka: KafkaServer,
    redis_server: RedisServer,
    application: str,
    prefix: str,
    topics: Callable[..., list[str]],
    collector: Collector,
    tmp_path: Path,
) -> None:
    topics("purchases", "alerts", "decisions", "customer-scores", "dead-letters", partitions=1)
    topics("models", "brakes", partitions=1, cleanup_policy="compact")
    shop = Shell(kafka.brokers, redis_server.url, application, prefix)
    producer = producer_of(kafka.brokers)
    events: list[dict[str, Any]] = [
        {"id": "e1", "type": "purchase", "time": "2026-01-01T00:00:00Z", "lines": [{"amount": 10, "category": "tea"}]},
        {"id": "e2", "type": "complaint", "complaint": "q1", "kind": "service", "time": "2026-01-02T00:00:00Z",
         "text": "canary-text"},
        {"id": "e3", "type": "customer_lost", "time": "2026-01-03T00:00:00Z", "reason": "canary-reason"},
    ]  # fmt: skip
    for event in events:
        producer.produce(
            prefix + "purchases",
            json.dumps({"customer": "canary-customer", **event}),
            "canary-customer",
            headers=[("traceparent", TRACEPARENT)],
        )
    producer.produce(prefix + "purchases", b'{"canary-broken', "canary-customer")
    assert producer.flush(10) == 0
    env = {k: v for k, v in os.environ.items() if not k.startswith("CHURNWATCH_")}
    env["CHURNWATCH_WORKER__LOG_KEY"] = "canary-key"
    words = [
        sys.executable, "-m", "agents.cli", "--brokers", kafka.brokers, "--redis", redis_server.url, "--prefix", prefix,
        "--application", application, "--set", "kafka.inputs=purchases", "--set", "clock.mode=record",
        "--set", "kafka.session_timeout=6", "--set", f"worker.otlp_endpoint={collector.endpoint}",
        "worker", "--http-port", "0", "--log-level", "debug",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, cwd=ROOT, env=env)
    try:
        wait_until(lambda: sum(shop.offsets(1).values()) == 4 and not shop.waiting(1), 60)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, (tmp_path / "log").read_text()

    text = (tmp_path / "log").read_text()
    assert "canary" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    batches = [line for line in lines if line["message"] == "Batch applied"]
    assert sum(line["records"] for line in batches) == 4
    assert sum(line.get("alerts", 0) for line in batches) == 1
    assert sum(line.get("dead_letters", 0) for line in batches) == 1
    assert {line["logger"] for line in lines} > {"agents.worker"}
    assert any(line["logger"].startswith(("faust", "mode", "aiokafka")) for line in lines), "libraries too"

    (alert,) = read_all(kafka.brokers, [prefix + "alerts"])
    assert dict(alert.headers() or ())["ce_traceparent"] == TRACEPARENT.encode()
    assert {"churnwatch lot", "churnwatch load", "churnwatch decide", "churnwatch commit"} <= {
        span.name for span in collector.spans
    }
    (end,) = (span for span in collector.spans if span.name == "churnwatch alerts")
    assert end.trace_id.hex() == TRACE
    assert end.parent_span_id.hex() == "00f067aa0ba902b7"
    assert any(link.trace_id.hex() == TRACE for span in collector.spans for link in span.links)
    assert collector.services == {"churnwatch-worker"}
    assert "canary" not in str(collector.spans)


def test_without_an_endpoint_no_exporter_is_loaded_and_a_span_is_nothing() -> None:
    found = tracing.tracing_of(Settings(), "churnwatch-worker")
    assert not found.on
    with found.span("lot", records=1), found.span("load"):
        pass
    code = (
        "import sys, agents.worker, agents.tracing as t; from agents.settings import Settings;"
        "t.tracing_of(Settings(), 'x'); sys.exit('opentelemetry.exporter' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_an_endpoint_without_the_package_is_said_with_how_to_install_it(
    churnwatch: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    settings = msgspec.structs.replace(Settings(), worker=WorkerSettings(otlp_endpoint="http://127.0.0.1:1"))
    with pytest.raises(tracing.NoTracing, match=r"pip install 'churnwatch\[otel\]'"):
        tracing.tracing_of(settings, "x")
