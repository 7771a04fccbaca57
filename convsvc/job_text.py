"""A job's text, JSON or YAML, made a plain value at a bounded price. Light: the command line imports it before anything else."""

from __future__ import annotations

import json
from typing import Any

from convsvc.errors import JobError

# A job is a few fields and, at most, lists of layers: a file of a kilobyte or two. YAML is read some hundred times slower than JSON.
MAX_JSON_BYTES, MAX_YAML_BYTES = 4 << 20, 128 << 10
MAX_DEPTH, MAX_BITS = 20, 64


def parse_text(text: str | bytes, what: str = "the job") -> Any:
    """The value that a JSON or YAML text holds; `what` names it in errors.

    A name that occurs twice, NaN and infinities, YAML's aliases (ten lines of them are a billion values) and deep nesting are refused.

    >>> parse_text("source: {format: huggingface}")
    {'source': {'format': 'huggingface'}}

    Raises JobError.
    """
    if len(text) > MAX_JSON_BYTES:
        raise JobError(f"{what} has {len(text)} bytes; at most {MAX_JSON_BYTES} are read")
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_number)
    except RecursionError:
        raise _too_deep(what) from None
    except ValueError as error:
        if isinstance(error, _Refused):
            raise JobError(f"{what} is not valid: {error}") from None
        value = _parse_yaml(text, what, error)
    _check_value(value, what)
    return value


class _Refused(ValueError):
    """JSON that could be read, and is not."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # add answers None
        raise _Refused(f"{twice[:80]!r} occurs twice")
    return found


def _no_number(text: str) -> Any:
    raise _Refused(f"{text} is no number")


def _parse_yaml(text: str | bytes, what: str, json_error: ValueError) -> Any:
    if len(text) > MAX_YAML_BYTES:
        raise JobError(f"{what} is not JSON ({json_error}), and too long for YAML, of which at most {MAX_YAML_BYTES} bytes are read")
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml, text, loader, what)
        return yaml.load(text, Loader=loader)
    except RecursionError:
        raise _too_deep(what) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # ValueError: a date that no calendar has, a number in digits of no base, bytes that are no text.
        facts = [f"as JSON: {json_error}", f"as YAML: {' '.join(str(error).split())[:500]}"]
        raise JobError(f"{what} is neither JSON nor YAML", facts=facts) from None


def _check_events(yaml: Any, text: str | bytes, loader: Any, what: str) -> None:
    """Looks at the text's structure before anything is made of it."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            raise JobError(f"{what} uses a YAML alias (*{event.anchor[:40]})", do="write out what it stands for")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _too_deep(what)


def _check_value(value: Any, what: str) -> None:
    """Refuses deep nesting, looked at level by level without recursion, integers of a page, and names that are no text."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if any(type(each) is int and each.bit_length() > MAX_BITS for each in level):
            raise JobError(f"{what} has a whole number of over {MAX_BITS} bits; no field takes one")
        if any(isinstance(each, dict) and not all(type(key) is str for key in each) for each in level):
            raise JobError(f"{what} has a name that is no text (a number, a date, a list)", do="put it in quotes")
        level = [item for each in level if isinstance(each, dict | list) for item in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return
    raise _too_deep(what)


def _too_deep(what: str) -> JobError:
    return JobError(f"{what} is nested deeper than {MAX_DEPTH} levels; no job is")
