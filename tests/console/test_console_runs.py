"""Watches and batches in the console: made, looked at and ended there, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from convsvc.service.access.audit import Audit
from convsvc.service.batching.rules import parse_batch
from convsvc.service.store.batches import Batches
from convsvc.service.store.looks import Looks, Taken
from convsvc.service.store.watches import Watches
from convsvc.service.watching.rules import parse_watch
from convsvc.service.watching.sighting import Sighting
from tests.console.conftest import NUMBERS, Console, Visitor
from tests.console.test_console_pages import EVIL, NOON, Page


def watch_spec(service: Console, tenant: str = "team-a", name: str = "a run") -> dict[str, Any]:
    folder = f"{service.shared / tenant}/run-{next(NUMBERS)}"
    target = {"format": "huggingface", "path": f"{folder}-out/{{iteration}}"}
    return {"name": name, "directory": folder, "job": {"source": {"format": "mindspeed-llm"}, "target": target}}


def watched(service: Console, tenant: str = "team-a", name: str = "a run") -> str:
    return Watches(service.database).create(parse_watch(watch_spec(service, tenant, name)), caller=service.caller(tenant))[0].id


def batched(service: Console, tenant: str = "team-a", name: str = "a batch") -> str:
    jobs = [service.job(tenant, f"out-{next(NUMBERS)}"), service.job(tenant, f"out-{next(NUMBERS)}") | {"after": ["#0"]}]
    spec, parsed = parse_batch({"name": name, "jobs": jobs})
    return Batches(service.store).submit(spec.name, parsed, caller=service.caller(tenant))[0].id


def acts(service: Console) -> set[str]:
    return {entry.action for entry in Audit(service.database).page(limit=50, cursor=None, tenant=None, action=None, job_id=None).entries}


def form(**more: str) -> dict[str, str]:
    return {"source.format": "mindspeed-llm", "target.format": "huggingface", "order": "oldest"} | more


def test_a_watch_is_made_by_form_shown_and_removed(service: Console, visitor: Visitor) -> None:
    folder = str(service.shared / "team-a" / "by-form")
    fields = {"directory": folder, "target.path": f"{folder}-out/{{iteration}}", "name": "mine"}
    fields |= {"every": "100", "rest_s": "2.5", "keep": ""}
    more = {"job": '{"options": {"verify": "full"}}'}
    answer = visitor.post("/watches/new", form(**fields, **more))
    assert answer.status_code == 303, answer.text
    page = visitor.get(answer.headers["location"].removeprefix("/ui"))
    assert Page(page.text).faults() == []
    watch = Watches(service.database).watch(answer.headers["location"].rpartition("/")[2])
    assert (watch.name, watch.directory) == ("mine", folder)
    assert [watch.spec.get(name) for name in ("every", "rest_s", "order", "keep")] == [100, 2.5, "oldest", None]
    assert watch.spec["job"]["options"] == {"verify": "full"}
    assert folder in page.text
    assert visitor.post("/watches/new", form(**fields, **more)).headers["location"] == answer.headers["location"]  # it is one
    assert visitor.post(f"/watches/{watch.id}/remove").status_code == 303
    assert visitor.get(f"/watches/{watch.id}").status_code == 404
    assert {"watch", "watch.remove"} <= acts(service)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target.path": "/x/no-place"}, "has no {iteration} in it"),
        ({"directory": "/elsewhere/run"}, "/elsewhere"),
        ({"every": "x"}, "every"),
        ({"job": "[1]"}, "is no object"),
        ({"job": "{"}, "what else the job says"),
        ({"job": '{"options": {"verify": "perhaps"}}'}, "verify"),
    ],
)
def test_a_watch_that_cannot_be_is_refused_and_the_form_keeps_what_was_typed(
    service: Console, visitor: Visitor, wrong: dict[str, str], words: str
) -> None:
    folder = str(service.shared / "team-a" / "refused")
    said = form(**({"directory": folder, "target.path": f"{folder}-out/{{iteration}}", "name": "typed"} | wrong))
    answer = visitor.post("/watches/new", said)
    assert 400 <= answer.status_code < 500
    assert words in Page(answer.text).text
    assert 'value="typed"' in answer.text
    assert not [one for one in Watches(service.database).watches() if one.name == "typed"]


def test_iterations_are_shown_with_their_jobs_and_why_one_is_none(service: Console, visitor: Visitor) -> None:
    watch, job = watched(service), service.job_of()
    looks = Looks(service.database, "executor-1")
    while (held := looks.take()) is not None and held.id != watch:
        looks.release(held, 600, None)
    assert held is not None
    looks.take_iteration(held, Taken(100, "content", job, "/out/100", "plan"), Sighting(100, "taken", "s", NOON, NOON))
    looks.saw(held, Sighting(200, "incomplete", "s", NOON, NOON, {"type": "SourceError", "message": f"a file is cut short {EVIL}"}))
    looks.release(held, 600, {"type": "SourceError", "message": EVIL, "facts": [EVIL]})
    page = Page(visitor.get(f"/watches/{watch}").text)
    assert page.faults() == []
    assert page.text.index("200") < page.text.index("100")
    assert f"a file is cut short {EVIL}" in page.text
    assert ("a", {"href": f"/ui/jobs/{job}"}) in page.elements
    assert Page(visitor.get("/runs").text).faults() == []


def test_a_batch_is_shown_job_by_job_and_canceled(service: Console, visitor: Visitor) -> None:
    batch = batched(service, name=EVIL[:200])
    page = Page(visitor.get(f"/batches/{batch}").text)
    assert page.faults() == []
    assert "blocked" in page.text
    assert EVIL[:200] in page.text
    assert EVIL[:200] in Page(visitor.get("/runs").text).text
    assert visitor.post(f"/batches/{batch}/cancel").status_code == 303
    assert Batches(service.store).batch(batch).states == {"canceled": 2}
    assert "batch.cancel" in acts(service)


@pytest.mark.parametrize("kind", ["watches", "batches"])
def test_another_tenants_run_is_one_that_does_not_exist(service: Console, visitor: Visitor, kind: str) -> None:
    theirs = watched(service, "team-b", "of team-b") if kind == "watches" else batched(service, "team-b", "of team-b")
    assert (visitor.get(f"/{kind}/{theirs}").status_code, visitor.get(f"/{kind}/{'0' * 26}").status_code) == (404, 404)
    assert visitor.post(f"/{kind}/{theirs}/{'remove' if kind == 'watches' else 'cancel'}").status_code == 404
    assert "of team-b" not in visitor.get("/runs").text
    if kind == "watches":
        assert Watches(service.database).watch(theirs).name == "of team-b"
    else:
        assert Batches(service.store).batch(theirs).state == "running"


def test_pages_lead_to_older_batches_and_iterations(service: Console, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convsvc.service.console.runs.PAGE", 2)
    made = [batched(service) for _ in range(3)]
    first = Page(visitor.get("/runs").text)
    older = next(attrs["href"] for tag, attrs in first.elements if tag == "a" and attrs.get("rel") == "next")
    assert made[-1] in str(first.elements)
    assert made[0] not in str(first.elements)
    assert made[0] in visitor.get(str(older).removeprefix("/ui")).text


def test_who_only_reads_sees_no_button_that_writes(service: Console, visit: Callable[..., Visitor]) -> None:
    visitor = visit(service.token("team-a", "jobs:read").text)
    watch, batch = watched(service), batched(service)
    for path, button in (("/runs", "/ui/watches/new"), (f"/watches/{watch}", "/remove"), (f"/batches/{batch}", "/cancel")):
        assert button not in visitor.get(path).text
