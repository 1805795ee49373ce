"""A worker that is killed while it forgets somebody: ``python -m tests.agents.dying STEP``, settings as variables."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import agents.worker
from agents.relay import Relay
from agents.settings import Settings
from agents.store import Step, Store


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(step: str) -> int:
    commit, send = Store.commit_all, Relay._send
    forgotten = False

    async def commit_all(self: Store, steps: Sequence[Step]) -> Any:
        nonlocal forgotten
        forgets = any(each.write.gone for each in steps)
        if forgets and step == "before the commit":
            die()
        outcomes = await commit(self, steps)
        if forgets and step == "after the commit":
            die()
        forgotten = forgotten or forgets
        return outcomes

    async def sending(self: Relay, waiting: Any) -> int:
        if forgotten and step == "before sending":
            die()
        return await send(self, waiting)

    async def trim_all(self: Store, acknowledged: Any) -> None:
        if forgotten and step == "after sending":
            die()
        await trim(self, acknowledged)

    trim = Store.trim_all
    Store.commit_all = commit_all  # type: ignore[method-assign]
    Store.trim_all = trim_all  # type: ignore[method-assign]
    Relay._send = sending  # type: ignore[method-assign]
    return agents.worker.run(Settings.load(None, dict(os.environ)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
