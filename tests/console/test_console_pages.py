"""What the pages show, and how: whatever comes from outside is text, the words are all in the catalogue."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest
import tomllib

from convsvc.notes import Kind
from convsvc.pictures.page import STATIC as PICTURES
from convsvc.service.cluster_views import ExecutorView
from convsvc.service.console import rendering
from convsvc.service.console.cluster_page import health_of
from convsvc.service.console.languages import catalogue
from convsvc.service.console.timeline import throughput
from convsvc.service.store.claims import Claim, Claims, PlannedTask
from convsvc.service.store.looking import Moved
from convsvc.service.store.states import JOB_STATES, TaskState
from convsvc.service.store.watches import FORGOTTEN
from convsvc.service.watching.sighting import SightingState
from tests.console.conftest import NUMBERS, Console, Visitor

HOSTILE = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "'-alert(1)-'", "javascript:alert(1)",
    "{{ 7*7 }}{% x %}", "</pre></div>", "<!--",
    "]]>", "&lt;b&gt;", "\u202egnp.exe", "]</title><script>", "' onmouseover='alert(1)",
)  # fmt: skip
NOON = datetime(2024, 5, 31, 12, tzinfo=timezone.utc)
EVIL = " ".join(HOSTILE)
# Elements and attributes that a page of ours may have; scripts and styles are files.
RUNS = re.compile(r"on[a-z]+|style|srcdoc|formaction")


class Page(HTMLParser):
    """The page as a browser reads it: its elements, and the text in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = "".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def faults(self) -> list[str]:
        """What could run, or be shown, other than as text."""
        found = [f"<{tag} {name}>" for tag, attrs in self.elements for name in attrs if RUNS.fullmatch(name)]
        found += [f"<{tag}>" for tag, attrs in self.elements if tag in {"img", "iframe", "style", "object", "embed", "base"}]
        found += [
            "inline script" for tag, attrs in self.elements if tag == "script" and not str(attrs.get("src", "")).startswith("/ui/static/")
        ]
        links = [str(attrs[name]) for _, attrs in self.elements for name in ("href", "src", "action") if name in attrs]
        return found + [link for link in links if not link.startswith(("/ui", "#"))]


def claimed(service: Console, job: str) -> tuple[Claims, Claim]:
    claims = Claims(service.database, "executor <i>1</i>", engine="inline")
    claims.heartbeat()
    while (claim := claims.claim()) and claim.job_id != job:
        pass
    assert claim is not None
    return claims, claim


@pytest.fixture
def hostile_job(service: Console) -> str:
    """A job of which every text is hostile, and that has failed."""
    token = service.token("team-a", name=EVIL[:150])
    folder = f"{next(NUMBERS)}" + EVIL.replace("/", "_")
    body = service.job("team-a", folder, name=EVIL[:200], model_type=EVIL[:200]) | {"labels": {"a": "b"}, "priority": 100}
    answer = service.request("POST", "/jobs", token.text, json=body)
    assert answer.status_code == 201, answer.text
    job = str(answer.json()["id"])
    claims, claim = claimed(service, job)
    notes = [{"kind": kind, "text": f"{kind} {EVIL}"} for kind in ("advice", "changed", "lost", EVIL)]
    plan = {"model_type": EVIL, "fingerprint": EVIL, "notes": notes, "target": {"files": EVIL, "tensors": 1}, "tasks": 2, EVIL: EVIL}
    claims.planned(claim, EVIL, plan, [PlannedTask(0, f"layer {EVIL}", 100), PlannedTask(1, EVIL, 50)])
    claims.phase(claim, "write", 2)
    claims.task_started(claim, 0, 1, EVIL)
    claims.task_failed(claim, 0, {"type": EVIL, "message": EVIL, "facts": [EVIL], "do": EVIL}, will_retry=False)
    for line in HOSTILE:
        claims.log(claim, line, level="error", task=0)
    claims.fail(claim, {"type": EVIL[:60], "message": EVIL, "facts": [EVIL], "do": EVIL})
    return job


@pytest.mark.parametrize("path", ["", "/live", "/tasks/0", "/tasks/1"])
def test_whatever_a_jobs_texts_are_they_are_shown_as_text(visitor: Visitor, hostile_job: str, path: str) -> None:
    answer = visitor.get(f"/jobs/{hostile_job}{path}")
    assert answer.status_code == 200
    page = Page(answer.text)
    assert page.faults() == []
    assert EVIL in page.text


def test_a_list_shows_hostile_names_and_filters_as_text(visitor: Visitor, hostile_job: str) -> None:
    for name in ("source", "target", "name", "model_type"):
        answer = visitor.get("/jobs", params={name: HOSTILE[0], "state": "failed"})
        assert answer.status_code == 200
        assert Page(answer.text).faults() == []
    assert EVIL[:200] in Page(visitor.get("/jobs").text).text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_an_address_is_never_taken_for_markup(visitor: Visitor, hostile: str) -> None:
    for answer in (
        visitor.get("/jobs", params={"label": hostile}),
        visitor.get("/jobs", params={hostile: "x"}),
        visitor.get(f"/jobs/{hostile}"),
    ):
        assert Page(answer.text).faults() == []
        assert answer.status_code in (404, 422)
    assert Page(visitor.get("/login", params={"next": hostile}, follow_redirects=True).text).faults() == []


def test_json_for_scripts_is_no_page(visitor: Visitor, hostile_job: str) -> None:
    lines = visitor.get(f"/jobs/{hostile_job}/log.json?level=error&tail=true")
    assert lines.headers["content-type"] == "application/json"
    assert [line["message"] for line in lines.json()][-len(HOSTILE) - 1 : -1] == list(HOSTILE)
    assert visitor.get(f"/jobs/{hostile_job}/tasks.json").json() == {"states": "fp", "first": 0, "again": []}


def test_what_is_lost_comes_first_among_the_notes(visitor: Visitor, hostile_job: str) -> None:
    page = visitor.get(f"/jobs/{hostile_job}").text
    kinds = re.findall(r'<h3 class="note (\w+)"', page)
    assert kinds == ["lost", "changed", "advice", "other"]


def test_the_command_gives_a_shell_the_jobs_json_whatever_is_in_it(visitor: Visitor, hostile_job: str, service: Console) -> None:
    text = Page(visitor.get(f"/jobs/{hostile_job}").text).text
    command = text[text.index("convsvc submit - <<'JOB'") :]
    command = command[: command.index("\nJOB\n") + 5].replace("convsvc submit -", "cat", 1)
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == service.store.job(hostile_job).spec


def test_filters_are_kept_in_the_address_and_a_page_leads_to_the_next(service: Console, visitor: Visitor) -> None:
    token = service.token("team-a")
    for _ in range(52):
        body = service.job("team-a", f"many-{next(NUMBERS)}", name="many & more", labels={"of": "many"})
        assert service.request("POST", "/jobs", token.text, json=body).status_code == 201
    first = visitor.get("/jobs?label=of%3Dmany&name=many+%26")
    link = re.search(r'href="(/ui/jobs\?[^"]*cursor=[^"]*)" rel="next"', first.text)
    assert first.text.count('<th scope="row">') == 50
    assert link is not None
    second = visitor.http.get(link[1].replace("&amp;", "&"))
    assert second.text.count('<th scope="row">') == 2
    assert 'name="label" type="search" value="of=many"' in second.text


@pytest.mark.parametrize("query", ["state=lost", "cursor=x", "label=%00", "nme=x", "name=" + "x" * 300, 'label=a"b', "name=%00"])
def test_a_filter_that_there_is_not_is_refused_not_ignored(visitor: Visitor, query: str) -> None:
    assert visitor.get(f"/jobs?{query}").status_code == 422


def words_of_templates() -> set[str]:
    found: set[str] = set()
    for path in (rendering.FOLDER / "templates").glob("*.html"):
        text = path.read_text()
        found |= {one or other for one, other in re.findall(r"""_\((?:"([^"]+)"|'([^']+)')""", text)}
    found |= set(re.findall(r'tell\("([^"]+)"', (PICTURES / "picture.js").read_text()))
    # Sentences that are chosen where the page is made.
    executors = [ExecutorView(state, state, "", "", None, NOON, NOON) for state in ("idle", "away", "silent")]
    return found | {text for cluster in (executors, []) for _, text, _ in health_of(cluster, 1)}


# Said of values: states, phases, notes, modes.
OF_VALUES = {
    *JOB_STATES,
    *get_args(TaskState),
    *get_args(Kind),
    "convert",
    "verify",
    "compare",
    "idle",
    "busy",
    "away",
    "silent",
    "left",
    "usable",
    "expired",
    "revoked",
    "write",
    "seal",
    "reopen",
    "publish",
    *get_args(SightingState),
    FORGOTTEN,
    "newest",
    "oldest",
}


def test_every_word_of_the_pages_is_in_the_catalogue_and_no_other_is() -> None:
    assert set(catalogue("zh")) == words_of_templates() | OF_VALUES


def test_a_translation_has_the_values_of_what_it_translates() -> None:
    for text, translated in catalogue("zh").items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", translated)), text


def test_the_language_is_the_browsers_until_another_is_chosen(visitor: Visitor) -> None:
    assert '<html lang="zh-Hans">' in visitor.get("/jobs", headers={"Accept-Language": "fr, zh-CN;q=0.8, en;q=0.5"}).text
    assert '<html lang="en">' in visitor.get("/jobs", headers={"Accept-Language": "fr"}).text
    answer = visitor.post("/language", {"language": "zh", "next": "/ui/jobs?state=failed"})
    assert answer.headers["location"] == "/ui/jobs?state=failed"
    assert "作业" in visitor.get("/jobs", headers={"Accept-Language": "en"}).text


def test_no_page_asks_anybody_else_for_anything() -> None:
    for path in [*(rendering.FOLDER / "templates").glob("*"), *rendering.STATIC.glob("*.*")]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path.name
        assert "https://" not in text, path.name


def test_each_vendored_library_has_its_licence_beside_it() -> None:
    vendored = {path.name.partition(".")[0] for path in (rendering.STATIC / "vendor").iterdir()}
    assert vendored
    assert all((rendering.STATIC / "vendor" / f"{name}.LICENSE").read_text().strip() for name in vendored)


def test_all_files_of_the_pages_are_in_the_package() -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    globs = declared["convsvc.service.console"]
    packed = {path for pattern in globs for path in rendering.FOLDER.glob(pattern)}
    there = {path for path in rendering.FOLDER.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert packed >= there


def test_the_bytes_of_a_plot_add_up_whatever_its_tasks_did() -> None:
    begin = datetime(2024, 1, 1, tzinfo=timezone.utc)
    tasks = [Moved(begin + timedelta(seconds=n * 0.7), begin + timedelta(seconds=n * 0.9 + 2), 1000 + n) for n in range(40)]
    tasks.append(Moved(begin, begin, 5000))  # so short that the clock did not see it
    seconds, rates = throughput(tasks)
    assert sum(rates) * (seconds[1] - seconds[0]) == pytest.approx(sum(task.size_bytes for task in tasks), rel=1e-3)


def test_nothing_of_the_console_is_imported_to_submit_a_job() -> None:
    named = "any(name.startswith(('jinja2', 'convsvc.service.console')) for name in sys.modules)"
    code = f"import sys, convsvc.cli.submit, convsvc.client; sys.exit({named})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
