"""Directories of a local Ray: one that a killed process left is removed by the next, one that is in use stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from convsvc.engine.ray_home import PREFIX, RayHome, sweep

HOLD = """
import sys, time
from pathlib import Path
from convsvc.engine.ray_home import RayHome
home = RayHome(Path(sys.argv[1]))
print(home.path, flush=True)
time.sleep(60)
"""


@pytest.fixture
def abandoned(tmp_path: Path) -> Path:
    """What a process left that was killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        home = Path(holder.stdout.readline().strip())
        sweep(tmp_path)
        assert home.is_dir(), "it was in use"
        holder.kill()
    return home


def test_what_a_killed_process_left_is_removed_by_the_next(abandoned: Path, tmp_path: Path) -> None:
    (abandoned / "session").mkdir()
    (abandoned / "session" / "raylet.log").write_text("much")
    home = RayHome(tmp_path)
    assert not abandoned.exists()
    assert home.path.is_dir()
    home.remove()
    home.remove()
    assert not home.path.exists()


def test_what_has_no_lock_or_is_somebody_elses_is_left(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "in-use").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
    new = tmp_path / f"{PREFIX}new"
    new.mkdir()
    sweep(tmp_path)
    assert new.is_dir()
    assert (elsewhere / "in-use").exists()
