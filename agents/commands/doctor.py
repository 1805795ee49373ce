"""``churnwatch doctor``: can a worker run here, and will it lose nothing?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from agents.commands.shell import Failure, Shell, examples, shell
from agents.commands.status import MARKS, sentence
from agents.failure import Code
from agents.findings import Finding, Level, counted, ok, problem
from agents.privileges import Role

EPILOG = examples(
    "churnwatch doctor                        before the first worker, after a change, and when something is odd",
    "churnwatch doctor --role reader          whether this user may do what status, explain and customers do",
    "churnwatch doctor --quiet                only what is not as it should be",
    "churnwatch doctor --json | jq -r '.findings[] | select(.level == \"problem\").do'",
    "churnwatch --config shop1.toml doctor    of another installation",
)
SECTIONS = {"settings": "Settings", "kafka": "Kafka", "redis": "Redis", "state": "State and workers"}


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One object: healthy, and all findings.")] = False,
    role: Annotated[
        Role, typer.Option(help="Whose rights this user must have: docs/security.md.")
    ] = Role.WORKER,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what is not as it should be.")] = False,
) -> None:
    """Check settings, Kafka, Redis, state and workers, and say what to do.

    Nothing is changed, nothing is written. The exit code is 1 when something is a
    problem, 2 when the settings cannot be used; warnings leave it 0.
    """
    call = shell(context)
    findings, code = _examined(call, role)
    if as_json:
        said = {"healthy": not code, "findings": [f.as_dict() for f in findings]}
        sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    else:
        _show(call, findings, quiet=quiet)
    if code:
        raise typer.Exit(code)


def _examined(call: Shell, role: Role) -> tuple[list[Finding], int]:
    """All findings and the exit code."""
    try:
        settings = call.settings
        call.codec()
    except Failure as failure:
        # The same sentences that every other command ends with, one finding for each.
        return [
            problem(
                "settings.valid", line.strip(), "No command runs with settings that are wrong.", failure.todo
            )
            for line in failure.why.splitlines()
        ], failure.code
    # Redis and the core take a second to import, which every other command does without.
    from agents.doctor import examine  # noqa: PLC0415

    findings = [_settings(call), *examine(settings, role)]
    failed = any(f.level is Level.PROBLEM for f in findings)
    return findings, Code.FAILED if failed else Code.DONE


def _settings(call: Shell) -> Finding:
    """That they are valid, and where they come from."""
    layers = [origin.layer for origin in call.settings.origins.values()]
    words = {"file": "in the settings file", "environment": "in variables", "flag": "on the command line"}
    where = [f"{n} {words[layer]}" for layer in words if (n := layers.count(layer))]  # type: ignore[arg-type]
    return ok("settings.valid", f"The settings are valid: {', '.join(where) or 'all defaults'}.")


def _show(call: Shell, findings: Sequence[Finding], *, quiet: bool) -> None:
    for section, title in SECTIONS.items():
        these = [
            f
            for f in findings
            if f.check.partition(".")[0] == section and not (quiet and f.level is Level.OK)
        ]
        if these:
            call.out.print(f"[bold]{title}[/]")
            for finding in these:
                call.out.print(sentence(finding))
            call.out.print()
    counts = {level: sum(f.level is level for f in findings) for level in Level}
    words = [
        f"{MARKS[level]} {counted(counts[level], word)}"
        for level, word in ((Level.PROBLEM, "problem"), (Level.WARNING, "warning"))
        if counts[level]
    ]
    if counts[Level.UNKNOWN]:
        words.append(f"{MARKS[Level.UNKNOWN]} {counts[Level.UNKNOWN]} not checked")
    words.append(
        f"{MARKS[Level.OK]} {counts[Level.OK]} as {'they' if counts[Level.OK] != 1 else 'it'} should be"
    )
    call.out.print("  ".join(words))
