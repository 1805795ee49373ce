"""What the outside asks a worker: is it alive, is it ready, how is it doing.

``/healthz`` is answered by the worker's own event loop, so an answer means that the loop turns; until the
worker has started it says so for ``startup_deadline`` seconds, then it fails, so that a supervisor restarts
a worker that never came up. ``/readyz`` wants every assigned partition claimed. ``/metrics`` is Prometheus'.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection

from aiohttp import web

from agents.failure import Unrecoverable
from agents.metrics import CONTENT_TYPE, Metrics


class PortTakenError(Unrecoverable):
    """Nothing can listen there. The message says on what, why, and what to do."""


class Health:
    """The HTTP side of one worker.

    ``assigned`` and ``claimed`` give partition numbers and are asked at each request. ``now`` is a
    monotonic clock in seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        assigned: Callable[[], Collection[int]],
        claimed: Callable[[], Collection[int]],
        startup_deadline: float = 120.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = metrics
        self.assigned = assigned
        self.claimed = claimed
        self.startup_deadline = startup_deadline
        self.now = now
        self.began = now()
        self.has_started = False
        self.failure: str | None = None
        self._runner: web.AppRunner | None = None

    def started(self) -> None:
        """The worker is in its group and has had its first assignment: the deadline is met."""
        self.has_started = True

    def fail(self, why: str) -> None:
        """The worker cannot go on; ``/healthz`` says why until the process ends."""
        self.failure = why

    def application(self) -> web.Application:
        """The routes, for a server of one's own or for tests."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def start(self, host: str, port: int) -> int:
        """Listens; port 0 is any free one. Returns the port. Raises :class:`PortTakenError`."""
        runner = web.AppRunner(
            self.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0
        )
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as e:
            await runner.cleanup()
            if e.errno == errno.EADDRINUSE:
                why = "another process listens there"
            else:
                why = e.strerror or str(e)
            raise PortTakenError(
                f"Cannot serve /metrics and /healthz on {host}:{port}: {why}. Choose another port with "
                "--http-port (0 takes any that is free) or worker.http_port.",
            ) from e
        self._runner = runner
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stops listening; open answers are cut after a second."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        if self.failure is not None:
            return web.Response(status=503, text=f"failed: {self.failure}\n")
        if self.has_started:
            return web.Response(text="ok\n")
        waited = self.now() - self.began
        if waited <= self.startup_deadline:
            return web.Response(text=f"starting for {waited:.0f} s\n")
        return web.Response(
            status=503, text=f"not started after {waited:.0f} s (deadline {self.startup_deadline:g} s)\n"
        )

    async def _readyz(self, _request: web.Request) -> web.Response:
        if not self.has_started:
            return web.Response(status=503, text="starting: no assignment yet\n")
        assigned = set(self.assigned())
        missing = sorted(assigned - set(self.claimed()))
        if self.failure is not None:
            return web.Response(status=503, text=f"failed: {self.failure}\n")
        if missing:
            numbers = ", ".join(str(n) for n in missing)
            return web.Response(
                status=503, text=f"{len(missing)} of {len(assigned)} partitions not claimed: {numbers}\n"
            )
        return web.Response(text=f"ready: {len(assigned)} partitions claimed\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})
