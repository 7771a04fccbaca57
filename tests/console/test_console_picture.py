"""The picture of a job's plan in the console: its data is what the command line draws, for whom may see the job."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from convsvc.pictures.of_plan import picture_of_plan
from convsvc.plan.planner import make_plan
from tests.console.conftest import NUMBERS, Console, Visitor
from tests.console.test_console_pages import Page
from tests.tiny_checkpoints import write_llama


@pytest.fixture(scope="module")
def source(service: Console) -> str:
    return str(write_llama(service.shared / "team-a" / "drawn", layers=2))


def job_of(service: Console, source: str, **more: Any) -> tuple[str, dict[str, Any]]:
    target = {"format": "mindspeed-llm", "path": str(service.shared / "team-a" / f"drawn-{next(NUMBERS)}"), "tensor_parallel_size": 2}
    spec = {"source": {"format": "huggingface", "path": source}, "target": target, **more}
    answer = service.request("POST", "/jobs", service.token("team-a").text, json=spec)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"]), spec


def test_a_jobs_picture_is_that_of_its_plan(service: Console, visitor: Visitor, source: str) -> None:
    job, spec = job_of(service, source)
    assert f'href="/ui/jobs/{job}/picture"' in visitor.get(f"/jobs/{job}").text
    page = visitor.get(f"/jobs/{job}/picture")
    assert f'data-source="/ui/jobs/{job}/picture.json"' in page.text
    for name in re.findall(r'"/ui(/static/picture\.[^"]+)"', page.text):
        assert visitor.get(name).status_code == 200
    assert visitor.get(f"/jobs/{job}/picture.json").json() == json.loads(json.dumps(picture_of_plan(make_plan(spec))))


def test_a_picture_speaks_the_visitors_language(service: Console, visitor: Visitor, source: str) -> None:
    job, _ = job_of(service, source)
    said = {
        language: words_of(visitor.get(f"/jobs/{job}/picture", headers={"Accept-Language": language}).text) for language in ("en", "zh")
    }
    assert said["en"] == {}
    assert said["zh"]["Tensors"] == "张量"


def words_of(page: str) -> dict[str, str]:
    (attributes,) = [attributes for _, attributes in Page(page).elements if attributes.get("id") == "picture"]
    found: dict[str, str] = json.loads(str(attributes["data-words"]))
    return found


def test_a_forms_picture_is_drawn_before_it_is_submitted(service: Console, visitor: Visitor, source: str) -> None:
    said = {"source.path": source, "source.format": "huggingface", "target.path": f"{source}-out", "target.format": "mindspeed-llm"}
    assert 'formaction="/ui/new/picture"' in visitor.post("/new/plan", said).text
    answer = visitor.post("/new/picture", said)
    data = answer.text.partition('id="picture-data">')[2].partition("</script>")[0]
    assert [side["format"] for side in json.loads(data)["sides"]] == ["huggingface", "mindspeed-llm"]
    refused = visitor.post("/new/picture", said | {"target.tensor_parallel_size": "3"})
    assert refused.status_code == 422
    assert "3" in Page(refused.text).text


def test_what_cannot_be_drawn_says_why(service: Console, visitor: Visitor, source: str) -> None:
    gone, _ = job_of(service, f"{source}-gone")
    answer = visitor.get(f"/jobs/{gone}/picture.json", headers={"Accept": "application/json"})
    assert answer.status_code >= 400
    assert "drawn-gone" in answer.json()["detail"]


def test_a_hostile_name_in_a_picture_is_data(service: Console, visitor: Visitor) -> None:
    folder = service.shared / "team-a" / "<" / "script><img src=x onerror=alert(1)><!--"  # as a path it ends a script
    folder.parent.mkdir()
    said = {
        "source.path": str(write_llama(folder, layers=1)),
        "source.format": "huggingface",
        "target.path": f"{folder}-out",
        "target.format": "mindspeed-llm",
    }
    answer = visitor.post("/new/picture", said)
    assert "onerror" in answer.text
    page = Page(answer.text)
    assert page.faults() == ["inline script"]  # the data, which no browser runs: it is of another type


def test_a_picture_does_not_look_outside_the_tenants_roots(service: Console, visit: Callable[..., Visitor], source: str) -> None:
    theirs = visit(service.token("team-b").text)
    said = {"source.path": source, "source.format": "huggingface", "target.path": f"{source}-b", "target.format": "mindspeed-llm"}
    answer = theirs.post("/new/picture", said)
    assert answer.status_code >= 400
    assert "picture-data" not in answer.text
