"""``churnwatch accept-loss``: going on without records that Kafka threw away before they were applied."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from agents.commands.shell import Code, Failure, examples, shell
from agents.findings import counted
from agents.losses import Loss, give_up
from agents.settings import Settings

EPILOG = examples(
    "churnwatch accept-loss             what is lost; asks before it goes on without it",
    "churnwatch accept-loss --yes       without asking, for scripts; then start the workers",
)


def accept_loss(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Go on without records that expired before they were applied.

    A worker refuses to start over such a gap: it would know less of its customers
    than was said. This names every gap (topic, partition, offsets, how many
    records, between which times), and moves the offsets over them once you say
    yes. What was given up stays written down, and churnwatch status shows it.
    """
    call = shell(context)
    from agents.trainer import settings_of_trainer  # noqa: PLC0415 -- what Faust imports takes its time

    both = [call.settings, settings_of_trainer(call.settings)]
    found = [(each, loss) for each in both for loss in asyncio.run(_losses(each))]
    if not found:
        call.out.print("Nothing expired unread: there is nothing to be given up.", markup=False)
        return
    for _, loss in found:
        call.out.print(str(loss), markup=False)
    records = counted(sum(loss.records for _, loss in found), "record")
    if not yes:
        if not sys.stdin.isatty():
            raise Failure(
                Code.USAGE,
                f"{records} would be given up: nothing was changed.",
                "Nobody can be asked here.",
                "Say so with --yes.",
            )
        typer.confirm(
            f"Go on without {records}? What they would have said is never known", abort=True, err=True
        )
    moved = asyncio.run(_give_up(found))
    if moved < len(found):
        raise Failure(
            Code.FAILED,
            f"{moved} of {counted(len(found), 'gap')} were passed over.",
            "The other offsets have moved meanwhile: somebody works on them.",
            "Run it again to see what is left.",
        )
    call.out.print(
        f"Goes on without {records}; churnwatch status remembers it. Start the workers.", markup=False
    )


async def _losses(settings: Settings) -> list[Loss]:
    from agents.overview import Watcher  # noqa: PLC0415

    async with Watcher(settings) as watcher:
        seen = await watcher.look()
    for away in (seen.kafka_away, seen.redis_away):
        if away is not None:
            raise away
    return seen.lost


async def _give_up(found: list[tuple[Settings, Loss]]) -> int:
    """How many gaps were passed over."""
    from agents.overview import explained, open_store  # noqa: PLC0415

    moved = 0
    for settings, loss in found:
        store = open_store(settings, settings.redis.patience)
        try:
            with explained(settings):
                moved += await give_up(store, loss)
        finally:
            await store.close()
    return moved
