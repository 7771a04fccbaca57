"""`convsvc tenant`, `convsvc token`, `convsvc audit`: what an administrator types."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from convsvc.cli.main import COMMANDS, cli, main
from convsvc.service.access.tokens import Tokens, id_of
from convsvc.service.store.database import Database
from convsvc.spec import parse_job

Run = Callable[..., tuple[int, str, str]]
GROUPS = ("token", "tenant")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/state/convsvc.db"


@pytest.fixture
def run(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line on a job store that does not exist yet: (status, stdout, stderr)."""
    monkeypatch.setenv("CONVSVC_DATABASE_URL", url)

    def run(line: str) -> tuple[int, str, str]:
        status = main(shlex.split(line))
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def as_json(run: Run, line: str) -> Any:
    status, out, err = run(f"{line} --json")
    assert status == 0, err
    return json.loads(out)


def subcommands() -> list[tuple[str, str]]:
    return [(group, name) for group in GROUPS for name in COMMANDS[group].load().commands]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("group", "name"), subcommands(), ids=" ".join)
def test_every_command_has_help_with_an_example_that_parses_and_json(group: str, name: str, run: Run) -> None:
    status, out, _ = run(f"{group} {name} --help")
    said = " ".join(out.split())
    assert status == 0
    assert "--json" in said
    command = COMMANDS[group].load().commands[name]  # type: ignore[attr-defined]
    words = shlex.split(command.epilog.removeprefix(f"Example: convsvc {group} {name}"))
    command.make_context(name, words, parent=click.Context(cli))


def test_a_token_is_printed_once_alone_on_stdout_and_is_good(run: Run, url: str) -> None:
    assert run("tenant create team-a --root /shared/a")[0] == 0
    status, out, err = run("token create --name ci --tenant team-a --expires-in-days 90")
    assert (status, id_of(out.strip()) is not None) == (0, True)
    assert "not shown again" in err
    assert out.strip() not in err
    database = Database(url)
    known = Tokens(database).find(id_of(out.strip()) or "")
    database.close()
    assert known is not None
    assert known.fits(out.strip())
    assert known.caller.scopes == {"jobs:read", "jobs:write"}
    assert out.strip().rpartition("_")[2] not in "".join(run("token list")[1:]) + "".join(run("token list --json")[1:])


def test_a_token_is_listed_as_it_stands(run: Run) -> None:
    run("tenant create team-a")
    tokens = [as_json(run, f"token create --name {name} --tenant team-a --scope admin") for name in ("one", "two")]
    assert tokens[0]["token"].startswith(f"cvs_{tokens[0]['id']}_")
    assert run(f"token revoke {tokens[0]['id']}")[:2] == (0, f"{tokens[0]['id']}  revoked\n")
    assert run(f"token revoke {tokens[0]['id']}")[0] == 0
    assert [(token["name"], token["state"]) for token in as_json(run, "token list")] == [("one", "revoked"), ("two", "usable")]
    assert as_json(run, "token list --tenant other") == []


def test_a_tenant_is_changed_field_by_field_and_limits_are_lifted_with_none(run: Run) -> None:
    made = as_json(run, "tenant create team-a --root /shared/a --root /shared/b/ --most-active-bytes 5TB --weight 2")
    assert (made["roots"], made["most_active_bytes"], made["weight"]) == (["/shared/a", "/shared/b"], 5 * 10**12, 2)
    changed = as_json(run, "tenant set team-a --most-active-bytes none --most-running-jobs 0 --requests-per-minute 60")
    assert changed == {**made, "most_active_bytes": None, "most_running_jobs": 0, "requests_per_minute": 60}
    assert as_json(run, "tenant set team-a --root /shared/c")["roots"] == ["/shared/c"]
    assert [tenant["name"] for tenant in as_json(run, "tenant list")] == ["team-a"]


def test_a_tenant_goes_with_its_tokens_but_not_while_its_jobs_run(run: Run, url: str) -> None:
    from convsvc.service.access.identity import Caller
    from convsvc.service.store.jobs import Store

    run("tenant create team-a")
    run("token create --name ci --tenant team-a")
    database = Database(url)
    job = {"source": {"format": "huggingface", "path": "/in"}, "target": {"format": "mindspeed-llm", "path": "/out"}}
    view, _ = Store(database).submit(parse_job(job), caller=Caller("ci", "team-a", frozenset({"jobs:write"})))
    status, _, err = run("tenant remove team-a")
    assert (status, "1 job" in err) == (2, True)
    Store(database).cancel(view.id)
    database.close()
    assert run("tenant remove team-a")[:2] == (0, "team-a  removed, with 1 token\n")
    assert as_json(run, "token list") == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("token create --name ci --tenant nobody", "there is no tenant nobody"),
        ("token create --name ci --tenant team-a --scope root", "is not one of"),
        ("token create --name ci --tenant team-a --expires-in-days 0", "expires-in-days"),
        ("token revoke 0123456789ab", "there is no token 0123456789ab"),
        ("tenant create team-a", "there is a tenant team-a"),
        ("tenant create Team/A", "is no tenant's name"),
        ("tenant create team-b --root shared", "shared is not absolute"),
        ("tenant set team-b", "there is no tenant team-b"),
        ("tenant set team-a --most-running-jobs -1", "neither a number"),
        ("tenant set team-a --requests-per-minute 0", "would shut the tenant out"),
        ("tenant remove team-b", "there is no tenant team-b"),
        ("token list --database-url postgresql+psycopg://me:hunter2@nowhere/x", "CONVSVC_DATABASE_URL"),
        ("serve --database-url postgresql+psycopg://me@nowhere/x?password=hunter2", "CONVSVC_DATABASE_URL"),
        ("executor --database-url postgresql+psycopg://me:hunter2@nowhere/x", "CONVSVC_DATABASE_URL"),
    ],
)
def test_what_cannot_be_is_told_with_status_2(run: Run, line: str, said: str) -> None:
    run("tenant create team-a")
    status, out, err = run(line)
    assert (status, out) == (2, "")
    assert said in err
    assert "hunter2" not in err


def test_the_audit_tells_who_typed_what(run: Run) -> None:
    run("tenant create team-a --root /shared/a")
    run("token create --name ci --tenant team-a")
    run("tenant set team-a --weight 3")
    found = as_json(run, "audit --tenant team-a")
    assert [entry["action"] for entry in found] == ["tenant.set", "token.create", "tenant.create"]
    assert all(entry["actor"].startswith("cli:") for entry in found)
    assert len(as_json(run, "audit --action tenant.set")) == 1
    assert "token.create" in run("audit --limit 2")[1]
