"""The walk-through of docs/operations.md, line by line as it is written there: from nothing to a watched system,
broken and mended."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.servers import ROOT, free_port

PAGE = ROOT / "docs" / "operations.md"
NEEDED = ("prometheus", "prometheus-alertmanager", "redis-server", "redis-cli", "java", "mvn")


def blocks() -> list[str]:
    """The shell blocks of the walk-through."""
    text = PAGE.read_text().split("## From nothing to a watched system", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


def test_whoever_follows_the_page_gets_a_watched_system_breaks_it_and_mends_it(
    tmp_path: Path, jars: Path
) -> None:
    for program in NEEDED:
        if shutil.which(program) is None:
            missing(f"{program} is not on the PATH")
    told = blocks()
    assert len(told) >= 10
    script = "\n".join(f"echo '=== {n}'\n{block}" for n, block in enumerate(told))
    # What is there already is not made again; ports that others use are others'; one look at what is watched.
    script = script.replace("make install\n", "").replace("source .venv/bin/activate\n", "")
    for port in ("9464", "9474"):
        script = script.replace(port, str(free_port()))
    script = script.replace("churnwatch trainer ", f"churnwatch trainer --http-port {free_port()} ")
    # A worker that was killed, or has stopped, ends with its code; a person's shell goes on.
    script = re.sub(r"^(wait.*)$", r"\1 || true", script, flags=re.MULTILINE)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "walk.sh").write_text(f"set -eE\ntrap 'echo \"line: $BASH_COMMAND\" >&2' ERR\n{script}")
    folder = tmp_path / "run"
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("CHURNWATCH_")},
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "CHURNWATCH_LOCAL_DIR": str(folder),
        "KAFKA_HEAP": "384m",
        # A person waits half a minute for a worker that was killed.
        "CHURNWATCH_KAFKA__SESSION_TIMEOUT": "6",
        "COLUMNS": "160",
    }
    said = tmp_path / "said.txt"
    with said.open("wb") as out:
        walk = subprocess.Popen(
            ["bash", "walk.sh"], cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        rules = ""
        until = time.monotonic() + 900
        while walk.poll() is None:
            assert time.monotonic() < until, said.read_text()[-3000:]
            if not rules and (folder / "prometheus.port").exists():
                rules = _rules((folder / "prometheus.port").read_text().strip())
            time.sleep(0.2)
    finally:
        # With all that it has started, however far it came.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(walk.pid, signal.SIGKILL)
        walk.wait()
        subprocess.run([ROOT / "deploy" / "local" / "stop"], env=env, capture_output=True, check=False)
    text = said.read_text()
    logs = "".join(path.read_text()[-1500:] for path in tmp_path.glob("*.log"))
    assert walk.returncode == 0, f"{text[-3000:]}\n{logs}"
    assert "ChurnwatchDown" in rules
    assert "✓ Nothing is wrong." in text
    assert "Redis does not answer" in text
    assert "not_json" in text
    assert "--accept-invalid-until" in text
    assert "Restored churnwatch as of" in text
    assert not list(tmp_path.glob("*.log")), "it leaves nothing behind"


def _rules(port: str) -> str:
    """What Prometheus has loaded; nothing while it starts."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/rules", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.parametrize("word", ["deployment.md", "privacy.md", "soak.md", "configuration.md"])
def test_the_page_leads_to_all_that_belongs_to_it(word: str) -> None:
    assert word in PAGE.read_text()
