"""Can a worker run with these settings, and will it lose nothing? Small checks, each a finding with what to do.

Nothing here writes: what a user may do is tried with commands that change nothing even where they are allowed.
Nothing here waits for long: each server is asked in a thread of its own, with a limit for all of it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Final

from agents import privileges
from agents.doctor import brokers, state, store
from agents.findings import Finding, Level, problem, unknown
from agents.overview import hushed
from agents.privileges import Role
from agents.settings import Settings

LIMIT: Final = 9.0
"""Seconds that all questions to Kafka, or all to Redis, may take; both are asked at once."""
STATE_LIMIT: Final = 5.5
"""Seconds that the state and the workers may take after them."""


def examine(settings: Settings, role: Role = Role.WORKER) -> list[Finding]:
    """Every check but that of the settings themselves, in the order in which people read them; what this user may do
    is compared with what a role needs."""
    with hushed():
        return _examined(settings, role)


def _examined(settings: Settings, role: Role) -> list[Finding]:
    kafka = _started(lambda: brokers.checks(settings, role))
    if privileges.redis(settings, role) is None:  # it has no user there
        return _ended(kafka, "kafka", LIMIT)
    redis = _started(lambda: asyncio.run(store.checks(settings, role)))
    found = _ended(kafka, "kafka", LIMIT) + _ended(redis, "redis", LIMIT)
    if role is Role.TRAINER:  # it may not see the workers' state
        return found
    # Topics are looked at by all who were let in and found a broker.
    telling = {"kafka": ("kafka.reachable", "kafka.topics"), "redis": ("redis.reachable",)}
    lost = {
        f.check
        for f in found
        if f.level is Level.UNKNOWN or (f.check.endswith(".reachable") and f.level is not Level.OK)
    }
    reachable = {section: not lost.intersection(checks) for section, checks in telling.items()}
    if not any(reachable.values()):
        return [
            *found,
            unknown("state.all", "State and workers were not looked at.", "Neither Kafka nor Redis answers."),
        ]
    looking = _started(lambda: asyncio.run(state.checks(settings, **reachable)))
    return found + _ended(looking, "state", STATE_LIMIT)


def _started(work: Callable[[], list[Finding]]) -> queue.Queue[list[Finding] | BaseException]:
    """Runs checks in a thread that cannot keep the process alive."""
    answer: queue.Queue[list[Finding] | BaseException] = queue.Queue()

    def run() -> None:
        try:
            answer.put(work())
        except BaseException as error:  # noqa: BLE001 -- it is raised where the answer is awaited
            answer.put(error)

    threading.Thread(target=run, daemon=True).start()
    return answer


def _ended(answer: queue.Queue[list[Finding] | BaseException], section: str, limit: float) -> list[Finding]:
    """What the checks found, or that they did not come to an end."""
    try:
        found = answer.get(timeout=limit)
    except queue.Empty:
        said = f"not all questions were answered within {limit:g} seconds."
        if section == "state":
            return [unknown("state.all", f"State and workers: {said}", "A server answers late.")]
        return [
            problem(
                f"{section}.reachable",
                f"{section.capitalize()}: {said}",
                "It takes connections and answers late or not at all; a worker would wait for it as long.",
                "Is it overloaded, frozen, or behind a firewall that drops packets?",
            )
        ]
    if isinstance(found, BaseException):
        raise found
    return found
