"""Quix Streams with a bare state per customer: RocksDB on disk, with its changelog on Kafka."""

from __future__ import annotations

from typing import Any

from quixstreams import Application, State

from bench.peers.meter import BROKERS, DATA, RUN, TOPIC, Meter, seconds, step

app = Application(
    broker_address=BROKERS, consumer_group=RUN, auto_offset_reset="earliest", state_dir=DATA, loglevel="ERROR"
)
meter = Meter()


def keep(event: dict[str, Any], state: State) -> None:
    if "customer" in event:  # a clock record has none
        spent = sum(line["amount"] for line in event.get("lines", ()))
        state.set("customer", step(state.get("customer"), seconds(event["time"]), spent))
    meter.add()


if __name__ == "__main__":
    events = app.topic(TOPIC, value_deserializer="json", key_deserializer="bytes")
    app.run(app.dataframe(events).update(keep, stateful=True))
