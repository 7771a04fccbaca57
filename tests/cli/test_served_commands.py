"""The commands that talk to a service, against a real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convsvc.cli.convert_ckpt_v2 import main as drop_in
from convsvc.cli.main import main

Captured = pytest.CaptureFixture[str]


def test_a_job_is_submitted_watched_and_looked_at(job_file: str, service_url: str, tmp_path: Path, capsys: Captured) -> None:
    url = ["--url", service_url]
    assert main(["submit", job_file, "--watch", "--idempotency-key", "one", *url]) == 0
    captured = capsys.readouterr()
    job_id = captured.out.strip()
    assert "planned: llama2" in captured.err
    assert captured.err.rstrip().endswith("succeeded")
    assert (tmp_path / "mcore/latest_checkpointed_iteration.txt").exists()

    assert main(["submit", job_file, "--idempotency-key", "one", *url]) == 0
    assert capsys.readouterr().out.strip() == job_id

    for listing in (["jobs"], ["ps", "--state", "succeeded", "--tenant", "default"]):
        assert main([*listing, *url]) == 0
        head, row = capsys.readouterr().out.splitlines()
        assert head.split() == ["ID", "STATE", "PROGRESS", "AGE", "DURATION", "TENANT", "MODEL", "NAME", "TARGET"]
        assert row.split()[:2] == [job_id, "succeeded"]
    assert main(["jobs", "--state", "failed", "--json", *url]) == 0
    assert json.loads(capsys.readouterr().out) == []

    assert main(["status", job_id, *url]) == 0
    shown = capsys.readouterr().out
    assert "succeeded" in shown
    assert f"{tmp_path}/mcore.conversion-report.json" in shown
    assert main(["status", job_id, "--json", *url]) == 0
    job = json.loads(capsys.readouterr().out)
    report = json.loads(Path(job["report"]).read_text())
    assert [note["text"] for note in job["notes"]] == [text for texts in report["notes"].values() for text in texts]
    assert all(f"{note['kind']}: {note['text']}" in shown for note in job["notes"])
    assert main(["inspect-job", job_id, "--json", *url]) == 0
    assert {task["state"] for task in json.loads(capsys.readouterr().out)["tasks"]} == {"done"}

    assert main(["logs", job_id, *url]) == 0
    log = capsys.readouterr().out
    assert main(["logs", job_id, "--follow", *url]) == 0
    assert capsys.readouterr().out == log
    assert main(["logs", job_id[:22], "--tail", "2", *url]) == 0
    assert capsys.readouterr().out.splitlines() == log.splitlines()[-2:]
    assert main(["logs", job_id, "--task", "0", "--json", *url]) == 0
    assert {json.loads(line)["task"] for line in capsys.readouterr().out.splitlines()} <= {0}
    assert main(["watch", job_id, *url]) == 0
    assert capsys.readouterr().err.rstrip().endswith("succeeded")
    assert main(["wait", job_id, "--json", *url]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "succeeded"
    assert main(["retry", job_id, *url]) != 0
    assert job_id in capsys.readouterr().err


def test_a_job_that_fails_ends_the_watch_as_it_ended(job_file: str, checkpoint: Path, service_url: str, capsys: Captured) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"not a checkpoint")
    status = main(["submit", job_file, "--watch", "--url", service_url])
    captured = capsys.readouterr()
    assert status == 3, captured.err
    assert "model.safetensors" in captured.err
    job_id = captured.out.strip()
    assert main(["wait", job_id, "--url", service_url]) == 3
    assert main(["logs", job_id, "--url", service_url]) == 0
    assert "error" in capsys.readouterr().out
    assert main(["retry", job_id, "--url", service_url]) == 0


def test_a_wrong_job_is_refused_with_its_fields(service_url: str, capsys: Captured) -> None:
    status = main(["submit", "--set", "source.format=huggingface", "--set", "target.tensor_size=2", "--url", service_url])
    assert status == 2
    err = capsys.readouterr().err
    assert err.startswith("convsvc: invalid job: ")
    assert "source.path: is required" in err


def test_an_unknown_job_is_told(service_url: str, capsys: Captured) -> None:
    for command in ("status", "watch", "logs", "wait", "cancel", "retry"):
        assert main([command, "nosuchjob", "--url", service_url]) != 0
        assert "nosuchjob" in capsys.readouterr().err


def test_the_drop_in_lets_the_service_work(checkpoint: Path, service_url: str, tmp_path: Path, capsys: Captured) -> None:
    flags = ["--load-dir", str(checkpoint), "--save-dir", str(tmp_path / "mg"), "--model-type-hf", "llama2"]
    assert drop_in([*flags, "--submit", service_url]) == 0
    assert "submitted " in capsys.readouterr().out
    assert (tmp_path / "mg/latest_checkpointed_iteration.txt").exists()
    assert drop_in([*flags, "--submit", service_url]) == 2
    assert "convert-ckpt-v2: error: " in capsys.readouterr().err


def test_no_service_is_told_with_what_to_do(job_file: str, capsys: Captured) -> None:
    assert main(["submit", job_file, "--url", "http://127.0.0.1:9"]) == 8
    assert "convsvc serve" in capsys.readouterr().err


def test_flags_win_over_the_job_file(job_file: str, service_url: str, capsys: Captured) -> None:
    assert main(["submit", job_file, "--priority", "7", "--json", "--url", service_url]) == 0
    assert json.loads(capsys.readouterr().out)["priority"] == 7
    # The service allows no webhook here: that it is refused shows that it was sent.
    assert main(["submit", job_file, "--webhook", "https://hooks.example.org/x", "--url", service_url]) != 0
    assert "webhook" in capsys.readouterr().err


def test_the_service_plans_and_lists_what_this_machine_would(job_file: str, service_url: str, capsys: Captured) -> None:
    answers = []
    for where in ([], ["--on-service", "--url", service_url]):
        assert main(["plan", job_file, "--json", *where]) == 0
        plan = json.loads(capsys.readouterr().out)
        plan["needs"].pop("free_bytes_available")  # others write to this disk too
        assert not plan.pop("problems", [])  # what would make the job fail is the service's to say
        assert main(["families", "--json", *where]) == 0
        names = [family["name"] for family in json.loads(capsys.readouterr().out)]
        answers.append((plan, names))
    assert answers[0] == answers[1]


def test_the_service_verifies_and_compares_as_this_machine_does(
    job_file: str, checkpoint: Path, service_url: str, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["convert", job_file, "--engine", "inline"]) == 0
    there, both = ["--on-service", "--url", service_url], [str(checkpoint), str(tmp_path / "mcore")]
    for status in (0, 6):
        for command in (["verify", job_file], ["verify", *both], ["verify", *both, "--json"]):
            answers = []
            for where in ([], there):
                capsys.readouterr()
                assert main([*command, *where]) == status
                answers.append(capsys.readouterr().out)
            assert answers[0] == answers[1]
        weights = checkpoint / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 0x01
        weights.write_bytes(data)
    assert main(["verify", str(checkpoint), str(tmp_path / "nowhere"), *there]) == 3

    capsys.readouterr()
    assert main(["jobs", "--url", service_url]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-2:] == ["MODE", "TARGET"]
    assert [row.split()[-2] for row in reversed(rows)] == [*["verify", "compare", "compare"] * 2, "compare"]
    assert main(["status", rows[1].split()[0], "--url", service_url]) == 0
    shown = capsys.readouterr().out
    assert "to compare: it writes nothing" in shown
    assert "differs: " in shown
