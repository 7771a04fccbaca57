"""The form of a new job, cancel, retry and the same with several jobs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convsvc.service.console.job_form import form_of, job_said
from convsvc.spec import dump_job, parse_job
from tests.console.conftest import NUMBERS, Console, Visitor
from tests.tiny_checkpoints import write_llama


def fields(service: Console, **more: str) -> dict[str, str]:
    root = service.shared / "team-a"
    return {
        "source.path": str(root / "hf"),
        "source.format": "huggingface",
        "target.path": str(root / f"form-{next(NUMBERS)}"),
        "target.format": "mindspeed-llm",
        "target.tensor_parallel_size": "2",
        **more,
    }


def test_a_form_submits_the_job_that_it_says_and_leads_to_its_page(service: Console, visitor: Visitor) -> None:
    said = fields(service, name="from a form", priority="3", more='{"options": {"max_shard_size": "5GB"}, "labels": {"a": "b"}}')
    answer = visitor.post("/new", said | {"options.verify": "full", "target.moe_grouped_gemm": "true"})
    assert answer.status_code == 303, answer.text
    spec = service.store.job(answer.headers["location"].rpartition("/")[2]).spec
    assert (spec["name"], spec["priority"], spec["labels"]) == ("from a form", 3, {"a": "b"})
    assert (spec["options"]["max_shard_size"], spec["options"]["verify"]) == ("5GB", "full")
    assert (spec["target"]["tensor_parallel_size"], spec["target"]["moe_grouped_gemm"]) == (2, True)


def test_a_form_that_is_sent_twice_makes_one_job(service: Console, visitor: Visitor) -> None:
    said = fields(service) | {"key": "once"}
    assert visitor.post("/new", said).headers["location"] == visitor.post("/new", said).headers["location"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"target.tensor_parallel_size": "two"}, "target.tensor_parallel_size"),
        ({"target.format": "no-such"}, "there is no format"),
        ({"target.path": "/etc/x"}, "/etc/x"),
        ({"more": "["}, "problem"),
        ({"more": '{"target": 1}'}, "target is no object"),
        ({"more": "[1]"}, "is no object"),
        ({"priority": "1e9"}, "priority"),
        ({"name": "x\x00"}, "name"),
    ],
)
def test_a_job_that_cannot_be_is_refused_and_the_form_keeps_what_was_typed(
    service: Console, visitor: Visitor, changed: dict[str, str], told: str
) -> None:
    answer = visitor.post("/new", fields(service, name="kept") | changed)
    assert answer.status_code in (403, 422), answer.text
    assert told in answer.text
    assert ('value="kept"' in answer.text) == ("name" not in changed)


def test_the_plans_answer_is_shown_and_nothing_is_queued(service: Console, visitor: Visitor) -> None:
    before = service.store.counts()
    good = visitor.post("/new/plan", fields(service))
    assert (good.status_code, 'id="fits"' in good.text) == (200, True)
    bad = visitor.post("/new/plan", fields(service) | {"target.path": "/etc/x"})
    assert (bad.status_code, 'id="does-not-fit"' in bad.text) == (200, True)
    assert service.store.counts() == before


def test_a_target_that_another_job_has_is_told_before_it_is_submitted(service: Console, visitor: Visitor) -> None:
    said = fields(service)
    assert visitor.post("/new", said).status_code == 303
    assert 'id="would-fail"' in visitor.post("/new/plan", said).text


def test_the_source_is_inspected_and_its_format_chosen(service: Console, visitor: Visitor) -> None:
    write_llama(service.shared / "team-a" / "inspected", layers=1)
    answer = visitor.post("/new/inspect", {"source.path": str(service.shared / "team-a" / "inspected")})
    assert "llama" in answer.text
    assert re.search(r"<option selected>huggingface</option>", answer.text)
    outside = visitor.post("/new/inspect", {"source.path": "/etc"})
    assert (outside.status_code, "problem" in outside.text) == (200, True)


def test_only_what_lies_in_the_tenants_roots_is_browsed(service: Console, visitor: Visitor, tmp_path: Path) -> None:
    root = service.shared / "team-a"
    (root / "deep <b>").mkdir(exist_ok=True)
    (tmp_path / "secret").mkdir()
    if not (root / "out").is_symlink():
        (root / "out").symlink_to(tmp_path)
    assert str(root) in visitor.get("/browse").text
    listed = visitor.get("/browse", params={"path": str(root)}).text
    assert "deep &lt;b&gt;/" in listed
    assert "out/" not in listed
    for path in (str(service.shared / "team-b"), str(root / "out"), str(root / ".." / "team-b"), "/etc", str(root) + "/out/secret", "etc"):
        answer = visitor.get("/browse", params={"path": path}).text
        assert "problem" in answer, path
        assert "secret/" not in answer
        assert "passwd" not in answer


def test_a_jobs_clone_says_the_same_job(service: Console, visitor: Visitor) -> None:
    said = fields(service, name="first", more='{"labels": {"a": "b"}, "target": {"num_layer_list": [1, 1]}}')
    job = visitor.post("/new", said).headers["location"].rpartition("/")[2]
    page = visitor.get(f"/new?like={job}").text
    assert 'value="first"' in page
    assert "num_layer_list" in page
    assert visitor.get("/new?like=" + "0" * 26).status_code == 404


FULL: list[dict[str, Any]] = [
    {"source": {"format": "huggingface", "path": "/a", "modules": ["text_decoder"]}, "target": {"format": "mindspeed-llm", "path": "/b"}},
    {
        "name": "x",
        "priority": -5,
        "labels": {"k": "v"},
        "source": {"format": "mindspeed-llm", "path": "/a", "iteration": "12", "noop_layers": [1]},
        "target": {"format": "huggingface", "path": "/b", "adapter_only": False},
        "options": {"dtype": "bf16", "verify": "none", "max_shard_size": "1GB", "cast_all": True},
    },
    {"mode": "compare", "source": {"path": "/a"}, "target": {"path": "/b"}},
]


@pytest.mark.parametrize("spec", FULL, ids=["small", "large", "a comparison"])
def test_a_form_made_of_a_job_says_that_job(spec: dict[str, Any]) -> None:
    dumped = dump_job(parse_job(spec))
    assert dump_job(parse_job(job_said(form_of(dumped)))) == dumped


def test_a_job_is_canceled_and_tried_again_with_rows_in_the_audit(service: Console, visitor: Visitor) -> None:
    job = service.job_of()
    assert visitor.post(f"/jobs/{job}/cancel").headers["location"] == f"/ui/jobs/{job}"
    assert service.store.job(job).state == "canceled"
    assert "do-retry" in visitor.get(f"/jobs/{job}").text
    assert visitor.post(f"/jobs/{job}/retry").status_code == 303
    assert service.store.job(job).state == "queued"
    assert visitor.post(f"/jobs/{job}/retry").status_code == 409
    entries = service.request("GET", f"/audit?job={job}", service.token("team-a", "admin").text).json()["entries"]
    assert [(entry["action"], entry["outcome"]) for entry in entries][:3] == [
        ("retry", "illegal-transition"),
        ("retry", "ok"),
        ("cancel", "ok"),
    ]


def test_of_several_jobs_one_that_refuses_does_not_keep_the_others(service: Console, visitor: Visitor) -> None:
    mine, theirs, also = service.job_of(), service.job_of("team-b"), service.job_of()
    answer = visitor.post("/bulk", {"act": "cancel", "job": [mine, theirs, also]})
    assert answer.status_code == 200
    assert "there is no job" in answer.text
    assert [service.store.job(job).state for job in (mine, theirs, also)] == ["canceled", "queued", "canceled"]
    for odd in ({"act": "cancel"}, {"act": "remove", "job": [mine]}, {"act": "cancel", "job": ["1234"]}):
        assert visitor.post("/bulk", odd).status_code == 422


def test_who_only_reads_sees_no_button_that_writes(service: Console, visit: Callable[..., Visitor]) -> None:
    job = service.job_of()
    reader = visit(service.token("team-a", "jobs:read").text)
    pages = reader.get(f"/jobs/{job}").text + reader.get("/jobs").text
    assert not re.search(r'do-cancel|do-clone|id="bulk"|/ui/new', pages)
