"""What can be asked of a service without its storage or its administrator: what lies at a path, and who one is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convsvc.cli.main import main
from convsvc.cli.terminal import shown

Captured = pytest.CaptureFixture[str]


def test_a_checkpoint_is_looked_at_through_the_service(checkpoint: Path, service_url: str, capsys: Captured) -> None:
    answers = []
    for where in ([], ["--on-service", "--url", service_url]):
        assert main(["inspect", str(checkpoint), "--json", *where]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert main(["inspect", f"{checkpoint}/nothing", "--on-service", "--url", service_url]) == 3
    assert main(["inspect", "relative", "--on-service", "--url", service_url]) == 2
    assert "write the path as it is on the service's machines" in capsys.readouterr().err


def test_whoever_asks_is_told_who_he_is(service_url: str, capsys: Captured) -> None:
    assert main(["whoami", "--url", service_url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Name      loopback", "Tenant    default"]
    assert lines[3] == "Roots     anywhere"
    assert lines[4] == "Limits    running jobs: 0 now, no limit"
    assert lines[6] == "          to be written: 0 B now, no limit"


def test_a_token_learns_its_roots_limits_and_what_counts_against_them(
    tmp_path: Path, service_url: str, job_file: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    database = ["--database-url", f"sqlite:///{tmp_path / 'jobs.db'}"]
    assert main(["tenant", "create", "team-a", "--root", str(tmp_path), "--root", "/no/such", "--most-queued-jobs", "3", *database]) == 0
    assert "/no/such is no directory on this machine" in capsys.readouterr().err
    assert main(["token", "create", "--name", "ci", "--tenant", "team-a", *database]) == 0
    monkeypatch.setenv("CONVSVC_TOKEN", capsys.readouterr().out.strip())
    assert main(["whoami", "--json", "--url", service_url]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["tenant"], found["scopes"]) == ("ci", "team-a", ["jobs:read", "jobs:write"])
    assert found["roots"] == [str(tmp_path), "/no/such"]
    assert found["limits"]["most_queued_jobs"] == 3
    assert found["use"] == {"most_running_jobs": 0, "most_queued_jobs": 0, "most_active_bytes": 0}
    assert main(["inspect", "/etc", "--on-service", "--url", service_url]) != 0
    assert "roots" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["mysql://me@db/jobs", "nonsense"])
def test_a_job_store_of_another_kind_is_refused_in_words(url: str, capsys: Captured) -> None:
    assert main(["tenant", "list", "--database-url", url]) == 2
    assert "give a URL like sqlite:////" in capsys.readouterr().err


def test_a_token_cannot_last_for_ever_and_a_day(tmp_path: Path, capsys: Captured) -> None:
    where = ["--database-url", f"sqlite:///{tmp_path / 'jobs.db'}"]
    assert main(["token", "create", "--name", "x", "--tenant", "y", "--expires-in-days", "1e300", *where]) == 2
    assert "36500" in capsys.readouterr().err


def test_half_a_character_is_written_out() -> None:
    assert shown("model-\udcff.safetensors") == "model-\\udcff.safetensors"
