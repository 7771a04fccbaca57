"""A token is sent to the service, encrypted or within this machine, and appears nowhere else."""

from __future__ import annotations

import logging
import pickle
import traceback
from pathlib import Path

import httpx
import pytest

from convsvc.cli.main import main
from convsvc.client import AsyncClient, Client
from convsvc.client.address import find_address
from convsvc.errors import ServiceError
from convsvc.service.errors import BadAddress, InsecureAddress
from tests.service.flaky_proxy import drop, flaky_proxy, say

TOKEN = "cvs_not-a-real-one_0123456789"
NOBODY = "http://127.0.0.1:9"
KINDS = pytest.mark.parametrize("kind", [Client, AsyncClient])


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONVSVC_URL", "CONVSVC_TOKEN", "CONVSVC_ALLOW_INSECURE"):
        monkeypatch.delenv(name, raising=False)


@KINDS
@pytest.mark.parametrize("url", ["http://convsvc.example.org", "http://10.0.0.7:8765", "http://127.0.0.1.example.org", "http://0.0.0.0:1"])
def test_a_token_is_not_sent_in_plain_to_another_machine(kind: type[Client | AsyncClient], url: str) -> None:
    with pytest.raises(InsecureAddress, match="everybody on the way could read it") as refused:
        kind(url, TOKEN)
    assert "https" in str(refused.value.do)
    assert TOKEN not in str(refused.value)
    kind(url, TOKEN, allow_insecure=True)
    kind(url)  # without a token there is nothing to lose
    kind(url.replace("http:", "https:"), TOKEN)


@pytest.mark.parametrize("url", ["http://localhost:8765", "http://127.0.0.1", "http://[::1]:8765", "http://127.8.7.6"])
def test_within_this_machine_a_token_needs_no_encryption_and_goes_past_every_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.org:3128")
    with Client(url, TOKEN) as client:
        transport = client._http._transport_for_url(httpx.URL(url))
        assert transport is client._http._transport
        assert client._http._transport_for_url(httpx.URL("http://elsewhere.example.org")) is not transport


def test_url_and_token_come_from_the_environment_where_they_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_address() == find_address("http://127.0.0.1:8765/", token=None)
    monkeypatch.setenv("CONVSVC_URL", "http://convsvc.example.org")
    monkeypatch.setenv("CONVSVC_TOKEN", TOKEN + "\n")
    with pytest.raises(InsecureAddress):
        find_address()
    monkeypatch.setenv("CONVSVC_ALLOW_INSECURE", "1")
    assert (find_address().url, find_address().token) == ("http://convsvc.example.org", TOKEN)
    assert find_address("https://other.example.org", "mine").token == "mine"


@pytest.mark.parametrize("url", ["127.0.0.1:8765", "ftp://host", "http://", "http://host:port", "http://[::1", "file:///etc/passwd"])
def test_what_is_no_address_is_said_at_once(url: str) -> None:
    with pytest.raises(BadAddress, match="is no address of a service"):
        Client(url)


@pytest.mark.parametrize("token", [f"{TOKEN} x", f"{TOKEN}\r\nX-Evil: 1", f"{TOKEN}é", f"{TOKEN}\0"])
def test_a_token_that_is_none_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(BadAddress) as refused:
        Client(NOBODY, token)
    assert TOKEN not in str(refused.value)


def test_no_text_about_a_client_or_its_failures_shows_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for talkative in ("httpcore", "httpx"):  # a service that ran in this process has told them to be quiet
        caplog.set_level(logging.DEBUG, logger=talkative)
    with (
        flaky_proxy(NOBODY, drop, say("500 Broken"), say("401 Who"), say("200 OK", body="[]")) as flaky,
        Client(flaky.url, TOKEN) as client,
    ):
        texts = [repr(client), str(client), repr(client._address), repr(client._http.headers)]
        for ask in (client.version, client.version, client.jobs):
            with pytest.raises(ServiceError) as caught:
                ask()
            texts += ["".join(traceback.format_exception(caught.value)), repr(caught.value.as_dict()), repr(pickle.dumps(caught.value))]
    assert all(seen.headers["authorization"] == f"Bearer {TOKEN}" for seen in flaky.seen)
    assert "httpcore" in caplog.text
    assert TOKEN not in caplog.text + "".join(texts)


def test_a_password_in_the_url_is_not_shown() -> None:
    with Client("http://me:secret@127.0.0.1:9", retry_for_s=0) as client, pytest.raises(ServiceError) as caught:
        client.version()
    assert "secret" not in repr(client) + str(caught.value) + repr(caught.value.details)


def test_the_command_line_takes_the_token_from_a_file_and_says_what_to_do_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    body = '{"detail": "this service asks for a token", "kind": "Unauthorized", "status": 401, "do": "send the header"}'
    answer = say("401 Who", "Content-Type: application/problem+json", body=body)
    with flaky_proxy(NOBODY, answer, answer) as flaky:
        assert main(["jobs", "--url", flaky.url, "--token-file", str(file)]) == 8
        with_one = capsys.readouterr().err
        assert main(["jobs", "--url", flaky.url]) == 8
        without = capsys.readouterr().err
    assert [seen.headers.get("authorization") for seen in flaky.seen] == [f"Bearer {TOKEN}", None]
    assert "no longer good" in with_one
    assert "none was given" in without
    assert all("convsvc token create" in text and "CONVSVC_TOKEN" in text and TOKEN not in text for text in (with_one, without))


@pytest.mark.parametrize(("content", "said"), [("", "empty"), ("é", "plain text"), (f"{TOKEN} two", "no token has")])
def test_a_token_file_without_a_token_is_an_error_not_an_anonymous_request(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    assert main(["jobs", "--url", NOBODY, "--token-file", str(file)]) == 2
    assert said in capsys.readouterr().err


def test_no_command_takes_a_token_on_its_command_line() -> None:
    from convsvc.cli.main import COMMANDS

    options = {option for lazy in COMMANDS.values() for parameter in lazy.load().params for option in parameter.opts}
    assert "--token-file" in options
    assert "--token" not in options
