from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.agents.shell import Shell, eventually, run
from tests.servers import KafkaServer, RedisServer


@pytest.fixture
def shell(kafka: KafkaServer, redis_server: RedisServer, application: str, prefix: str) -> Shell:
    return Shell(kafka.brokers, redis_server.url, application, prefix)


def test_every_event_is_applied_once_in_order_and_what_is_decided_leaves_once(
    shell: Shell, topics: Callable[..., list[str]]
) -> None:
    shell.inputs = ("purchases", "browses", "complaints")
    topics(*shell.inputs, "alerts", partitions=4)
    sent = sum(shell.send(topic, [f"c{i % 50}" for i in range(1000)]) for topic in shell.inputs)

    async def body() -> None:
        async with shell.worker():
            await eventually(lambda: shell.counted(4) == sent)
            shell.send("browses", ["c1"] * 10)
            await eventually(lambda: shell.counted(4) == sent + 10)
            await eventually(lambda: shell.waiting(4) == 0)

    run(body())
    assert shell.seen(4) == shell.right()
    alerts = shell.alerts()
    assert (
        len(alerts) == len(set(alerts)) == sum(n // 3 for c in shell.right().values() for n, _ in c.values())
    )
