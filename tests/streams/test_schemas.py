from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from streams import schemas
from streams.events import CLASS_OF

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
FOLDER = ROOT / "docs" / "schemas"


def valid(schema: dict[str, Any], value: object) -> bool:
    return bool(Draft202012Validator(schema, format_checker=FormatChecker()).is_valid(value))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_schemas_in_the_documentation_are_those_of_the_code() -> None:
    expected = {name: schemas.text(schema) for name, schema in schemas.all_schemas().items()}
    found = {
        path.relative_to(FOLDER).as_posix(): path.read_text(encoding="utf-8")
        for path in FOLDER.rglob("*.json")
    }
    assert found == expected, "run `python -m streams.schemas docs/schemas`"


def test_the_command_writes_them(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "streams.schemas", str(tmp_path)], cwd=ROOT, check=True)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")} == set(
        schemas.all_schemas()
    )


@pytest.mark.parametrize("name", schemas.all_schemas())
def test_every_schema_is_of_2020_12(name: str) -> None:
    schema = schemas.all_schemas()[name]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("kind", CLASS_OF)
def test_the_golden_event_is_valid_and_without_a_required_field_it_is_not(kind: str) -> None:
    schema, example = schemas.event_schema(kind), read(GOLDEN / "events" / f"{kind}.json")
    assert valid(schema, example)
    assert valid(schema, {**example, "unknown": 1})
    for name in schema["required"]:
        assert not valid(schema, {key: value for key, value in example.items() if key != name})
    assert not valid(schema, {**example, "type": "other"})


def test_a_customer_with_control_characters_is_not_valid() -> None:
    example = read(GOLDEN / "events" / "view.json")
    assert valid(schemas.event_schema("view"), {**example, "customer": "Ünal 7"})
    assert not valid(schemas.event_schema("view"), {**example, "customer": "a\x07b"})


@pytest.mark.parametrize("name", ["bare.json", "churn_raised.json", "withheld.json"])
def test_the_golden_alert_is_valid_and_null_is_not(name: str) -> None:
    schema, data = schemas.alert_schema(), read(GOLDEN / "alerts" / name)["data"]
    assert valid(schema, data)
    assert not valid(schema, {**data, "cause": None})
    assert not valid(schema, {**data, "decided_at": 1})
    assert not valid(schema, {**data, "transition": "withdrawn"})


def test_the_golden_score_is_valid() -> None:
    assert valid(schemas.score_schema(), read(GOLDEN / "alerts" / "score.json")["data"])
