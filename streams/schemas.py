"""JSON Schema 2020-12 of every event and of what churnwatch writes, made from the types themselves.

``python -m streams.schemas docs/schemas`` writes one file each; a test fails when they drift.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from streams.alerts import TRANSITIONS, Alert, Score
from streams.erasure import Erasure
from streams.events import CLASS_OF

Schema: TypeAlias = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def event_schema(kind: str) -> Schema:
    """The schema of one event type, plain (a CloudEvent's ``data`` may leave out what its attributes say)."""
    return _schema(CLASS_OF[kind], f"event:{kind}", kind)


def alert_schema() -> Schema:
    """The schema of an alert's data; its id is the event's."""
    schema: Schema = _written(_schema(Alert, "alert", "alert"))
    del schema["properties"]["id"]
    schema["required"].remove("id")
    schema["properties"]["withheld"] = {
        "type": "string",
        "description": "Why it was not delivered; on decisions only.",
    }
    schema["oneOf"] = [
        {"properties": {"kind": {"const": kind}, "transition": {"enum": sorted(transitions)}}}
        for kind, transitions in TRANSITIONS.items()
    ]
    return schema


def score_schema() -> Schema:
    """The schema of a score's data."""
    schema: Schema = _written(_schema(Score, "score", "score"))
    return schema


def erasure_schema() -> Schema:
    """The schema of a record on ``forgotten``, the answer to a request to forget a customer."""
    schema: Schema = _written(_schema(Erasure, "erasure", "erasure"))
    return schema


def all_schemas() -> dict[str, Schema]:
    """Every schema by the path of its file."""
    schemas = {f"events/{kind}.json": event_schema(kind) for kind in CLASS_OF}
    return {
        **schemas,
        "alerts/alert.json": alert_schema(),
        "alerts/score.json": score_schema(),
        "forgotten/erasure.json": erasure_schema(),
    }


def text(schema: Schema) -> str:
    """The schema as its file has it."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def _schema(cls: type, name: str, title: str) -> Schema:
    """The class's schema with what it refers to beside it."""
    components = msgspec.json.schema(cls, ref_template="#/$defs/{name}")
    definitions = dict(components["$defs"])
    body = definitions.pop(cls.__name__)
    schema = {
        "$schema": DIALECT,
        "$id": f"urn:churnwatch:{name}:v1",
        **body,
        "title": title,
    }
    if definitions:
        schema["$defs"] = definitions
    cleaned: Schema = _cleaned(schema)
    return cleaned


def _cleaned(part: Any) -> Any:
    """Descriptions are the first paragraph on one line; instants are text."""
    if isinstance(part, list):
        return [_cleaned(item) for item in part]
    if not isinstance(part, dict):
        return part
    cleaned = {key: _cleaned(value) for key, value in part.items()}
    if isinstance(cleaned.get("description"), str):
        cleaned["description"] = " ".join(
            cleaned["description"].partition("\n\n")[0].replace("``", "`").split()
        )
    if cleaned.get("format") == "date-time":
        cleaned["type"] = "string"
    return cleaned


def _written(part: Any) -> Any:
    """What is written leaves out what is not known: a field is never null and has no default."""
    if isinstance(part, list):
        return [_written(item) for item in part]
    if not isinstance(part, dict):
        return part
    options = [option for option in part.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        return _written(options[0])
    written = {key: _written(value) for key, value in part.items() if key != "default"}
    if options:
        written["anyOf"] = _written(options)
    return written


if __name__ == "__main__":
    import sys
    from pathlib import Path

    if len(sys.argv) != 2:
        sys.exit("usage: python -m streams.schemas FOLDER")
    for file, of in all_schemas().items():
        path = Path(sys.argv[1]) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(of), encoding="utf-8")
