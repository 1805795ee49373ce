"""What the outside asks a worker: is it alive, is it ready, how is it doing.

``/healthz`` is answered by the worker's own event loop, so an answer means that the loop turns; until the
worker has started it says so for ``startup_deadline`` seconds, then it fails, so that a supervisor restarts
a worker that never came up. ``/readyz`` wants every assigned partition claimed, and of each all that there was
applied once since: a worker may fall behind again without getting unready, which metrics tell. One without
partitions, a spare, is ready; while the group shares out its partitions, none is. ``/metrics`` is Prometheus'.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection
from pathlib import Path

from aiohttp import web

from agents.failure import Code, Unrecoverable
from agents.metrics import CONTENT_TYPE, Metrics


class PortTakenError(Unrecoverable):
    """Nothing can listen there. The message says on what, why, and what to do."""

    code = Code.PORT


class Health:
    """The HTTP side of one worker.

    ``assigned``, ``claimed`` and ``caught_up`` give partition numbers and are asked at each request, as is
    ``rebalancing``. ``now`` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        assigned: Callable[[], Collection[int]],
        claimed: Callable[[], Collection[int]],
        caught_up: Callable[[], Collection[int]],
        rebalancing: Callable[[], bool] = lambda: False,
        startup_deadline: float = 120.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = metrics
        self.assigned = assigned
        self.claimed = claimed
        self.caught_up = caught_up
        self.rebalancing = rebalancing
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
                why = holder(port) or f"another process listens there (ss -ltnp 'sport = :{port}' names it)"
                what = "another port with --http-port (0 takes any that is free) or worker.http_port"
            elif e.errno == errno.EACCES:
                why = f"only root may listen on port {port}"
                what = "a port from 1024 on with --http-port or worker.http_port"
            else:
                said = (e.strerror or str(e)).rpartition(": ")[2].lower()
                why = f"this machine has no such address ({said})"
                what = "one of its own with --http-host or worker.http_host, such as 127.0.0.1 or 0.0.0.0"
            raise PortTakenError(
                f"Cannot serve /metrics and /healthz on {host}:{port}: {why}. Choose {what}."
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
        if self.failure is not None:
            return web.Response(status=503, text=f"failed: {self.failure}\n")
        if self.rebalancing():
            return web.Response(status=503, text="rebalancing: the group is sharing out its partitions\n")
        assigned = set(self.assigned())
        for wanted, found in (("claimed", self.claimed()), ("caught up", self.caught_up())):
            missing = sorted(assigned - set(found))
            if missing:
                numbers = ", ".join(str(n) for n in missing)
                text = f"{len(missing)} of {len(assigned)} partitions not {wanted}: {numbers}\n"
                return web.Response(status=503, text=text)
        return web.Response(text=f"ready: {len(assigned)} partitions claimed and caught up\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})


LISTENS = "0A"  # in /proc/net/tcp


def holder(port: int, proc: Path = Path("/proc")) -> str:
    """Which process listens on a port, as far as we may see: Linux, and processes of our own user."""
    sockets = set()
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    for process in proc.iterdir() if sockets else ():
        if not process.name.isdecimal():
            continue
        try:
            if not any(str(handle.readlink()) in sockets for handle in (process / "fd").iterdir()):
                continue
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # gone, or somebody else's
        ours = "worker" in words and any("churnwatch" in word or word == "agents.cli" for word in words)
        name = "another worker of churnwatch" if ours else f"{Path(words[0]).name or 'a process'}"
        return f"{name} (process {process.name}) listens there"
    return ""
