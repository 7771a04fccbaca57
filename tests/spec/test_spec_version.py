"""The version of the job's schema grows with the schema, so that executors of a version before leave a newer job alone."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

from convsvc.spec import SPEC_VERSION

# By SPEC_VERSION: a hash of what a job may be. Whoever lets a job say more, or something else, lets SPEC_VERSION grow and adds a line.
SCHEMAS = {
    3: "c79e76b00f33bc64",
    4: "cef4455725865ea7",
    5: "de0e40c0cc537ea2",
    6: "181a50ab74da67c8",
    7: "bcedc47481bff3e1",
    8: "927dca65ae932f30",
    9: "ba3b63ef3abc3032",
    10: "adb8cc52a9733408",
    11: "213c9821f6a64aef",
}
WORDS = ("title", "description", "examples")


def rules(schema: Any, defs: dict[str, Any]) -> Any:
    """A JSON Schema without its words and without the names of its parts: what it allows."""
    if isinstance(schema, list):
        return [rules(item, defs) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        part = defs[schema["$ref"].rpartition("/")[2]]
        return rules({**part, **{key: value for key, value in schema.items() if key != "$ref"}}, defs)
    if "discriminator" in schema:
        schema = {**schema, "discriminator": schema["discriminator"]["propertyName"], "oneOf": by_format(schema["oneOf"], defs)}
    # A property may be called as one of the words are.
    kept = {key: value for key, value in schema.items() if key != "$defs" and not (key in WORDS and isinstance(value, str | list))}
    return {key: rules(value, defs) for key, value in kept.items()}


def by_format(parts: list[Any], defs: dict[str, Any]) -> list[Any]:
    return sorted(parts, key=lambda part: str(defs[part["$ref"].rpartition("/")[2]]["properties"]["format"]))


def schema_of_a_fresh_process() -> dict[str, Any]:
    """Another test may have added a format to this one."""
    script = "import json; from convsvc.spec import job_schema; print(json.dumps(job_schema()))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return dict(json.loads(said))


def test_the_version_of_the_schema_grows_with_what_a_job_may_be() -> None:
    schema = schema_of_a_fresh_process()
    found = hashlib.sha256(json.dumps(rules(schema, schema["$defs"]), sort_keys=True).encode()).hexdigest()[:16]
    assert SCHEMAS.get(SPEC_VERSION) == found, (
        f"what a job may be has changed: let SPEC_VERSION (convsvc/spec/job.py) grow, and add {SPEC_VERSION + 1}: {found!r} to SCHEMAS"
    )
    assert max(SCHEMAS) == SPEC_VERSION
    assert len(set(SCHEMAS.values())) == len(SCHEMAS)


def test_words_and_names_of_parts_are_no_change_and_a_new_field_or_value_is() -> None:
    def part(name: str, **more: Any) -> dict[str, Any]:
        return {"properties": {"side": {"$ref": f"#/$defs/{name}"}}, "$defs": {name: {"title": name, "properties": {"path": more}}}}

    def said(schema: dict[str, Any]) -> Any:
        return rules(schema, schema["$defs"])

    assert said(part("One", description="a path")) == said(part("Two", description="where it is"))
    assert said(part("One", maxLength=1)) != said(part("One", maxLength=2))
