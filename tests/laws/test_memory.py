"""What a customer costs in a real Redis: at most 1,600 bytes on CDNOW, everything included."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agents.datasets import DatasetError, cdnow
from agents.files import Reading, read
from agents.send import Route, feed
from streams.codec import CLOCK_KEY
from tests.application import Application, Log
from tests.servers import RedisServer

LIMIT = 1_600
EVERY = 20
"""One customer of so many is played: enough that the tables' own overhead is no rounding error."""


def test_a_customer_of_cdnow_takes_at_most_1600_bytes_of_redis(redis_server: RedisServer) -> None:
    try:
        path = cdnow()
    except DatasetError as error:
        pytest.skip(str(error))
    shop = Application(batch=2000)
    entries = (
        entry
        for entry in read(path, Reading(shop.codec), lambda refusal: pytest.fail(refusal.reason))
        if int(entry.customer) % EVERY == 0
    )
    log = Log()
    last = 0
    for out in feed(entries, Route({"purchases": 1})):
        log.raw("purchases", out.key, out.value)
        last += out.key != CLOCK_KEY
    shop.run(log.rows)
    assert last > 3_000
    assert len(shop.hot) > 1_000

    redis = redis_server.client()
    keys = [f"{{memory:p0}}:{part}" for part in ("hot", "cold", "due", "meta")]
    redis.delete(*keys)
    redis.memory_purge()
    pipe = redis.pipeline(transaction=False)
    for name, state in shop.hot.items():
        pipe.hset(keys[0], name, state)
    for name, state in shop.cold.items():
        pipe.hset(keys[1], name, state)
    for name, at in shop.due.items():
        pipe.zadd(keys[2], {name: at})
    pipe.hset(keys[3], "part", shop.partition.pack())
    pipe.execute()
    used = sum(redis.memory_usage(key, samples=0) or 0 for key in keys)
    each = used / len(shop.hot)
    redis.delete(*keys)
    print(f"{each:.0f} bytes a customer, {len(shop.hot)} customers at {datetime.now(tz=UTC):%Y-%m-%d}")
    assert each <= LIMIT
