"""A world for each test, and both ways of opening beneath a root."""

from __future__ import annotations

from pathlib import Path

import pytest

from convsvc.roots import beneath
from tests.security.paths.world import World, copy_world, make_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def world(template: World, tmp_path: Path) -> World:
    return copy_world(template, tmp_path / "world")


@pytest.fixture(params=["openat2", "descriptor"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How files are opened beneath a root: by the kernel's own check, and by the one for kernels without it."""
    if request.param == "descriptor":
        monkeypatch.setattr(beneath, "has_openat2", lambda: False)
    elif not beneath.has_openat2():
        pytest.skip("this kernel has no openat2, or does not let us use it")
    return str(request.param)
