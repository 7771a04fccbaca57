"""A person with a real Chromium: enters a token, submits a job by form, watches it to its end, cancels, retries."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from convsvc.service.executor.presence import Presence
from convsvc.service.executor.supervised import executor_command
from convsvc.service.planning import summary_of_plan
from convsvc.service.store.claims import Claims, PlannedTask
from convsvc.service.store.database import Database
from convsvc.service.store.ledger import Finished, Started
from convsvc.spec import parse_job
from tests.console.chromium import chromium, findings, look_like, until
from tests.console.conftest import Console, Start
from tests.console.crowd import crowd
from tests.service.conftest import postgres
from tests.service.postgres_server import Postgres
from tests.tiny_checkpoints import write_llama

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["postgres"]
HERE = Path(__file__).parent
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
AXE = (HERE / "axe" / "axe.min.js").read_text()
TASKS = 5000
# $CONVSVC_PICTURES=1 puts the pictures of docs/console.md there; else they are taken, and thrown away.
KEEP = os.environ.get("CONVSVC_PICTURES") == "1"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, start: Start) -> Iterator[Console]:
    """A service with the real planner, on each kind of database."""
    url = request.getfixturevalue("tables_on_postgres") if request.param == "postgresql" else ""
    with start(plan=summary_of_plan, url=url) as running:
        write_llama(running.shared / "team-a" / "hf", layers=2)
        yield running


@pytest.fixture(scope="module")
def tables_on_postgres(postgres: Postgres) -> Iterator[str]:
    """A PostgreSQL database with all tables and no rows."""
    url = postgres.new()
    database = Database(url)
    database.migrate()
    database.close()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="module")
def browser(service: Console, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser for all tests of this file, whose visitor has entered his token in the login page."""
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        look_like(browser)
        browser.get(service.url + "/")
        until(lambda: "/ui/login?next=" in browser.current_url, "the login page")
        assert not findings(browser, AXE)
        one(browser, "#token").send_keys(service.token("team-a", "jobs:read", "jobs:write", "admin", name="somebody").text + "\n")
        until(lambda: one(browser, "#list"), "the list of jobs")
        yield browser


@pytest.fixture(autouse=True)
def nothing_is_complained_of(browser: Chrome) -> Iterator[None]:
    """No script failed, and the policy kept nothing back, on any page of the test."""
    browser.get_log("browser")
    yield
    # What was asked for when a page is left is given up: htmx says so.
    given_up = ("htmx:sendAbort", "htmx:afterRequest")
    said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    bad = [message for message in said if not any(event in message for event in given_up)]
    assert not bad, "\n".join(bad)


def one(browser: Chrome, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def text_of(browser: Chrome, selector: str) -> str:
    return str(one(browser, selector).text)


@contextmanager
def executor(service: Console) -> Iterator[None]:
    """A real one, whose engine is processes of this machine."""
    environment = os.environ | {"CONVSVC_DATABASE_URL": service.database.url}
    process = subprocess.Popen(executor_command("process", 1, None), env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def picture(browser: Chrome, name: str, tmp_path: Path) -> None:
    path = (PICTURES if KEEP else tmp_path) / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    browser.save_screenshot(str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


def click(browser: Chrome, selector: str) -> None:
    """As soon as it is there: what is shown anew at that moment is looked for again."""
    until(lambda: one(browser, selector).click() or True, selector)


def type_into(browser: Chrome, selector: str, text: str) -> None:
    """Until it stands there: a field that is shown anew meanwhile is typed into again."""

    def typed() -> bool:
        element = one(browser, selector)
        element.clear()
        element.send_keys(text)
        return bool(element.get_property("value") == text)

    until(typed, f"{text} in {selector}")


def big_job(service: Console, name: str) -> tuple[str, Callable[[], None], threading.Event]:
    """A job of 5,000 tasks, nearly half of them done; what runs it to its end once the event is set."""
    spec = service.job("team-a", name, name=name, priority=50)
    job = service.store.submit(parse_job(spec), caller=service.caller("team-a"))[0].id
    claims = Claims(service.database, "executor-1", engine="inline", lease_s=600)
    claims.heartbeat(Presence().as_dict())
    claim = claims.claim()
    assert claim is not None
    assert claim.job_id == job
    plan = {"model_type": "llama2", "tasks": TASKS, "fingerprint": "f", "target": {"files": 8, "tensors": 75}}
    notes = [{"kind": "advice", "text": "look at it"}, {"kind": "lost", "text": "one tensor"}]
    claims.planned(claim, "llama2", plan | {"notes": notes}, [PlannedTask(n, f"layer {n}", 1 << 20) for n in range(TASKS)])
    claims.phase(claim, "write", TASKS)
    tasks = range(TASKS)
    worked = [f"worker-{number % 4}" for number in tasks]
    claims.told(claim, [Started(number, 1 + (number % 50 == 7), worked[number]) for number in tasks[: TASKS // 2]])
    claims.told(claim, [Finished(number, 0.1, worked[number]) for number in tasks[: TASKS // 2 - 40]])
    ready = threading.Event()

    def run() -> None:
        ready.wait(120)
        claims.log(claim, "what came last", level="warning", task=3)
        claims.told(claim, [Started(number, 1, worked[number]) for number in tasks[TASKS // 2 :]])
        claims.told(claim, [Finished(number, 0.1, worked[number]) for number in tasks[TASKS // 2 - 40 :]])
        claims.phase(claim, "seal", 0, "seal")
        claims.succeed(claim, {"target": "/out", "tensors": 75, "notes": notes})

    return job, run, ready


def look_at_the_forms_picture(browser: Chrome) -> None:
    """Before the job is submitted, in a window of its own."""
    the_form = browser.current_window_handle
    click(browser, "#answer #do-picture")
    until(lambda: len(browser.window_handles) == 2, "a page of its own for the picture")
    browser.switch_to.window(next(handle for handle in browser.window_handles if handle != the_form))
    until(lambda: browser.find_elements("css selector", "#found button"), "the tensors of what the form says")
    assert "Files: 2," in text_of(browser, "#balance-1")
    browser.close()
    browser.switch_to.window(the_form)


def look_at_the_jobs_picture(browser: Chrome, tmp_path: Path) -> None:
    """From the job's page, and back to it."""
    click(browser, "#do-picture")
    until(lambda: browser.find_elements("css selector", "#found button"), "the tensors of the picture")
    click(browser, "#found button")
    until(lambda: "target: in 2 of 2 files" in text_of(browser, "#detail"), "the rank files of the tensor")
    click(browser, "#detail ul[aria-label='files of target'] button")
    until(lambda: "tensor rank 0" in text_of(browser, "#detail"), "the rank file")
    assert not findings(browser, AXE)
    browser.execute_script("window.scrollTo(0, 0)")
    picture(browser, "job-picture", tmp_path)
    look_like(browser, width=390, height=800, dark=True)
    assert not findings(browser, AXE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    look_like(browser)
    browser.back()


def test_a_job_by_form_is_refused_then_accepted_as_its_layout_fits_then_run(service: Console, browser: Chrome, tmp_path: Path) -> None:
    look_like(browser)
    browser.get(service.url + "/ui/new")
    # The folder is chosen among those of the tenant's roots.
    click(browser, "#browse-source")
    click(browser, "#browse li button")
    until(lambda: "hf/" in text_of(browser, "#browse"), "what lies in the root")
    click(browser, "#browse li button")
    click(browser, "#browse [data-choose$='/hf']")
    until(lambda: one(browser, "#source-format").get_property("value") == "huggingface", "the format that was found")
    until(lambda: "llama" in text_of(browser, "#inspected"), "what was found")
    type_into(browser, "#target-path", str(service.shared / "team-a" / "by-form"))
    one(browser, "#target-format").send_keys("mindspeed-llm")
    until(lambda: one(browser, "#target-tensor_parallel_size"), "the layout's fields")
    type_into(browser, "#target-tensor_parallel_size", "3")
    until(lambda: one(browser, "#does-not-fit"), "that it does not divide")
    type_into(browser, "#target-tensor_parallel_size", "2")
    until(lambda: one(browser, "#fits"), "that it fits")
    assert not findings(browser, AXE)
    picture(browser, "new-job", tmp_path)
    look_at_the_forms_picture(browser)
    click(browser, "#new button.main")
    until(lambda: one(browser, "#live"), "the job's page")
    until(lambda: one(browser, "#live").get_attribute("data-state") == "queued", "that it is queued")
    click(browser, "#do-cancel")
    until(lambda: browser.switch_to.alert, "the question").accept()
    until(lambda: one(browser, "#live").get_attribute("data-state") == "canceled", "that it is canceled")
    click(browser, "#do-retry")
    until(lambda: one(browser, "#live").get_attribute("data-state") == "queued", "that it is queued again")
    with executor(service):
        until(lambda: one(browser, "#live").get_attribute("data-state") == "succeeded", "the end, as a real executor works")
    until(lambda: browser.find_elements("css selector", "#report-details"), "the report")
    assert (service.shared / "team-a" / "by-form" / "latest_checkpointed_iteration.txt").is_file()
    look_at_the_jobs_picture(browser, tmp_path)
    click(browser, "#do-clone")
    until(lambda: one(browser, "#target-tensor_parallel_size").get_property("value") == "2", "the clone's form")


def test_a_jobs_page_is_live_to_its_end(service: Console, browser: Chrome, tmp_path: Path) -> None:
    look_like(browser)
    job, run, ready = big_job(service, "big")
    running = threading.Thread(target=run, daemon=True)
    running.start()
    browser.get(f"{service.url}/ui/jobs/{job}")
    until(lambda: one(browser, "#grid").get_attribute("data-count") == str(TASKS), "the grid of all tasks")
    until(lambda: one(browser, "#live").get_attribute("data-state") == "running", "that it runs")
    browser.execute_script("window.mark = 1")  # the page is not loaded anew
    ready.set()
    until(lambda: one(browser, "#live").get_attribute("data-state") == "succeeded", "the end")
    assert browser.execute_script("return window.mark") == 1
    running.join(60)
    until(lambda: "what came last" in text_of(browser, "#log"), "the last line")
    until(lambda: browser.find_elements("css selector", "#plot canvas"), "the plot")
    assert browser.find_elements("css selector", "h3.note")[0].text.startswith("lost")
    # With the keyboard alone.
    one(browser, "#grid").send_keys("\ue012\ue014\ue014")  # left: the first one; right, right
    until(lambda: "2" in text_of(browser, "#grid-says"), "the task that was chosen")
    one(browser, "#grid").send_keys("\n")
    until(lambda: "layer 2" in text_of(browser, "#task"), "the task")
    one(browser, "#log-level").send_keys("error")
    until(lambda: "what came last" not in text_of(browser, "#log"), "the log without warnings")
    assert not findings(browser, AXE)
    browser.execute_script("window.scrollTo(0, 0)")
    picture(browser, "job", tmp_path)
    look_like(browser, dark=True)
    assert not findings(browser, AXE)
    look_like(browser, width=390, height=800)
    assert not findings(browser, AXE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_a_training_run_is_watched_and_its_iterations_become_jobs(service: Console, browser: Chrome, tmp_path: Path) -> None:
    look_like(browser)
    run, out = service.shared / "team-a" / "run", service.shared / "team-a" / "of-the-run"
    run.mkdir()
    for iteration in (100, 200):
        write_llama(run / f"checkpoint-{iteration}", layers=1)
    browser.get(service.url + "/ui/watches/new")
    assert not findings(browser, AXE)
    for field, text in {"directory": str(run), "target.path": str(out), "rest_s": "0.2", "name": "a training run"}.items():
        type_into(browser, f"[name='{field}']", text)
    one(browser, "[name='source.format']").send_keys("huggingface")
    one(browser, "[name='target.format']").send_keys("mindspeed-llm")
    click(browser, "#new-watch button.main")
    until(lambda: "{iteration}" in text_of(browser, "#refused"), "why it is refused")
    assert all("422" in entry["message"] for entry in browser.get_log("browser"))
    type_into(browser, "[name='target.path']", f"{out}/{{iteration}}")
    click(browser, "#new-watch button.main")
    until(lambda: text_of(browser, "h1") == "a training run", "the watch's page")
    with executor(service):
        until(lambda: len(browser.find_elements("css selector", "#seen .badge.succeeded")) == 2, "both iterations' jobs")
    assert not findings(browser, AXE)
    picture(browser, "watch", tmp_path)
    look_like(browser, width=390, height=800, dark=True)
    assert not findings(browser, AXE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    click(browser, "#remove")
    until(lambda: browser.switch_to.alert, "the question").accept()
    until(lambda: text_of(browser, "h1") == "Whole runs", "the list")
    assert not findings(browser, AXE)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["100", "200"]


def test_a_list_of_ten_thousand_jobs_is_filtered_ticked_and_live(service: Console, browser: Chrome, tmp_path: Path) -> None:
    crowd(service.database, parse_job(service.job("team-a", "many", name="many")), service.caller("team-a"), 10_000)
    look_like(browser)
    browser.get(service.url + "/ui/jobs?name=many")
    until(lambda: len(browser.find_elements("css selector", "tbody tr")) == 50, "the first page")
    # In one step: the list may be shown anew between two.
    tick = "const box = document.querySelector('input[name=job]'); box.click(); return box.id"
    ticked = browser.execute_script(f"document.getElementById('list').dataset.old = '1'; {tick}")
    until(lambda: one(browser, "#list").get_attribute("data-old") is None, "the list anew")
    assert browser.execute_script("return document.getElementById(arguments[0]).checked", ticked)
    assert not findings(browser, AXE)
    picture(browser, "jobs", tmp_path)
    look_like(browser, dark=True)
    assert not findings(browser, AXE)
    picture(browser, "jobs-dark", tmp_path)
    look_like(browser, width=390, height=800)
    assert not findings(browser, AXE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    picture(browser, "jobs-phone", tmp_path)
    look_like(browser)
    click(browser, "#bulk-cancel")
    until(lambda: browser.switch_to.alert, "the question").accept()
    until(lambda: "canceled" in text_of(browser, "main ul"), "what came of it")


@pytest.mark.parametrize("path", ["cluster", "admin"])
def test_the_cluster_and_the_administration_are_for_everybodys_eyes(service: Console, browser: Chrome, tmp_path: Path, path: str) -> None:
    look_like(browser)
    browser.get(f"{service.url}/ui/{path}")
    until(lambda: one(browser, "table"), "the page")
    assert not findings(browser, AXE)
    picture(browser, path, tmp_path)
    look_like(browser, dark=True)
    assert not findings(browser, AXE)
    look_like(browser, width=390, height=800)
    assert not findings(browser, AXE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_the_pages_are_read_in_chinese(service: Console, browser: Chrome) -> None:
    look_like(browser)
    browser.get(service.url + "/ui/jobs")
    click(browser, "button[name=language]")
    until(lambda: text_of(browser, "h1") == "作业", "the Chinese page")
    assert not findings(browser, AXE)
    click(browser, "button[name=language]")
    until(lambda: text_of(browser, "h1") == "Jobs", "the English page")


def test_a_part_that_is_not_looked_at_asks_for_nothing(service: Console, browser: Chrome) -> None:
    browser.get(service.url + "/ui/jobs")
    browser.execute_script(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true}); performance.clearResourceTimings()"
    )
    time.sleep(4)  # longer than the list waits
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
