"""A job whose text is small and whose meaning is huge, or that is read one way here and another way there.

What stops it: `job_text.parse_text` looks at YAML's events before anything is made of them, takes no alias, no deep nesting, no name twice
and no number that a JSON reader elsewhere would not take; YAML, which is slow to read, is taken up to 128 KiB.
"""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from convsvc.errors import JobError
from convsvc.job_text import MAX_YAML_BYTES
from convsvc.spec import parse_job

PLACES = '"source": {"format": "huggingface", "path": "/in"}, "target": {"format": "mindspeed-llm", "path": "/out"}'
LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Every attack here ends within ten seconds of processor time and 64 MiB."""
    tracemalloc.start()
    began = time.process_time()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - began < 10
    assert peak < 64 << 20


def refused(text: str | bytes, says: str) -> None:
    with pytest.raises(JobError, match=says):
        parse_job(text)


def test_a_billion_laughs_are_refused_before_the_first() -> None:
    refused(LAUGHS, "YAML alias")


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: 1}\nc: {<<: *a}", "&a : *a"])
def test_no_alias_is_followed(text: str) -> None:
    refused(text, "YAML alias")


@pytest.mark.parametrize("levels", [25, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused_whoever_reads_it(levels: int, opening: str, closing: str) -> None:
    refused(opening * levels + "1" + closing * levels, "nested deeper|too long for YAML")


@pytest.mark.parametrize(
    "text", ["source: {2001-01-01: a}", "? [a]\n: b", "1: a", "source: {!!binary aGE=: 1}", "a: [{b: {~: 1}}]", "true: 1"]
)
def test_a_name_that_is_no_text_is_refused(text: str) -> None:
    refused(text, "a name that is no text|neither JSON nor YAML")


def test_deep_yaml_is_refused() -> None:
    refused("".join(" " * level + "a:\n" for level in range(200)), "nested deeper")
    refused("- " * 2000 + "a", "nested deeper")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_in_json_is_refused(number: str) -> None:
    refused('{"a": ' + number + "}", "is no number")


def test_an_infinite_factor_is_refused_from_yaml_too() -> None:
    refused("source: {format: mindspeed-llm, path: /in, lora: {r: 1, alpha: .inf}}\ntarget: {format: huggingface, path: /out}", "alpha")


@pytest.mark.parametrize("number", ["1" * 30, "9" * 4000, "-" + "9" * 40])
def test_a_number_of_a_page_is_refused(number: str) -> None:
    refused(f'{{{PLACES}, "priority": {number}}}', "over 64 bits|priority")
    refused("priority: 0x" + "f" * 5000, "over 64 bits|neither")


@pytest.mark.parametrize("size", [2**31, 10**18, -1])
def test_a_size_that_nothing_has_is_refused(size: int) -> None:
    job = json.loads("{" + PLACES + "}")
    job["target"]["tensor_parallel_size"] = size
    with pytest.raises(JobError, match=r"target\.tensor_parallel_size"):
        parse_job(job)


def test_a_name_that_occurs_twice_is_refused() -> None:
    refused(f'{{{PLACES}, "name": "a", "name": "b"}}', "'name' occurs twice")
    refused('{"source": {"path": "/a", "path": "/b"}}', "'path' occurs twice")


def test_a_nul_or_half_a_character_is_no_text() -> None:
    for field in ("name", "model_type"):
        refused(f'{{{PLACES}, "{field}": "a\\u0000b"}}', field)
        refused(f'{{{PLACES}, "{field}": "\\ud800"}}', field)
    refused('{"source": {"format": "huggingface", "path": "/a\\u0000b"}, "target": {"format": "huggingface", "path": "/b"}}', "source.path")


def test_a_megabyte_that_is_no_json_is_not_tried_as_yaml() -> None:
    refused(b"{" + b"a: [b, c]\n" * 100_000, "too long for YAML")
    refused(b"- a\n" * (MAX_YAML_BYTES // 4), "an object with source and target")


def test_a_megabyte_of_wrong_fields_is_answered_with_a_few() -> None:
    fields = ", ".join(f'"x{n}": 0' for n in range(20_000))
    text = f"{{{PLACES}, {fields}}}"
    with pytest.raises(JobError, match="20000 wrong fields") as caught:
        parse_job(text)
    assert len(caught.value.facts) == 51
    assert len(json.dumps(caught.value.as_dict())) < 20_000


NO_VALUES = (
    "!!python/object/apply:os.system [id]", "a: !!binary x", "a: 2001-99-99", "%YAML 9.9\n---\na", "a: 0b2", "\x00", b"\xff\xfe\x00",
    b"\xff",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_VALUES)
def test_yaml_that_no_safe_loader_makes_anything_of_is_refused(text: str | bytes) -> None:
    refused(text, "neither JSON nor YAML|wrong field")
