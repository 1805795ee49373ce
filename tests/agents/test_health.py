from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientSession
from prometheus_client import CollectorRegistry

from agents.health import Health, PortTakenError
from agents.metrics import Metrics


class Worker:
    """What a worker tells its health server, for a test to turn."""

    def __init__(self) -> None:
        self.assigned: set[int] = set()
        self.claimed: set[int] = set()
        self.caught_up: set[int] = set()
        self.rebalancing = False
        self.time = 0.0
        self.health = Health(
            Metrics(CollectorRegistry()),
            assigned=lambda: self.assigned,
            claimed=lambda: self.claimed,
            caught_up=lambda: self.caught_up,
            rebalancing=lambda: self.rebalancing,
            startup_deadline=60,
            now=lambda: self.time,
        )


Get = Callable[[str], Awaitable[tuple[int, str]]]


def served(check: Callable[[Worker, Get], Awaitable[None]]) -> None:
    async def run() -> None:
        worker = Worker()
        port = await worker.health.start("127.0.0.1", 0)
        async with ClientSession() as session:

            async def get(path: str) -> tuple[int, str]:
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    return answer.status, await answer.text()

            await check(worker, get)
        await worker.health.stop()

    asyncio.run(run())


def test_alive_while_starting_until_the_deadline_and_then_once_started() -> None:
    async def check(worker: Worker, get: Get) -> None:
        worker.time = 59
        assert await get("/healthz") == (200, "starting for 59 s\n")
        worker.time = 61
        assert (await get("/healthz"))[0] == 503
        worker.health.started()
        assert await get("/healthz") == (200, "ok\n")
        worker.health.fail("the topic was recreated")
        assert await get("/healthz") == (503, "failed: the topic was recreated\n")

    served(check)


def test_ready_when_every_assigned_partition_is_claimed_and_caught_up_and_says_which_are_not() -> None:
    async def check(worker: Worker, get: Get) -> None:
        assert (await get("/readyz"))[0] == 503
        worker.health.started()
        worker.assigned, worker.claimed = {0, 1, 2, 10}, {1}
        assert await get("/readyz") == (503, "3 of 4 partitions not claimed: 0, 2, 10\n")
        worker.claimed, worker.caught_up = {0, 1, 2, 10}, {0, 2}
        assert await get("/readyz") == (503, "2 of 4 partitions not caught up: 1, 10\n")
        worker.caught_up = {0, 1, 2, 10}
        assert await get("/readyz") == (200, "ready: 4 partitions claimed and caught up\n")

    served(check)


def test_a_spare_is_ready_but_nobody_is_while_the_group_shares_out_its_partitions() -> None:
    async def check(worker: Worker, get: Get) -> None:
        worker.health.started()
        assert await get("/readyz") == (200, "ready: 0 partitions claimed and caught up\n")
        worker.rebalancing = True
        assert await get("/readyz") == (503, "rebalancing: the group is sharing out its partitions\n")

    served(check)


def test_metrics_are_served_in_prometheus_text() -> None:
    async def check(worker: Worker, get: Get) -> None:
        worker.health.metrics.rebalances.inc()
        status, text = await get("/metrics")
        assert status == 200
        assert "churnwatch_rebalances_total 1.0" in text

    served(check)


def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    async def check(worker: Worker, get: Get) -> None:
        runner = worker.health._runner
        assert runner is not None
        with pytest.raises(PortTakenError, match=rf"\(process {os.getpid()}\) listens there.*--http-port"):
            await Worker().health.start("127.0.0.1", int(runner.addresses[0][1]))

    served(check)
