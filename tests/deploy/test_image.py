"""The Dockerfile says what it promises, and what it makes works without anything else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.deploy.image import Image, environment, ignored, locked, runs, stages, tracked
from tests.servers import ROOT

PACKAGES = ("streams", "features", "models", "alerts", "agents")


def test_every_file_that_is_copied_is_there_and_is_not_ignored() -> None:
    build, last = stages()
    for step in build.all("COPY"):
        *sources, _ = step.words
        for source in sources:
            files = tracked(source)
            assert files, f"COPY {source}: git has no such file"
            assert not [path for path in files if ignored(path)]
    copied = {tuple(step.words): step.flags for step in last.all("COPY")}
    assert copied == {("/opt/churnwatch", "/opt/churnwatch"): {"from": "build"}}


def test_nothing_else_gets_into_the_context() -> None:
    copied = {source for step in stages()[0].all("COPY") for source in step.words[:-1]}
    stray = [path for path in tracked(".") if not ignored(path) and path.split("/")[0] not in copied]
    assert not stray
    for secret in (".git/config", "deploy/compose/secrets/redis_password", ".env", "churnwatch.toml"):
        assert ignored(secret)


def test_it_is_built_in_stages_from_one_exact_version_and_runs_as_a_fixed_user_without_rights() -> None:
    build, last = stages()
    assert build.base == last.base
    assert re.fullmatch(r"python:3\.1[12]\.\d+-slim-bookworm", last.base)
    (user,) = last.all("USER")
    assert user.words == ["10001:10001"]
    assert ["groupadd", "--gid", "10001", "churnwatch"] in runs(last)
    # The user is the last that changes anything: no step after it is root's, and none before it is undone.
    order = [step.name for step in last.steps]
    assert "RUN" not in order[order.index("USER") :]


def test_what_is_installed_is_what_the_lock_lists_by_its_hashes() -> None:
    build, last = stages()
    (install,) = [run for run in runs(build) if "requirements.txt" in run]
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(install)
    (own,) = [run for run in runs(build) if run[-1] == "."]
    assert {"--no-build-isolation", "--no-deps"} <= set(own)
    assert "--require-hashes --no-deps -r requirements.txt" in (ROOT / "Makefile").read_text(), "as it does"
    lines = (ROOT / "requirements.txt").read_text()
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lines.strip()):
        assert re.match(r"\S+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert locked()
    # Whoever gets into the container finds nothing that fetches, builds or installs.
    gone = {word for run in runs(last) if "uninstall" in run for word in run}
    assert {"pip", "setuptools", "wheel"} <= gone
    assert not [run for run in runs(last) if run[0] in {"apt-get", "curl", "wget"}]


def test_it_holds_every_file_that_the_packages_need(image: Image) -> None:
    needed = {path for path in tracked(*PACKAGES) if "__pycache__" not in path}
    assert {Path(path).suffix for path in needed} >= {".py", ".lua", ".css", ".js", ".po"}
    missing = [path for path in needed if not (image.packages / path).is_file()]
    assert not missing


def test_its_commands_run_with_nothing_but_what_is_in_it(image: Image, tmp_path: Path) -> None:
    def said(*words: str) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=image.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = said("python", "-c", "import agents; print(agents.__file__)").strip()
    assert Path(place).is_relative_to(image.packages), "not the checkout"
    (entry,) = stages()[-1].all("ENTRYPOINT")
    assert "worker" in said(*entry.words, "--help")
    # What is imported late: the worker, the trainer, plots and languages.
    said("python", "-c", "import agents.worker, agents.trainer, agents.backtest.page, agents.backtest.plots")
    assert "[kafka]" in said("churnwatch", "config", "show")


def test_it_answers_on_the_ports_that_it_names(image: Image) -> None:
    from agents.settings import Settings

    env = environment(stages()[-1])
    settings = Settings.load(
        env={name: value for name, value in env.items() if name.startswith("CHURNWATCH")}
    )
    (expose,) = stages()[-1].all("EXPOSE")
    assert expose.words == [str(settings.worker.http_port), str(settings.worker.http_port + 1)]
    assert settings.worker.http_host == "0.0.0.0"
