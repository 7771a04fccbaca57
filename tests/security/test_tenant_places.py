"""Where a tenant's jobs may read and write, as the service decides it before a job is queued or planned."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from convsvc.plan.job_paths import job_paths
from convsvc.service.access.identity import LOOPBACK
from convsvc.service.access.places import check_places, roots_of
from convsvc.spec import job_schema, parse_job

# Fields that hold text but no path. A new field belongs here, or is named so that `job_paths` knows it.
NO_PATHS = {
    "format",
    "name",
    "model_type",
    "iteration",
    "url",
    "max_shard_size",
    "schedules_method",
    "transformer_impl",
    "dtype",
    "file_suffix",
    "leave_out_prefix",
    "max_part_size",
    "mode",
}
NO_PATHS |= {
    "verify",
    "on_exists",
    "on_loss",
    "on_overflow",
    "report",
    "target_modules",
    "check_copies",
    "pipeline_model_parallel_layout",
    "state",
}
NO_PATHS |= {"after"}
NO_PATHS |= {"file_suffix", "leave_out_prefix", "max_part_size", "mode", "prefix", "modules", "form", "file_name"}
NO_PATHS |= {"storage", "layer_keys", "chunk_size"}
NO_PATHS |= {"adapter_name", "fill_beginning", "quantization", "card", "picture", "before_names"}


def holds_text(field: dict[str, Any]) -> bool:
    kinds = [field, *field.get("anyOf", []), field.get("items", {})]
    return any(kind.get("type") in ("string", "array") and kind.get("items", {"type": "string"}).get("type") == "string" for kind in kinds)


def test_every_field_of_a_job_that_holds_text_is_a_path_or_known_to_be_none() -> None:
    schema = job_schema()
    fields = {name: field for kind in [schema, *schema["$defs"].values()] for name, field in kind.get("properties", {}).items()}
    text = {name for name, field in fields.items() if holds_text(field)}
    assert text - NO_PATHS == {
        *("path", "config_dir", "base_path", "strategy_path", "like_dir", "assets_dir", "weights_path", "text_decoder_dir"),
    }


def a_job(**places: str) -> dict[str, Any]:
    """A job with every field that can hold a path."""
    places = {"source": "/r/in", "lora": "/r/lora", "target": "/r/out", "config_dir": "/r/conf", **places}
    source = {"format": "mindspeed-llm", "path": places["source"], "lora": {"path": places["lora"], "r": 8, "alpha": 16}}
    return {"source": source, "target": {"format": "huggingface", "path": places["target"], "config_dir": places["config_dir"]}}


def test_all_paths_of_a_job_are_found() -> None:
    found = {"source.path": "/r/in", "source.lora.path": "/r/lora", "target.path": "/r/out", "target.config_dir": "/r/conf"}
    assert job_paths(parse_job(a_job())) == found


PLACES = [("source", "source.path"), ("lora", "source.lora.path"), ("target", "target.path"), ("config_dir", "target.config_dir")]
every_place = pytest.mark.parametrize(("place", "field"), PLACES, ids=[field for _, field in PLACES])
both_routes = pytest.mark.parametrize("route", ["/jobs", "/plans"])


def in_team_a(service: Any, **places: str) -> dict[str, Any]:
    root = service.shared / "team-a"
    return a_job(**{name: str(root / name) for name in ("source", "lora", "target", "config_dir")} | places)


@both_routes
@every_place
def test_a_path_out_of_the_roots_is_refused_by_its_field(service: Any, route: str, place: str, field: str) -> None:
    token = service.token().text
    assert service.request("POST", route, token, json=in_team_a(service)).status_code in (200, 201)
    for path in (service.shared / "team-b" / "x", Path("/etc"), service.shared / "team-a" / ".." / "team-b", service.shared / "team-ab"):
        answer = service.request("POST", route, token, json=in_team_a(service, **{place: str(path)}))
        assert (answer.status_code, answer.json()["kind"]) == (403, "PathRefused"), path
        assert answer.json()["detail"].startswith(field)


@both_routes
def test_a_link_that_leads_out_is_refused(service: Any, route: str) -> None:
    (service.shared / "team-a" / "link").symlink_to(service.shared / "team-b")
    job = in_team_a(service, source=str(service.shared / "team-a" / "link" / "hf"))
    assert service.request("POST", route, service.token().text, json=job).status_code == 403


def test_a_target_is_in_a_root_and_not_the_root_itself(service: Any) -> None:
    job = in_team_a(service, target=str(service.shared / "team-a"))
    assert service.request("POST", "/jobs", service.token().text, json=job).status_code == 403


@both_routes
@every_place
def test_a_relative_path_is_refused_even_where_no_token_is_asked_for(start: Any, route: str, place: str, field: str) -> None:
    with start() as service:
        answer = service.request("POST", route, json=a_job(**{place: "here/it/is"}))
    assert (answer.status_code, answer.json()["facts"]) == (422, [f"{field}: here/it/is is relative"])


def test_without_a_token_on_loopback_there_are_no_roots() -> None:
    check_places(parse_job(a_job(source="/anywhere")), roots_of(LOOPBACK))


@both_routes
@pytest.mark.parametrize("scope", ["jobs:write", "admin"])
def test_a_tenant_without_roots_is_told_how_it_gets_one(service: Any, route: str, scope: str) -> None:
    service.tenants.create("team-c", actor="the test")
    answer = service.request("POST", route, service.token("team-c", scope).text, json=in_team_a(service))
    assert (answer.status_code, answer.json()["kind"]) == (403, "Forbidden")
    assert "convsvc tenant set team-c --root DIR" in answer.json()["do"]


def test_roots_that_change_count_within_seconds(service: Any) -> None:
    token = service.token().text
    assert service.request("POST", "/plans", token, json=in_team_a(service)).status_code == 200
    service.tenants.set("team-a", roots=[str(service.shared / "team-b")], actor="the test")
    began = time.monotonic()
    while (answer := service.request("POST", "/plans", token, json=in_team_a(service))).status_code == 200:
        assert time.monotonic() - began < 20
    assert answer.status_code == 403
