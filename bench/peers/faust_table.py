"""A stock Faust agent with a Table: a bare state per customer in memory, with its changelog on Kafka."""

from __future__ import annotations

import sys

import faust

from bench.peers.meter import BROKERS, DATA, PARTITIONS, RUN, TOPIC, Meter, seconds, step

app = faust.App(
    RUN, broker=f"kafka://{BROKERS}", datadir=DATA, topic_partitions=PARTITIONS, store="memory://"
)


class Line(faust.Record):
    amount: float


class Event(faust.Record):
    type: str
    time: str
    customer: str = ""
    lines: list[Line] = []


events = app.topic(TOPIC, value_type=Event)
customers = app.Table("customers", default=lambda: None, partitions=PARTITIONS)
meter = Meter()


@app.agent(events)
async def keep(stream: faust.StreamT[Event]) -> None:
    async for event in stream:
        if event.customer:  # a clock record has none
            spent = sum(line.amount for line in event.lines)
            customers[event.customer] = step(customers[event.customer], seconds(event.time), spent)
        meter.add()


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "worker", "-l", "error", "--without-web"]
    app.main()
