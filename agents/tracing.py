"""OpenTelemetry, where it is asked for: a span for each lot of batches, and one for each alert that continues a trace.

Without ``worker.otlp_endpoint`` nothing of it is imported, and a span is an empty context.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from typing import Any, Final, Protocol

from agents.failure import Code, Unrecoverable
from agents.settings import Settings
from streams.message import Message

LINKS: Final = 32
"""Traces of events that a span names at most."""


class NoTracing(Unrecoverable):
    """Traces are wanted, and what makes them is not installed."""

    code = Code.USAGE


class Tracing(Protocol):
    """What the path tells of itself."""

    on: bool
    """Whether anybody listens."""

    def span(
        self, name: str, traces: Iterable[str] = (), **attributes: str | int
    ) -> AbstractContextManager[object]:
        """The time until the context ends. ``traces``: of the events that it deals with."""
        ...

    def delivered(self, topic: str, messages: Sequence[Message]) -> None:
        """Messages are on Kafka: those that an event of a trace has caused are the end of that trace."""
        ...

    def close(self) -> None:
        """Sends what waits. Blocks for a few seconds at most."""
        ...


class Off:
    """Nobody listens."""

    on = False
    _nothing: Final = contextlib.nullcontext()

    def span(
        self,
        name: str,  # noqa: ARG002
        traces: Iterable[str] = (),  # noqa: ARG002
        **attributes: str | int,  # noqa: ARG002
    ) -> AbstractContextManager[object]:
        """Nothing."""
        return self._nothing

    def delivered(self, topic: str, messages: Sequence[Message]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Spans:
    """Sends spans over HTTP (OTLP, protobuf) to a collector, in batches and from a thread of their own."""

    on = True

    def __init__(self, endpoint: str, service: str, application: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        resource = Resource.create({"service.name": service, "service.namespace": application})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("churnwatch", _version())

    def span(
        self, name: str, traces: Iterable[str] = (), **attributes: str | int
    ) -> AbstractContextManager[object]:
        """The time until the context ends."""
        from opentelemetry.trace import Link, SpanKind  # noqa: PLC0415

        links = [Link(context) for trace in traces if (context := _context(trace)) is not None]
        kind = SpanKind.CONSUMER if name == "lot" else SpanKind.INTERNAL
        said = {_ATTRIBUTES.get(key, f"churnwatch.{key}"): value for key, value in attributes.items()}
        return self._tracer.start_as_current_span(
            f"churnwatch {name}", kind=kind, links=links, attributes=said
        )

    def delivered(self, topic: str, messages: Sequence[Message]) -> None:
        """One span for each message that carries a trace, in that trace."""
        from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context  # noqa: PLC0415

        for message in messages:
            said = dict(message.headers)
            context = _context(said.get("ce_traceparent", b"").decode())
            if context is None:
                continue
            span = self._tracer.start_span(
                f"churnwatch {topic}",
                context=set_span_in_context(NonRecordingSpan(context)),
                kind=SpanKind.PRODUCER,
                attributes={
                    "messaging.system": "kafka",
                    "messaging.destination.name": topic,
                    "messaging.message.id": said["ce_id"].decode(),
                    "cloudevents.event_type": said["ce_type"].decode(),
                },
            )
            span.end()

    def close(self) -> None:
        """Sends what waits."""
        self._provider.shutdown()


_ATTRIBUTES: Final = {"records": "messaging.batch.message_count"}


def _context(trace: str) -> Any:
    """The remote context of a ``traceparent``; None for what is none."""
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415

    parts = trace.split("-")
    if len(parts) < 4:
        return None
    return SpanContext(int(parts[1], 16), int(parts[2], 16), True, TraceFlags(int(parts[3], 16)))


def tracing_of(settings: Settings, service: str) -> Tracing:
    """What the settings ask for. Raises :class:`NoTracing`."""
    endpoint = settings.worker.otlp_endpoint
    if endpoint is None:
        return Off()
    try:
        return Spans(endpoint, service, settings.application)
    except ImportError as error:
        raise NoTracing(
            f"worker.otlp_endpoint is set, and OpenTelemetry is not installed ({error.name}). Install it: "
            f"pip install 'churnwatch[otel]', or take the setting out."
        ) from error


def _version() -> str:
    try:
        return metadata.version("churnwatch")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
