"""The Dockerfile, without a Docker engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith(("#", " "))]


def arguments(instruction: str) -> list[str]:
    return [words[1] for words in INSTRUCTIONS if words[0] == instruction]


def test_the_base_image_is_pinned() -> None:
    (base,) = arguments("FROM")
    assert re.fullmatch(r"python:3\.11[\w.-]*", base)


def test_it_does_not_run_as_root() -> None:
    (user,) = arguments("USER")
    assert int(user.partition(":")[0]) > 0
    assert [words[0] for words in INSTRUCTIONS].index("USER") < [words[0] for words in INSTRUCTIONS].index("ENTRYPOINT")


def test_what_it_copies_exists_and_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for copy in arguments("COPY"):
        for source in copy.split()[:-1]:
            assert (ROOT / source).exists()
            assert source in allowed


def test_it_installs_the_pinned_versions() -> None:
    install = next(run for run in arguments("RUN") if "pip install" in run)
    assert "--constraint constraints.txt" in install


def test_its_health_check_asks_a_route_that_the_app_has() -> None:
    app = pytest.importorskip("convsvc.service.app")
    (check,) = arguments("HEALTHCHECK")
    found = re.search(r"http://127\.0\.0\.1:8765(/\w+)", check)
    assert found is not None
    assert found[1] in app.create_app().openapi()["paths"]


def test_every_requirement_is_pinned_once_and_none_names_a_place() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), lines
    names = [line.partition("==")[0].lower().replace("_", "-") for line in lines]
    assert len(names) == len(set(names))
