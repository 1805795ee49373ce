"""The rules of the house that no linter knows: who may import whom, what the core may touch, what may be in a file."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("streams", "features", "models", "alerts", "agents")
CORE = LAYERS[:-1]

# What the core may import. To add to it is a decision (docs/decisions/): whatever is here must give the same result
# for the same arguments, in every process and at every time.
PURE = {
    "__future__", "abc", "array", "base64", "binascii", "bisect", "collections", "copy", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "html", "itertools", "json", "math", "msgspec",
    "numbers", "numpy", "operator", "re", "statistics", "string", "struct", "types", "typing", "unicodedata",
    "urllib.parse", "xxhash", "zoneinfo",
}  # fmt: skip

# Those that learn stand on river, whose models are told nothing but examples. Whoever only scores and decides does
# without it.
LEARNING = {"models.additive", "models.drift", "models.training", "models.tree"}

# Parts of pure modules that are not.
IMPURE_MEMBERS = {
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "numpy": {"random", "load", "save", "loadtxt", "savetxt", "fromfile", "memmap"},
    "np": {"random", "load", "save", "loadtxt", "savetxt", "fromfile", "memmap"},
}
# BLAS adds in an order that depends on the shape: a customer's score would depend on who shares the matrix.
BLAS = {"dot", "matmul", "vdot", "inner", "tensordot", "einsum", "linalg"}
IMPURE_BUILTINS = {
    "open": "reads files",
    "print": "writes to the terminal",
    "input": "reads the terminal",
    "eval": "runs text",
    "exec": "runs text",
    "__import__": "imports what this test cannot see",
    "hash": "gives another number in every process",
    "id": "gives another number in every process",
}


def modules() -> dict[str, Path]:
    """Our modules by their dotted names."""
    found = {}
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
NAMES = sorted(MODULES)
CORE_NAMES = [name for name in NAMES if name.split(".")[0] in CORE]


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"), str(MODULES[name]))


def statements(name: str) -> Iterator[ast.AST]:
    """Everything a module holds, but for what it does only when it is run as a program."""
    for node in tree(name).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            continue
        yield from ast.walk(node)


def imports(name: str) -> set[str]:
    """What a module imports anywhere in it, functions and TYPE_CHECKING included, as dotted names of modules."""
    found = set()
    for node in statements(name):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{name} imports relatively"
            found.add(node.module)
            found |= {full for alias in node.names if (full := f"{node.module}.{alias.name}") in MODULES}
    return found


def allowed(module: str, name: str) -> bool:
    pure = PURE | {"river"} if name in LEARNING else PURE
    return any(module == each or module.startswith(each + ".") for each in pure)


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_only_from_right_to_left(name: str) -> None:
    own = LAYERS.index(name.partition(".")[0])
    for imported in imports(name):
        layer = imported.split(".")[0]
        if layer in LAYERS:
            assert LAYERS.index(layer) <= own, f"{name} imports {imported}, which stands to its right"


@pytest.mark.parametrize("name", CORE_NAMES)
def test_the_core_imports_nothing_impure_not_even_through_others(name: str) -> None:
    seen: set[str] = set()
    ways: list[tuple[str, ...]] = [(name,)]
    while ways:
        way = ways.pop()
        if way[-1] in seen:
            continue
        seen.add(way[-1])
        for imported in imports(way[-1]):
            if imported in MODULES:
                ways.append((*way, imported))
            else:
                assert allowed(imported, way[0]), (
                    f"{' -> '.join((*way, imported))}: not in the list of what is pure"
                )


@pytest.mark.parametrize("name", CORE_NAMES)
def test_the_core_calls_nothing_impure(name: str) -> None:
    for node in statements(name):
        where = f"{name}:{getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_BUILTINS, (
                f"{where}: {node.func.id}() {IMPURE_BUILTINS[node.func.id]}"
            )
        if isinstance(node, ast.Attribute):
            base = ast.unparse(node.value).rpartition(".")[2]
            assert node.attr not in IMPURE_MEMBERS.get(base, ()), f"{where}: {ast.unparse(node)}"
            if base in {"np", "numpy"}:
                assert node.attr not in BLAS, f"{where}: {ast.unparse(node)} may sum in an order of its own"
        if isinstance(node, ast.ImportFrom) and node.module == "numpy":
            assert not {alias.name for alias in node.names} & (BLAS | IMPURE_MEMBERS["np"]), where
        assert not isinstance(node, ast.MatMult), f"{where}: @ may sum in an order of its own"
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{where}: the core waits for nothing"


def test_importing_the_core_loads_no_client_and_connects_to_nothing() -> None:
    program = (
        f"import importlib, socket, sys\n"
        f"def refuse(*_): raise AssertionError('a connection at import')\n"
        f"socket.socket.connect = refuse\n"
        f"for name in {CORE_NAMES!r}: importlib.import_module(name)\n"
        f"print(*sorted({{name.split('.')[0] for name in sys.modules}}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert not loaded & {
        "agents",
        "faust",
        "mode",
        "aiokafka",
        "confluent_kafka",
        "redis",
        "asyncio",
        "uvloop",
    }


# --- dependencies

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUN = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
COMPARE = [
    Requirement(text)
    for extra in ("compare", "otel")
    for text in PROJECT["project"]["optional-dependencies"][extra]
]
EMBEDDED = [Requirement(text) for text in PROJECT["project"]["optional-dependencies"]["embedded"]]
BUILD = [Requirement(text) for text in PROJECT["dependency-groups"]["build"]]
DEV = [Requirement(text) for text in PROJECT["dependency-groups"]["dev"]]
IMPORTED_AS = {
    "faust-streaming": "faust",
    "mode-streaming": "mode",
    "confluent-kafka": "confluent_kafka",
    "prometheus-client": "prometheus_client",
    "opentelemetry-sdk": "opentelemetry",
}


def locked(file: str) -> dict[str, list[tuple[str, str]]]:
    """The versions and environment markers that a lock lists of every package."""
    found: dict[str, list[tuple[str, str]]] = {}
    for match in re.finditer(
        r"^([a-z0-9._-]+)==(\S+)(?: ; (.*?))? \\$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE
    ):
        found.setdefault(canonicalize_name(match[1]), []).append((match[2], match[3] or ""))
    return found


def test_every_dependency_has_its_reason_and_every_reason_its_dependency() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (pinned|minor|any) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    explained = {name: policy for name, policy, _, _ in rows}
    pom = ET.parse(ROOT / "deploy" / "local" / "pom.xml")
    artifacts = {e.findtext("{*}artifactId") for e in pom.iterfind("{*}dependencies/{*}dependency")}
    assert set(explained) == {r.name for r in [*RUN, *EMBEDDED, *COMPARE, *BUILD, *DEV]} | artifacts
    for requirement in [*RUN, *EMBEDDED, *COMPARE, *BUILD, *DEV]:
        pinned = str(requirement.specifier).startswith("==")
        bounded = "<" in str(requirement.specifier)
        policy = "pinned" if pinned else "minor" if bounded else "any"
        assert explained[requirement.name] == policy, f"{requirement.name} is {policy} in pyproject.toml"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_imported_is_declared(name: str) -> None:
    declared = {IMPORTED_AS.get(r.name, r.name).replace("-", "_") for r in (*RUN, *COMPARE)}
    for imported in imports(name):
        top = imported.split(".")[0]
        assert top in declared or top in LAYERS or top in sys.stdlib_module_names, (
            f"{name} imports {imported}"
        )


@pytest.mark.parametrize(
    ("file", "requirements"), [("requirements.txt", [*RUN, *EMBEDDED, *BUILD]), ("requirements-dev.txt", DEV)]
)
def test_the_lock_holds_what_pyproject_allows(file: str, requirements: list[Requirement]) -> None:
    lock = locked(file)
    for requirement in requirements:
        versions = lock.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement.name} is not in {file}: make lock"
        for version, _ in versions:
            assert requirement.specifier.contains(version), f"{requirement.name}=={version}: make lock"


def test_the_developers_list_agrees_with_the_list_to_run() -> None:
    run, dev = locked("requirements.txt"), locked("requirements-dev.txt")
    for name in run.keys() & dev.keys():
        assert {v for v, _ in dev[name]} <= {v for v, _ in run[name]}, name


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_locked_version_has_hashes_and_the_lock_no_address(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert "://" not in text
    entries = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    for entry in filter(None, map(str.strip, entries)):
        if entry.startswith("#"):
            continue
        assert re.match(r"[a-z0-9._-]+==\S+ ", entry), f"not one version of one package: {entry[:60]}"
        assert "--hash=sha256:" in entry, f"no hash: {entry[:60]}"


# --- what may be in a file

REGISTRIES = re.compile(
    r"p[y]pi\.(?:org|python)|python[h]osted|repo1?\.ma[v]en|ma[v]en\.apache\.org/ma[v]en2|registry\.np[m]js|crates\.i[o]\b"
    r"|proxy\.gol[a]ng|deb\.deb[i]an|--(?:extra-)?ind[e]x-url"
)
MACHINE = re.compile(r"(?<![\w.~}])/(?:ro[o]t|ho[m]e/\w+|Us[e]rs/\w+|wo[r]k|fa[r]m|tmp/(?:d[e]v|v)/)(?:/|\b)")


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout of git")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_names_a_registry_or_somebodys_machine() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if REGISTRIES.search(line) or MACHINE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def test_no_work_is_left_for_later_in_a_file() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".py", ".lua", ".sh", ".toml"} or path.parent.name == "local"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\b(?:TO[D]O|FI[X]ME|X[X]X|H[A]CK)\b", line)
    ]
    assert not found


def test_make_without_a_target_explains_the_commands() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "chaos", "lint", "lock", "clean"):
        assert f"make {target}" in done.stdout
