"""Webhooks, against real HTTP servers on this machine: what they are told, what they may do to the caller, and who may be called."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from convsvc.errors import JobError, NoSpace, ServiceError
from convsvc.service.errors import NoSuchJob
from convsvc.service.executor.executor import Executor
from convsvc.service.settings import Settings
from convsvc.service.store.claims import Claims
from convsvc.service.store.database import Database
from convsvc.service.store.jobs import Store
from convsvc.service.store.models import DeliveryRow, TallyRow
from convsvc.service.store.retention import Retention, purge
from convsvc.service.webhooks.calling import MOST_ATTEMPTS, Deliverer, pause_s, signature
from convsvc.service.webhooks.hosts import Webhooks, is_public, parse_hosts, resolve, webhooks_from
from convsvc.spec import parse_job

DOCS = Path(__file__).parents[2] / "docs" / "observability.md"
SECRET = "a secret of this test, long enough"
HERE = Webhooks(parse_hosts("hooks.test, 127.0.0.1"), SECRET)


@dataclass
class Receiver:
    """An HTTP server that answers with the statuses it is given, one after the other, then 200."""

    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"thanks"
    wait: threading.Event | None = None
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    calls: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def __enter__(self) -> Receiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.calls.append((self.path, {name.lower(): value for name, value in self.headers.items()}, sent))
                if receiver.wait:
                    receiver.wait.wait(20)
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                for name, value in {"Content-Length": str(len(receiver.body)), **receiver.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(receiver.body)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A caller that has hung up is what some tests are about."""

        self._server = Server((self.host, 0), Handler)
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.wait:
            self.wait.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, host: str = "hooks.test", path: str = "/done?token=abc") -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"


def to_this_machine(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database is enough for most of this; the last test is about the other."""
    return sqlite_url


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def end_job(store: Store, claims: Claims, a_job: Callable[..., dict[str, Any]], stand_in: Any) -> Callable[..., str]:
    """Submits a job with a webhook and runs it to its end."""

    def end(url: str, **runner: Any) -> str:
        job_id = store.submit(parse_job(a_job(webhook={"url": url})))[0].id
        assert Executor(claims, stand_in).run_one(stand_in(**runner))
        return job_id

    return end


@pytest.fixture
def deliverer(database: Database) -> Callable[..., Deliverer]:
    """Makes one that tries again at once, and trusts no certificate."""
    usual = {"resolver": to_this_machine, "pause": lambda attempt: 0.0, "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}

    def make(webhooks: Webhooks = HERE, **settings: Any) -> Deliverer:
        return Deliverer(database, webhooks, **{**usual, **settings})

    return make


def delivery(database: Database) -> DeliveryRow:
    with database.writing() as session:  # what is read there can be looked at afterwards
        return session.scalars(select(DeliveryRow)).one()


def make_older(database: Database, **columns: timedelta) -> None:
    now = datetime.now(timezone.utc)
    with database.writing() as session:
        session.execute(update(DeliveryRow).values({name: now - age for name, age in columns.items()}))


def log_of(store: Store, job_id: str) -> list[str]:
    return [line.message for line in store.logs(job_id) if "webhook" in line.message]


def test_the_end_of_a_job_is_told_with_the_job_and_a_signature(
    receiver: Receiver, end_job: Any, deliverer: Any, store: Store, database: Database
) -> None:
    job_id = end_job(receiver.url())
    assert deliverer().deliver_due() == 1
    [(path, headers, body)] = receiver.calls
    assert path == "/done?token=abc"
    told = json.loads(body)
    assert (told["event"], told["job"]["id"], told["job"]["state"]) == ("job.succeeded", job_id, "succeeded")
    assert told["job"]["result"] == {"target": "/shared/out", "tensors": 7}
    at, _, digest = headers["x-convsvc-signature"].removeprefix("t=").partition(",v1=")
    assert hmac.compare_digest(digest, hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest())
    assert headers["host"] == f"hooks.test:{receiver.port}"
    assert headers["user-agent"].startswith("convsvc/")
    assert headers["x-convsvc-delivery"] == str(delivery(database).id)
    assert (delivery(database).state, delivery(database).attempts) == ("delivered", 1)
    assert log_of(store, job_id) == ["webhook to hooks.test: attempt 1 delivered"]


def test_what_is_told_is_what_the_service_shows_of_the_job(
    receiver: Receiver, end_job: Any, deliverer: Any, settings: Settings, serve_app: Any
) -> None:
    job_id = end_job(receiver.url())
    deliverer().deliver_due()
    with serve_app(settings) as url:
        shown = httpx.get(f"{url}/jobs/{job_id}").json()
    assert json.loads(receiver.calls[0][2])["job"] == shown


def test_a_job_that_fails_is_told_with_its_error(receiver: Receiver, end_job: Any, deliverer: Any) -> None:
    def fail(task: int) -> None:
        raise NoSpace("the disk is full")

    end_job(receiver.url(), before=fail)
    deliverer().deliver_due()
    told = json.loads(receiver.calls[0][2])
    assert (told["event"], told["job"]["error"]["message"]) == ("job.failed", "the disk is full")


def test_a_queued_job_that_is_canceled_is_told_too_and_so_is_its_second_run(
    receiver: Receiver, deliverer: Any, store: Store, claims: Claims, a_job: Any, stand_in: Any
) -> None:
    job_id = store.submit(parse_job(a_job(webhook={"url": receiver.url()})))[0].id
    store.cancel(job_id)
    deliverer().deliver_due()
    store.retry(job_id)
    Executor(claims, stand_in).run_one(stand_in())
    deliverer().deliver_due()
    told = [json.loads(body) for _, _, body in receiver.calls]
    assert [(each["event"], each["job"]["run"]) for each in told] == [("job.canceled", 1), ("job.succeeded", 2)]


def test_a_failed_job_that_is_canceled_for_its_bytes_is_told_and_counted_once(
    receiver: Receiver, deliverer: Any, store: Store, claims: Claims, database: Database, end_job: Any
) -> None:
    def full(task: int) -> None:
        if task:
            raise NoSpace("the disk is full")

    job_id = end_job(receiver.url(), before=full)
    assert store.cancel(job_id).state == "canceling"
    claim = claims.claim()
    assert claim is not None
    claims.stop(claim)
    assert store.job(job_id).state == "canceled"
    deliverer().deliver_due()
    assert [json.loads(body)["event"] for _, _, body in receiver.calls] == ["job.failed"]
    with database.reading() as session:
        ended = select(TallyRow.label, TallyRow.value).where(TallyRow.name == "jobs_ended")
        assert session.execute(ended).all() == [("failed", 1.0)]


def test_a_webhook_that_no_executor_may_send_says_so_once_and_is_sent_when_one_may(
    receiver: Receiver, deliverer: Any, end_job: Any, database: Database, store: Store
) -> None:
    job_id = end_job(receiver.url())
    unable = deliverer(Webhooks())
    unable.deliver_due()
    assert log_of(store, job_id) == [], "another executor may send it"
    make_older(database, next_at=timedelta(seconds=60))
    for _ in range(2):
        unable.deliver_due()
    (line,) = log_of(store, job_id)
    assert line.startswith("webhook to hooks.test: no executor may send it: CONVSVC_WEBHOOK_HOSTS and CONVSVC_WEBHOOK_SECRET are not set")
    assert "the webhook was not sent" in store.job(job_id).notes[-1]["text"]
    assert receiver.calls == []
    assert deliverer().deliver_due() == 1
    assert len(receiver.calls) == 1


def test_an_executor_that_may_call_nobody_looks_after_what_is_not_sent(
    deliverer: Any, end_job: Any, database: Database, store: Store
) -> None:
    job_id = end_job("http://hooks.test/")
    make_older(database, next_at=timedelta(seconds=60))
    unable = deliverer(Webhooks(), poll_s=0.01)
    unable.start()
    deadline = time.monotonic() + 20
    while not log_of(store, job_id):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    unable.stop()


def test_a_job_does_not_wait_for_ever_for_a_webhook_that_nobody_sends(end_job: Any, database: Database, store: Store) -> None:
    job_id = end_job("http://hooks.test/")
    assert purge(database, Retention(jobs_days=0)).jobs == 0
    make_older(database, created_at=timedelta(days=15))
    assert purge(database, Retention(jobs_days=0)).jobs == 1
    with pytest.raises(NoSuchJob):
        store.job(job_id)


def test_whoever_sees_the_job_does_not_see_the_secrets_in_its_webhooks_url(store: Store, a_job: Any) -> None:
    url = "https://hooks.test:8443/services/T0SECRET?token=S3CRET"
    job_id = store.submit(parse_job(a_job(webhook={"url": url})))[0].id
    for shown in (store.job(job_id), store.jobs().jobs[0]):
        assert shown.spec["webhook"]["url"] == "https://hooks.test:8443/..."
    plain = store.submit(parse_job(a_job("/shared/other", webhook={"url": "https://hooks.test/"})))[0].id
    assert store.job(plain).spec["webhook"]["url"] == "https://hooks.test"


def test_a_job_without_a_webhook_tells_nobody(deliverer: Any, store: Store, claims: Claims, a_job: Any, stand_in: Any) -> None:
    store.submit(parse_job(a_job()))
    Executor(claims, stand_in).run_one(stand_in())
    assert deliverer().deliver_due() == 0


def test_a_call_that_fails_is_made_again_and_is_the_same_delivery(
    receiver: Receiver, end_job: Any, deliverer: Any, store: Store, database: Database
) -> None:
    receiver.statuses = [500, 200]
    job_id = end_job(receiver.url())
    calling = deliverer()
    assert calling.deliver_due() == 1
    assert (delivery(database).state, delivery(database).error) == ("waiting", "the answer was 500")
    assert calling.deliver_due() == 1
    assert delivery(database).state == "delivered"
    first, second = receiver.calls
    assert first[2] == second[2]
    assert first[1]["x-convsvc-delivery"] == second[1]["x-convsvc-delivery"]
    assert log_of(store, job_id)[0] == "webhook to hooks.test: attempt 1 retried: the answer was 500"


def test_after_a_failure_there_is_a_pause_and_after_eight_it_is_given_up(end_job: Any, deliverer: Any, database: Database) -> None:
    end_job("http://hooks.test:9/nobody")  # the discard port: nobody listens
    patient = deliverer(pause=pause_s)
    assert [patient.deliver_due() for _ in range(2)] == [1, 0], "the second attempt came at once"
    row = delivery(database)
    assert 4 < (row.next_at - row.created_at).total_seconds() < 15
    with database.writing() as session:
        session.get(DeliveryRow, row.id).next_at = row.created_at  # type: ignore[union-attr]  # it was just added
    hasty = deliverer()
    assert [hasty.deliver_due() for _ in range(MOST_ATTEMPTS)] == [1] * (MOST_ATTEMPTS - 1) + [0]
    assert (delivery(database).state, delivery(database).attempts) == ("failed", MOST_ATTEMPTS)
    assert "ConnectError" in str(delivery(database).error)


def test_pauses_grow_to_an_hour_and_all_attempts_take_about_two(database: Database) -> None:
    pauses = [pause_s(attempt) for attempt in range(1, MOST_ATTEMPTS)]
    assert pauses == sorted(pauses)
    assert max(pauses) == 3600
    assert 3600 < sum(pauses) < 3 * 3600


def test_a_redirect_is_not_followed(end_job: Any, deliverer: Any, database: Database) -> None:
    with Receiver() as elsewhere, Receiver(statuses=[307], headers={"Location": elsewhere.url("127.0.0.1")}) as receiver:
        end_job(receiver.url())
        deliverer().deliver_due()
        assert elsewhere.calls == []
    assert delivery(database).error == "the answer was 307, a redirect, which is not followed"


def test_a_receiver_that_does_not_answer_costs_a_bounded_time_and_holds_up_nobody_else(
    deliverer: Any, store: Store, claims: Claims, a_job: Any, stand_in: Any, database: Database
) -> None:
    with Receiver(wait=threading.Event()) as silent, Receiver() as prompt:
        for number, receiver in enumerate((silent, prompt)):
            store.submit(parse_job(a_job(f"/shared/{number}", webhook={"url": receiver.url()})))
            Executor(claims, stand_in).run_one(stand_in())
        assert deliverer(timeout_s=3).deliver_due() == 2
        assert (len(silent.calls), len(prompt.calls)) == (1, 1)
    with database.reading() as session:
        ends = session.execute(select(DeliveryRow.state, DeliveryRow.error).order_by(DeliveryRow.id)).all()
    assert [tuple(end) for end in ends] == [("waiting", "no answer within 3 s"), ("delivered", None)]


def test_a_drip_of_bytes_does_not_stretch_the_time(end_job: Any, deliverer: Any, database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stopped = threading.Event()

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                while not stopped.wait(0.05):
                    try:
                        connection.sendall(b"H")  # never a whole status line, but always something new
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        end_job(f"http://hooks.test:{server.getsockname()[1]}/")
        deliverer(timeout_s=0.5).deliver_due()
        stopped.set()
        thread.join(10)
    assert delivery(database).error == "no answer within 0.5 s"


def test_an_endless_answer_is_not_read_to_its_end(end_job: Any, deliverer: Any, database: Database) -> None:
    with Receiver(body=b"x" * (8 << 20)) as receiver:
        end_job(receiver.url())
        deliverer().deliver_due()
    assert delivery(database).state == "delivered"


def test_a_process_that_dies_in_mid_call_leaves_it_to_the_next(
    receiver: Receiver, end_job: Any, deliverer: Any, database: Database
) -> None:
    end_job(receiver.url())
    assert len(deliverer()._take()) == 1  # taken, and never heard of again
    assert deliverer().deliver_due() == 0, "it was called by two at once"
    with database.writing() as session:
        row = session.scalars(select(DeliveryRow)).one()
        row.next_at = row.created_at  # a minute later
    assert deliverer().deliver_due() == 1
    assert (delivery(database).state, delivery(database).attempts) == ("delivered", 2)


def test_a_late_word_of_an_attempt_that_was_taken_for_dead_changes_nothing(end_job: Any, deliverer: Any, database: Database) -> None:
    end_job("http://hooks.test:9/nobody")
    late = deliverer()
    [taken] = late._take()
    with database.writing() as session:
        session.scalars(select(DeliveryRow)).one().attempts += 1  # another took it after that
    late._settle(taken, None)
    assert delivery(database).state == "waiting"


def test_the_thread_of_the_executor_calls_what_is_due_and_ends(
    receiver: Receiver, end_job: Any, deliverer: Any, database: Database
) -> None:
    called = threading.Event()

    def note(host: str, port: int) -> list[str]:
        called.set()
        return ["127.0.0.1"]

    running = deliverer(resolver=note, poll_s=0.05)
    running.start()
    end_job(receiver.url())
    assert called.wait(20)
    running.stop()
    assert delivery(database).state == "delivered"
    idle = deliverer(Webhooks())
    idle.start()  # nothing may be called: there is no thread
    idle.stop()


REFUSED = [
    ("http://elsewhere.test/", "webhooks to elsewhere.test are not allowed"),
    ("http://hooks.test.evil.test/", "webhooks to hooks.test.evil.test are not allowed"),
    ("http://evilhooks.test/", "webhooks to evilhooks.test are not allowed"),
    ("http://hooks.test@evil.test/", "holds a user name or password"),
    ("http://evil.test#@hooks.test/", "webhooks to evil.test are not allowed"),
    ("http://evil.test\\@hooks.test/", ""),
    ("http://169.254.169.254/latest/meta-data", "webhooks to 169.254.169.254 are not allowed"),
    ("http://127.1/", "webhooks to 127.1 are not allowed"),
    ("http://2130706433/", "webhooks to 2130706433 are not allowed"),
    ("http://0x7f000001/", "webhooks to 0x7f000001 are not allowed"),
    ("http://[::1]/", "webhooks to ::1 are not allowed"),
    ("http://[::ffff:127.0.0.2]/", "are not allowed"),
    ("http://127.0.0.2/", "webhooks to 127.0.0.2 are not allowed"),
    ("http://localhost/", "webhooks to localhost are not allowed"),
    ("http:///nowhere", "must begin with http:// or https:// and a host"),
]


@pytest.mark.parametrize(("url", "why"), REFUSED)
def test_a_host_that_is_not_listed_is_refused_before_the_job_is_taken(url: str, why: str, a_job: Any) -> None:
    job = parse_job(a_job(webhook={"url": url}))
    with pytest.raises(JobError, match=r"webhook\.url: ") as caught:
        HERE.check(job)
    assert why in caught.value.message


@pytest.mark.parametrize("url", ["http://hooks.test/x", "https://HOOKS.test:8443/x", "http://127.0.0.1/", "http://hooks.test./x"])
def test_a_host_that_is_listed_is_taken(url: str, a_job: Any) -> None:
    HERE.check(parse_job(a_job(webhook={"url": url})))


def test_a_star_stands_for_names_below_and_not_for_the_name_itself() -> None:
    hosts = parse_hosts("*.example.com")
    assert hosts.check("https://a.b.example.com/").host == "a.b.example.com"
    for url in ("https://example.com/", "https://badexample.com/"):
        with pytest.raises(ServiceError, match="not allowed"):
            hosts.check(url)


def test_a_service_without_a_list_or_a_secret_takes_no_webhook(settings: Settings, serve_app: Any, a_job: Any, store: Store) -> None:
    for webhooks in (Webhooks(), replace(HERE, secret="")):
        with serve_app(replace(settings, webhooks=webhooks)) as url:
            answer = httpx.post(f"{url}/jobs", json=a_job(webhook={"url": "http://hooks.test/"}))
        assert (answer.status_code, answer.json()["kind"]) == (422, "JobError")
        assert "this service calls none" in answer.json()["detail"]
    assert store.jobs().jobs == []


def test_the_environment_says_who_may_be_called_and_what_calls_are_signed_with() -> None:
    found = webhooks_from({"CONVSVC_WEBHOOK_HOSTS": " CI.example.com, 10.0.0.0/8,", "CONVSVC_WEBHOOK_SECRET": f"{SECRET}\n"})
    assert found.enabled
    assert str(found.hosts) == "ci.example.com, 10.0.0.0/8"
    assert SECRET not in repr(found)
    assert not webhooks_from({}).enabled
    with pytest.raises(ServiceError, match="neither a host's name nor an address"):
        webhooks_from({"CONVSVC_WEBHOOK_HOSTS": "*"})
    with pytest.raises(ServiceError, match="too short") as caught:
        webhooks_from({"CONVSVC_WEBHOOK_SECRET": "short"})
    assert "short" not in str(caught.value).replace("too short", "")


NOT_PUBLIC = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
    "240.0.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:169.254.169.254", "2002:7f00:1::",
    "64:ff9b::a9fe:a9fe", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public_are_known(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("leads_to", ["127.0.0.2", "169.254.169.254", "::1", "::ffff:127.0.0.2", "10.0.0.1"])
def test_a_listed_name_that_leads_inside_is_not_called(
    leads_to: str, receiver: Receiver, end_job: Any, deliverer: Any, database: Database
) -> None:
    end_job(receiver.url())
    deliverer(resolver=lambda host, port: [leads_to]).deliver_due()
    assert receiver.calls == []
    assert delivery(database).error == f"hooks.test leads to {leads_to}, which is not public"


def test_a_name_that_changes_its_address_is_called_at_the_one_that_was_looked_at(end_job: Any, deliverer: Any, database: Database) -> None:
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    with Receiver() as looked_at, Receiver(host="127.0.0.2") as rebound:
        # Both on one port, as they would be for one URL, need not be: had the name been asked again, the call would have failed.
        end_job(looked_at.url())
        deliverer(resolver=lambda host, port: answers.pop(0)).deliver_due()
        assert (len(looked_at.calls), rebound.calls) == (1, [])
    assert answers == [["127.0.0.2"]], "the name was asked for twice"


def test_a_host_taken_off_the_list_is_not_called_any_more(receiver: Receiver, end_job: Any, deliverer: Any, database: Database) -> None:
    end_job(receiver.url())
    deliverer(Webhooks(parse_hosts("other.test, 127.0.0.1"), SECRET)).deliver_due()
    assert receiver.calls == []
    assert delivery(database).error == "webhooks to hooks.test are not allowed"


def test_a_name_that_cannot_be_found_is_tried_again(end_job: Any, deliverer: Any, database: Database) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    end_job("http://hooks.test/")
    deliverer(resolver=unknown).deliver_due()
    assert (delivery(database).state, delivery(database).error) == ("waiting", "gaierror: [Errno -2] Name or service not known")


def test_the_systems_own_resolver_knows_this_machine() -> None:
    assert "127.0.0.1" in resolve("localhost", 80)


def test_no_proxy_of_the_environment_is_asked(
    receiver: Receiver, end_job: Any, deliverer: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    end_job(receiver.url())
    deliverer().deliver_due()
    assert delivery(database).state == "delivered"


def test_the_certificate_must_be_the_names_although_an_address_is_called(
    tmp_path: Path, end_job: Any, deliverer: Any, database: Database
) -> None:
    server, trusting = certificate_for("hooks.test", tmp_path)
    with Receiver(tls=server) as receiver:
        end_job(receiver.url())
        deliverer(verify=trusting).deliver_due()
        assert delivery(database).error is None
        assert receiver.calls[0][1]["host"] == f"hooks.test:{receiver.port}"


def test_another_names_certificate_is_refused(tmp_path: Path, end_job: Any, deliverer: Any, database: Database) -> None:
    server, trusting = certificate_for("other.test", tmp_path)
    with Receiver(tls=server) as receiver:
        end_job(receiver.url())
        deliverer(verify=trusting).deliver_due()
        assert receiver.calls == []
    assert "certificate is not valid for 'hooks.test'" in str(delivery(database).error)


def test_neither_the_secret_nor_the_urls_path_is_in_a_log(
    receiver: Receiver, end_job: Any, deliverer: Any, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.statuses = [500]
    with caplog.at_level("DEBUG", "convsvc"):
        job_id = end_job(receiver.url())
        deliverer().deliver_due()
    lines = [*log_of(store, job_id), *(record.getMessage() for record in caplog.records if record.name.startswith("convsvc"))]
    assert any("attempt 1 retried" in line for line in lines)
    assert not [line for line in lines if SECRET in line or "token=abc" in line]


def test_a_signature_is_of_the_body_and_the_time() -> None:
    one = signature(SECRET, b"{}", 1)
    assert len({one, signature(SECRET, b"{ }", 1), signature(SECRET, b"{}", 2), signature(SECRET + "x", b"{}", 1)}) == 4
    assert one == signature(SECRET, b"{}", 1)


def test_the_check_in_the_docs_believes_our_calls_and_no_others(receiver: Receiver, end_job: Any, deliverer: Any) -> None:
    [snippet] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    known: dict[str, Any] = {}
    exec(compile(snippet, str(DOCS), "exec"), known)
    end_job(receiver.url())
    deliverer().deliver_due()
    _, headers, body = receiver.calls[0]
    ours, header = known["is_ours"], headers["x-convsvc-signature"]
    assert ours(SECRET, header, body)
    assert not ours("another secret, also long enough", header, body)
    assert not ours(SECRET, header, body + b" ")
    assert not ours(SECRET, signature(SECRET, body, int(time.time()) - 3600), body), "an old call was believed"
    assert not any(ours(SECRET, wrong, body) for wrong in ("", "t=,v1=", "v1=0", header.replace("v1=", "v0="), "t=x,v1=y"))


def test_two_deliverers_on_one_postgresql_take_different_calls(postgres_url: str, a_job: Any) -> None:
    database = Database(postgres_url)
    store = Store(database)
    for number in range(10):
        job_id = store.submit(parse_job(a_job(f"/shared/{number}", webhook={"url": "http://hooks.test/"})))[0].id
        store.cancel(job_id)
    taken: list[list[int]] = [[], []]
    both = threading.Barrier(2)

    def take(place: int) -> None:
        deliverer = Deliverer(database, HERE)
        both.wait(20)
        while found := deliverer._take():
            taken[place] += [delivery.id for delivery in found]

    threads = [threading.Thread(target=take, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    database.close()
    assert len(set(taken[0] + taken[1])) == len(taken[0] + taken[1]) == 10


def certificate_for(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server, and of a client that trusts it."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))
