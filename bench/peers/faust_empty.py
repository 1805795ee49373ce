"""A stock Faust agent that does nothing: each record, as bytes, to an empty loop."""

from __future__ import annotations

import sys

import faust

from bench.peers.meter import BROKERS, DATA, PARTITIONS, RUN, TOPIC, Meter

app = faust.App(RUN, broker=f"kafka://{BROKERS}", datadir=DATA, topic_partitions=PARTITIONS)
events = app.topic(TOPIC, value_serializer="raw")
meter = Meter()


@app.agent(events)
async def nothing(stream: faust.StreamT[bytes]) -> None:
    async for _ in stream:
        meter.add()


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "worker", "-l", "error", "--without-web"]
    app.main()
