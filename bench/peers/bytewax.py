"""bytewax with a bare state per customer: in memory, with snapshots to its recovery store every five seconds."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import msgspec
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from bench.peers.meter import BROKERS, DATA, PARTITIONS, TOPIC, Meter, State, step


class Line(msgspec.Struct):
    amount: float


class Event(msgspec.Struct):
    time: datetime
    customer: str = ""  # a clock record has none
    lines: list[Line] = []


decode = msgspec.json.Decoder(Event).decode


def keyed(message: KafkaSourceMessage[bytes, bytes]) -> tuple[str, Event]:
    event = decode(message.value)
    return event.customer, event


def keep(state: State | None, event: Event) -> tuple[State, int]:
    new = step(state, event.time.timestamp(), sum(line.amount for line in event.lines))
    return new, new[0]


class Count(StatelessSinkPartition[tuple[str, int]]):
    def __init__(self) -> None:
        self.meter = Meter()

    def write_batch(self, items: list[tuple[str, int]]) -> None:
        self.meter.add(len(items))


class Counted(DynamicSink[tuple[str, int]]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Count:  # noqa: ARG002 - bytewax gives them
        return Count()


flow = Dataflow("customers")
events = op.input("events", flow, KafkaSource([BROKERS], [TOPIC], batch_size=1000))
states = op.stateful_map("keep", op.map("key", events, keyed), keep)
op.output("count", states, Counted())

if __name__ == "__main__":
    Path(DATA).mkdir(parents=True, exist_ok=True)
    init_db_dir(Path(DATA), PARTITIONS)
    every = timedelta(seconds=5)
    cli_main(flow, epoch_interval=every, recovery_config=RecoveryConfig(DATA, backup_interval=timedelta(0)))
