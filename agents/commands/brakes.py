"""``churnwatch alerts pause`` and ``resume``: keep alerts from being delivered, and let them go again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec
import typer
from confluent_kafka import TopicPartition

from agents.commands.kafka import Broker
from agents.commands.scan import Stretch, progress, scan, stretches
from agents.commands.shell import Code, Failure, Shell, examples, shell
from agents.overview import Watcher
from agents.send import Outgoing, Sender, SendError
from alerts.brakes import KINDS, Board, Brakes, Pause, encode
from streams.alerts import Kind
from streams.events import rfc3339
from streams.topics import BRAKES, DECISIONS

EPILOG_PAUSE = examples(
    "churnwatch alerts pause                                 deliver nothing, from now on",
    'churnwatch alerts pause churn --reason "new prices"     only no churn alerts',
    "churnwatch status                                       says that it holds, and since when",
)
EPILOG_RESUME = examples(
    "churnwatch alerts resume                                deliver again whatever was paused",
    "churnwatch alerts resume churn                          only churn alerts again",
)
_EARLIER = 60_000  # milliseconds: the clocks of this machine and of the brokers differ

Which = Annotated[
    Kind | None, typer.Argument(metavar="KIND", help=f"{', '.join(KINDS)}; all of them.", show_default=False)
]


def pause(
    context: typer.Context,
    kind: Which = None,
    reason: Annotated[str, typer.Option(help="Why, for the others.", show_default=False)] = "",
) -> None:
    """Deliver no more alerts (of a kind), in every worker and without a restart, until they are resumed.

    Only delivery stops: what is decided meanwhile is recorded on the topic decisions,
    withheld as paused, and is not delivered later either.
    """
    call = shell(context)
    known = read(call)
    now = time.time_ns() // 1000
    wanted = [k for k in _kinds(kind) if not known.open(k)]
    for held in known.open(kind):
        call.out.print(f"{held.kind}: paused already, {_since(held)}.", markup=False)
    if not wanted:
        return
    clock, begins = _clocks(call, now)
    pauses = [Pause(kind=k, paused_at=now, reason=reason, clock=clock, begins=begins) for k in wanted]
    _write(call, pauses)
    _note_shadow(call)
    call.out.print(
        f"Paused: {', '.join(wanted)}. What is decided from now on is recorded on "
        f"{call.settings.kafka.topic(DECISIONS)} (withheld: paused) and will not be delivered later.\n"
        f"It ends with: churnwatch alerts resume{'' if kind is None else f' {kind}'}",
        markup=False,
    )


def resume(context: typer.Context, kind: Which = None) -> None:
    """Deliver alerts again that are decided from now on.

    What was withheld stays on the topic decisions. Of an episode that began
    meanwhile only what still happens is delivered.
    """
    call = shell(context)
    known = read(call)
    held = known.open(kind)
    if not held:
        call.out.print("Nothing is paused." if kind is None else f"{kind} is not paused.", markup=False)
        _note_shadow(call)
        return
    now = time.time_ns() // 1000
    _, ends = _clocks(call, now)
    _write(
        call,
        [p.resumed(max(now, p.paused_at), ends if p.clock == "record" else {}) for p in held],
        [old for k in _kinds(kind) for old in known.outdated(k)],
    )
    call.out.print(
        f"Resumed: {', '.join(k for k in KINDS if known.open(k) and kind in (None, k))}.", markup=False
    )
    _note_shadow(call)
    withheld = _withheld(call, min(p.paused_at for p in held))
    counts = ", ".join(f"{withheld[k]:,} {k}" for k in KINDS if withheld[k] and kind in (None, k))
    if counts:
        call.out.print(
            f"Withheld meanwhile: {counts}. They stay on {call.settings.kafka.topic(DECISIONS)} and are not delivered.",
            markup=False,
        )


def read(call: Shell) -> Brakes:
    """What ``brakes`` holds. Raises :class:`Failure`."""
    broker = Broker(call.settings.kafka)
    board = Board()
    with broker.explained():
        for message in broker.read(call.settings.kafka.topic(BRAKES)):
            why = board.take(message.key(), message.value())
            if why is not None:
                call.err.print(why, markup=False)
    return board.known()


def _kinds(kind: Kind | None) -> Sequence[Kind]:
    return KINDS if kind is None else (kind,)


def _since(pause: Pause) -> str:
    why = f" ({pause.reason})" if pause.reason else ""
    return f"since {rfc3339(pause.paused_at)[:19].replace('T', ' ')} UTC{why}"


def _clocks(call: Shell, now: int) -> tuple[Literal["wall", "record"], dict[int, int]]:
    """By what decisions are timed, and where the clocks of the partitions stand. Without Redis nothing is known of
    them: the brake has to work all the same."""

    async def look() -> tuple[str, dict[int, int]]:
        async with Watcher(call.settings) as watcher:
            states = (await watcher.look(kafka=False)).states
        if states is None or states.layout is None:
            return call.settings.clock.mode, {}
        clocks = {s.number: 0 if s.state is None else s.state.clock for s in states.partitions}
        return states.layout.clock, clocks

    clock, clocks = asyncio.run(look())
    return (
        ("record", clocks) if clock == "record" else ("wall", {n: min(at, now) for n, at in clocks.items()})
    )


def _write(call: Shell, pauses: Iterable[Pause], gone: Iterable[Pause] = ()) -> None:
    kafka = call.settings.kafka
    records = [(p.key, encode(p)) for p in pauses] + [(p.key, None) for p in gone]
    try:
        sender = Sender(kafka)
        for key, value in records:
            sender.send(Outgoing(kafka.topic(BRAKES), 0, key, value))
        sender.flush()
    except SendError as e:
        raise Failure(
            Code.KAFKA,
            "It was not written down.",
            str(e),
            "What holds is shown by churnwatch status; try again.",
        ) from e


def _note_shadow(call: Shell) -> None:
    if call.settings.worker.shadow:
        call.out.print("By these settings (worker.shadow) no alert is delivered anyway.", markup=False)


def _withheld(call: Shell, since: int) -> Counter[str]:
    """How many alerts of each kind were withheld by a pause since an instant of the wall clock."""
    broker = Broker(call.settings.kafka)
    topic = call.settings.kafka.topic(DECISIONS)
    count = broker.partitions().get(topic, 0)
    wanted = stretches(broker, [(topic, n) for n in range(count)])
    with broker.explained(), broker.consumer() as consumer:
        asked = [TopicPartition(topic, s.partition, max(0, since // 1000 - _EARLIER)) for s in wanted]
        begins = (
            {p.partition: p.offset for p in consumer.offsets_for_times(asked, broker.patience)}
            if asked
            else {}
        )
    wanted = [
        Stretch(
            topic,
            s.partition,
            s.end if begins.get(s.partition, 0) < 0 else max(s.begin, begins[s.partition]),
            s.end,
        )
        for s in wanted
    ]
    found: Counter[str] = Counter()
    with progress(call, "Counting", wanted) as tell:
        for message in scan(broker, wanted, tell):
            try:
                data = msgspec.json.decode(message.value() or b"", type=_Withheld)
            except msgspec.DecodeError:
                continue
            found[data.kind] += data.withheld == "paused"
    return found


class _Withheld(msgspec.Struct):
    kind: str = ""
    withheld: str = ""
