"""A worker process for tests that end it from outside: ``python -m tests.agents.process SETTINGS.json``.

It is the product's own ``run``, with the counting core where ``counting`` is said.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

import agents.worker
from agents.settings import Settings
from agents.worker import Worker
from tests.agents.counting import Counting


def main() -> int:
    given = json.loads(Path(sys.argv[1]).read_text())
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    settings = msgspec.convert(given["settings"], Settings)
    make: Callable[[Settings], Worker] = Worker
    if given["core"] == "counting":
        make = partial(Worker, core=Counting(settings.kafka.inputs, settings.clock.mode, given["silence"]))
    if given.get("stop_deadline"):
        agents.worker.STOP_DEADLINE = given["stop_deadline"]
    return agents.worker.run(settings, (make,))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
