"""Where the processor time of the path goes: a sampled profile of the worker while it catches up.

py-spy looks at the running worker from outside; a sample belongs to the innermost function that is ours or of a
package that we use. What C code does (hiredis, msgspec, numpy, uvloop) counts for whoever called it.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from typing import Any

from bench import engines, environment
from bench.events import Kind
from bench.stage import Stage
from tests.servers import ROOT

RATE = 200
PARTS: tuple[tuple[str, str], ...] = (
    (r"/(streams/codec|streams/events)\.py", "decode"),
    (r"/streams/", "messages"),
    (r"/features/matrix\.py", "features"),
    (r"/features/", "state: apply, pack, unpack"),
    (r"/models/", "score"),
    (r"/alerts/engine\.py", "engine: group, rounds, turns"),
    (r"/alerts/usual\.py", "what is usual, in arrays"),
    (r"/alerts/", "decide"),
    (r"/agents/metrics\.py|/prometheus_client/", "metrics"),
    (r"/agents/relay\.py|/aiokafka/producer/", "relay"),
    (r"/agents/store\.py|/redis/|/hiredis/", "Redis"),
    (r"/agents/transport\.py", "transport"),
    (r"/agents/", "worker"),
    (r"/aiokafka/", "aiokafka"),
    (r"/(faust|mode)/", "Faust"),
)
# Below these frames there is only the loop itself, in C: what is further out has merely started it.
LOOPS: tuple[tuple[str, str], ...] = (
    (r"/asyncio/(runners|base_events)\.py", "event loop of the worker"),
    (r"/mode/threads\.py", "event loop of the consumer"),
)
REST = "the rest"
FRAME = re.compile(r"^(?P<function>.*) \((?P<file>[^()]*?)(:\d+)?\)$")


def measure(
    stage: Stage, kind: Kind, plan: engines.Plan, seconds: int, step: Callable[[str], None]
) -> dict[str, Any]:
    """Shares of the samples by part of the path, and the functions that took most."""
    python = environment.make()
    step(f"profile on {kind}")
    total = engines.load(stage, plan, kind)
    stacks = stage.folder / "profile.txt"
    with stage.application(f"{kind}.") as measured:
        worker = measured.start()
        measured.until_applied(plan.warm["churnwatch"])
        command = [str(python.with_name("py-spy")), "record", "--pid", str(worker.pid), "--format", "raw"]
        options = [
            "--rate",
            str(RATE),
            "--duration",
            str(seconds),
            "--full-filenames",
            "--gil",  # a thread that sleeps in C would count as busy
            "--output",
            str(stacks),
        ]
        spy = subprocess.Popen(
            [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        measured.until_applied(total)
        # It writes what it has when it is interrupted.
        spy.send_signal(2)
        _, said = spy.communicate(timeout=60)
    if not stacks.exists():
        why = said.strip().splitlines()[-1] if said.strip() else f"py-spy ended with {spy.returncode}"
        return {"missing": f"py-spy could not look into the worker: {why}"}
    return summary(stacks.read_text()) | {"kind": kind}


def summary(collapsed: str) -> dict[str, Any]:
    """Shares by part, and the ten functions with most samples of their own, of collapsed stacks."""
    parts: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in collapsed.splitlines():
        stack, _, count = line.rpartition(" ")
        if not count.isdigit():
            continue
        part, function = _belongs(stack.split(";"))
        parts[part] += int(count)
        functions[function] += int(count)
    samples = sum(parts.values())
    return {
        "samples": samples,
        "shares": {part: round(n / samples, 3) for part, n in parts.most_common()},
        "functions": {function: round(n / samples, 3) for function, n in functions.most_common(15)},
    }


def _belongs(stack: list[str]) -> tuple[str, str]:
    """The part of the path and the function that a stack (outermost first) was sampled in."""
    relayed = any("/agents/relay.py" in frame or "/aiokafka/producer/" in frame for frame in stack)
    for frame in reversed(stack):
        found = FRAME.match(frame)
        if found is None:
            continue
        for pattern, loop in LOOPS:
            if re.search(pattern, found["file"]):
                return loop, loop
        for pattern, part in PARTS:
            if re.search(pattern, found["file"]):
                short = found["file"].removeprefix(f"{ROOT}/").rpartition("site-packages/")[2]
                return "relay" if relayed else part, f"{found['function']} ({short})"
    return REST, REST
