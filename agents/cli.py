"""The command line: global options, the commands, and how each ends."""

from __future__ import annotations

import os
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from agents.commands import (
    acl,
    alerts,
    backtest,
    backup,
    brakes,
    completion,
    config,
    customers,
    demo,
    dlq,
    doctor,
    explain,
    export,
    forget,
    import_,
    losses,
    model,
    policy,
    prior,
    send,
    simulate,
    status,
    topics,
    trainer,
    worker,
)
from agents.commands.ending import ended
from agents.commands.shell import Code, Shell, examples

# A code stays on one line with what it means.
_CODES = textwrap.wrap(", ".join(f"{c.value} {c.meaning}".replace(" ", "\xa0") for c in Code), 76)

EPILOG = examples(
    "churnwatch topics create            once, before the first worker",
    "churnwatch worker                   read, score, warn",
    "churnwatch send orders.csv          feed it",
    "churnwatch alerts --follow          watch",
    "churnwatch customers --band high    who is about to leave",
    "churnwatch --brokers kafka:9092 --redis redis://redis:6379/0 --prefix shop1. worker",
) + (
    "\n\nExit codes:\n\n"
    + "".join(f"  {line}\n" for line in _CODES)
    + "  docs/exit-codes.md says what to do\n\n"
    "Settings:\n\n"
    "  churnwatch.toml, over it variables CHURNWATCH_SECTION__KEY, over it flags;\n"
    "  docs/configuration.md lists them all"
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"churnwatch {metadata.version('churnwatch')}")
        except metadata.PackageNotFoundError:
            print("churnwatch (not installed)")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def churnwatch(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="CHURNWATCH_CONFIG", help="Settings file; else ./churnwatch.toml if there is one."
        ),
    ] = None,
    application: Annotated[str | None, typer.Option(help="Name of this installation.")] = None,
    brokers: Annotated[
        str | None, typer.Option(help="Kafka: host:port, with commas between several.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="Before every topic name.")] = None,
    redis: Annotated[str | None, typer.Option(help="redis://, rediss:// or unix:// address.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting: section.key=value; repeatable.",
            autocompletion=completion.keys_of_settings,
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="CHURNWATCH_DEBUG", help="Show tracebacks of errors.")
    ] = False,
    version: Annotated[  # noqa: ARG001 -- acts by its callback
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Reads what customers do from Kafka and warns who is about to leave, and who could buy more."""
    flags: dict[str, object] = {}
    for item in settings or []:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise typer.BadParameter(f"--set {item!r}: write section.key=value")
        flags[key.strip()] = value
    named = {"application": application, "kafka.brokers": brokers, "kafka.prefix": prefix, "redis.url": redis}
    flags |= {key: value for key, value in named.items() if value is not None}
    context.obj = Shell(config, flags, debug=debug)


app.command(epilog=worker.EPILOG)(worker.worker)
app.command(epilog=trainer.EPILOG)(trainer.trainer)
app.command(epilog=send.EPILOG)(send.send)

_alerts = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
_alerts.callback(invoke_without_command=True, epilog=alerts.EPILOG)(alerts.alerts)
_alerts.command("pause", epilog=brakes.EPILOG_PAUSE)(brakes.pause)
_alerts.command("resume", epilog=brakes.EPILOG_RESUME)(brakes.resume)
app.add_typer(_alerts, name="alerts")

app.command(epilog=explain.EPILOG)(explain.explain)
app.command(epilog=customers.EPILOG)(customers.customers)
app.command(epilog=customers.EPILOG_ONE)(customers.customer)
app.command(epilog=export.EPILOG)(export.export)
app.command(epilog=forget.EPILOG)(forget.forget)
app.command(epilog=status.EPILOG)(status.status)
app.command(epilog=doctor.EPILOG)(doctor.doctor)

_topics = typer.Typer(no_args_is_help=True, help="The topics in Kafka.")
_topics.command("create", epilog=topics.EPILOG)(topics.create)
app.add_typer(_topics, name="topics")

_dlq = typer.Typer(
    no_args_is_help=True, help="What could not be processed: list it, look at it, try it again."
)
_dlq.command("list", epilog=dlq.EPILOG_LIST)(dlq.list_)
_dlq.command("show", epilog=dlq.EPILOG_SHOW)(dlq.show)
_dlq.command("replay", epilog=dlq.EPILOG_REPLAY)(dlq.replay)
app.add_typer(_dlq, name="dlq")

_model = typer.Typer(
    no_args_is_help=True,
    help="What was learned: which snapshots there are, what decides, and deciding otherwise.",
)
_model.command("list", epilog=model.EPILOG_LIST)(model.list_)
_model.command("show", epilog=model.EPILOG_SHOW)(model.show)
_model.command("diff", epilog=model.EPILOG_DIFF)(model.diff)
_model.command("pin", epilog=model.EPILOG_PIN)(model.pin)
_model.command("unpin", epilog=model.EPILOG_UNPIN)(model.unpin)
_model.command("rollback", epilog=model.EPILOG_ROLLBACK)(model.rollback)
app.add_typer(_model, name="model")

_policy = typer.Typer(no_args_is_help=True, help="Thresholds: what others would have warned of.")
_policy.command("preview", epilog=policy.EPILOG)(policy.preview)
app.add_typer(_policy, name="policy")

_acl = typer.Typer(
    no_args_is_help=True,
    help="The least rights that each role needs, ready to be given to Kafka and Redis: docs/security.md.",
)
_acl.command("kafka", epilog=acl.EPILOG_KAFKA)(acl.acl_kafka)
_acl.command("redis", epilog=acl.EPILOG_REDIS)(acl.acl_redis)
app.add_typer(_acl, name="acl")

_config = typer.Typer(no_args_is_help=True, help="The settings: what holds, and a file to begin with.")
_config.command("show", epilog=config.EPILOG_SHOW)(config.show)
_config.command("init", epilog=config.EPILOG_INIT)(config.init)
app.add_typer(_config, name="config")

app.command(epilog=demo.EPILOG)(demo.demo)
app.command(epilog=simulate.EPILOG)(simulate.simulate)
app.command(epilog=backtest.EPILOG)(backtest.backtest)
app.command("import", epilog=import_.EPILOG)(import_.import_)
app.command(epilog=backup.EPILOG_BACKUP)(backup.backup)
app.command(epilog=backup.EPILOG_RESTORE)(backup.restore)
app.command("accept-loss", epilog=losses.EPILOG)(losses.accept_loss)
app.command(epilog=prior.EPILOG)(prior.prior)
app.command(epilog=completion.EPILOG)(completion.completion)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; the exit code. Errors that a person can repair come without a traceback."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words or os.environ.get("CHURNWATCH_DEBUG", "") not in {"", "0", "false"}
    completion.prepare()
    return ended(lambda: app(args=words, prog_name="churnwatch"), debug=debug)


if __name__ == "__main__":
    sys.exit(main())
