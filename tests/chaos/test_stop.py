"""A worker that is asked to stop is gone soon, whatever the servers do. (Under load: ``test_faults``.)"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.chaos.harness import Application
from tests.chaos.test_faults import ONE
from tests.servers import KafkaServer, wait_until


def test_sigterm_ends_a_worker_within_ten_seconds_when_a_server_does_not_answer(
    application: Callable[..., Application], own_kafka: Callable[..., KafkaServer], kafka: KafkaServer
) -> None:
    frozen_kafka = own_kafka()
    without_kafka, without_redis = application(frozen_kafka, inputs=ONE), application(kafka, inputs=ONE)
    apps = without_kafka, without_redis
    for app in apps:
        app.create_topics()
        app.launch()
    for app in apps:
        wait_until(lambda app=app: app.workers[0].answers(), 60, "the worker is ready")  # type: ignore[misc]
    with frozen_kafka.frozen(), without_redis.redis.frozen():
        processes = [app.workers[0].process for app in apps]
        began = time.monotonic()
        for process in processes:
            assert process is not None
            process.terminate()
        for process in processes:
            assert process is not None
            process.wait(14)
        took = time.monotonic() - began
    assert took < 10.5 + 1.0, f"{took:.1f} s"  # what the system takes to bury a process comes on top
