"""The Dockerfile, read and gone through without Docker.

What is copied is copied as ``.dockerignore`` lets it, the package is built from that copy alone, without a network,
and installed into an environment that finds only what the image holds: the packages of ``requirements.txt`` less
those that the Dockerfile removes. A test of the image is a command run from there.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from tests.servers import ROOT


class Step(NamedTuple):
    """One instruction; ``flags`` are the words that begin with two dashes."""

    name: str
    flags: dict[str, str]
    words: list[str]


class Stage(NamedTuple):
    base: str
    name: str | None
    steps: list[Step]

    def all(self, name: str) -> list[Step]:
        return [step for step in self.steps if step.name == name]


@functools.cache
def stages() -> list[Stage]:
    """The stages of the Dockerfile, in order."""
    lines = [
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")
    ]
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        name, _, rest = line.partition(" ")
        words = shlex.split(rest) if not rest.startswith("[") else re.findall(r'"([^"]*)"', rest)
        flags = {}
        while words and words[0].startswith("--"):
            flag, _, value = words.pop(0).removeprefix("--").partition("=")
            flags[flag] = value
        if name == "FROM":
            found.append(Stage(words[0], words[2] if len(words) > 2 else None, []))
        else:
            found[-1].steps.append(Step(name, flags, words))
    return found


def runs(stage: Stage) -> list[list[str]]:
    """The commands of a stage, one by one."""
    commands: list[list[str]] = []
    for step in stage.all("RUN"):
        command: list[str] = []
        for word in [*step.words, "&&"]:
            if word == "&&":
                commands.append(command)
                command = []
            else:
                command.append(word)
    return commands


def environment(stage: Stage) -> dict[str, str]:
    """What the image sets, with PATH as it stands there."""
    return dict(word.split("=", 1) for step in stage.all("ENV") for word in step.words)


def ignored(path: str) -> bool:
    """Whether ``.dockerignore`` keeps a file or folder out of the context: the last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        exception = pattern.startswith("!")
        pattern = pattern.removeprefix("!").rstrip("/")
        parts = Path(path).parts
        heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if pattern.startswith("**/"):
            fits = any(fnmatch.fnmatch(part, pattern.removeprefix("**/")) for part in parts)
        else:
            fits = any(
                head.count("/") == pattern.count("/") and fnmatch.fnmatch(head, pattern) for head in heads
            )
        if fits:
            out = not exception
    return out


def tracked(*under: str) -> list[str]:
    """Files that git knows or would take, below some paths."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *under],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [path for path in done.stdout.splitlines() if (ROOT / path).is_file()]


def copy_context(stage: Stage, target: Path) -> None:
    """What the COPY steps of a stage bring into its working directory."""
    for step in stage.all("COPY"):
        *sources, _ = step.words
        for source in sources:
            for path in tracked(source):
                if not ignored(path):
                    (target / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / path, target / path)


def locked() -> dict[str, str]:
    """Every package of requirements.txt for this machine, with its version."""
    found = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                found[requirement.name.lower()] = str(requirement.specifier)
    return found


GUARD = """\
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"the image has no {name}", name=name)


ABSENT = frozenset(%r)
sys.meta_path.insert(0, Absent())
"""


class Image:
    """An installation in the place of the image's ``/opt/churnwatch``."""

    def __init__(self, folder: Path) -> None:
        build, *_ = stages()
        self.prefix = folder / "opt"
        context = folder / "build"
        context.mkdir(parents=True)
        copy_context(build, context)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.prefix], check=True)
        self.packages = next(self.prefix.glob("lib/python*/site-packages"))
        # The packages that `make install` has installed from the same list with the same flags; no .pth among them
        # is read, so the checkout itself is not found.
        here = Path(metadata.distribution("msgspec").locate_file(""))  # type: ignore[arg-type]
        (self.packages / "locked.pth").write_text(f"{here}\n")
        (install,) = [run for run in runs(build) if run[-1] == "."]
        done = subprocess.run(
            [str(self.prefix / "bin/python"), "-m", "pip", *install[1:], "--quiet", "--disable-pip-version-check"],
            cwd=context, env={"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        shutil.rmtree(context)
        (self.packages / "sitecustomize.py").write_text(GUARD % sorted(self.absent()))

    def absent(self) -> set[str]:
        """Modules of this machine's environment that the image does not have."""
        removed = {word for run in runs(stages()[0]) if "uninstall" in run for word in run[2:]}
        has = locked().keys() - removed
        found = metadata.packages_distributions()
        return {
            module
            for module, names in found.items()
            if not any(name.lower().replace("_", "-") in has for name in names)
            and module not in {"streams", "features", "models", "alerts", "agents"}
        }

    def environment(self) -> dict[str, str]:
        """The variables of a process in a container that was told none."""
        *_, last = stages()
        set_ = environment(last)
        assert set_["PATH"] == "/opt/churnwatch/bin:$PATH"
        return {**set_, "PATH": f"{self.prefix / 'bin'}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
