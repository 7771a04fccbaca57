"""`Roots` by themselves: what lies in them, as JSON, and what opening costs."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter

import pytest

from convsvc.errors import PathRefused, error_from_dict
from convsvc.roots import ANYWHERE, RootedPath, Roots
from tests.security.paths.world import World

LIMIT_S = 100e-6


def test_a_root_is_in_itself_but_no_target(world: World) -> None:
    assert world.roots.check(str(world.tenant)) == str(world.tenant)
    with pytest.raises(PathRefused, match=r"target\.path is not in an allowed directory"):
        world.roots.check(str(world.tenant), "target.path", inside=True)


def test_what_does_not_exist_yet_is_judged_by_what_does(world: World) -> None:
    assert world.roots.check(f"{world.tenant}/a/b/c", inside=True) == f"{world.tenant}/a/b/c"
    (world.tenant / "link").symlink_to(world.outside)
    with pytest.raises(PathRefused):
        world.roots.check(f"{world.tenant}/link/a/b/c")


def test_the_whole_file_system_can_be_a_root(world: World, mechanism: str) -> None:
    os.close(Roots(("/",)).open(str(world.outside / "secret"), os.O_RDONLY))


def test_roots_travel_as_json() -> None:
    for roots in (ANYWHERE, Roots(("/a", "/b"))):
        assert Roots.from_json(roots.as_json()) == roots
    for wrong in (None, "/a", [1], {"paths": []}):
        with pytest.raises(TypeError, match="must be a list of paths"):
            Roots.from_json(wrong)  # type: ignore[arg-type]  # what a damaged call would hold


def test_a_refusal_says_which_path_and_not_where_a_link_leads(world: World) -> None:
    (world.tenant / "link").symlink_to(world.outside / "secret")
    with pytest.raises(PathRefused) as refused:
        RootedPath(str(world.tenant / "link"), world.roots).look()
    assert "outside/secret" not in str(refused.value)
    assert refused.value.http_status == 403
    assert isinstance(error_from_dict(refused.value.as_dict()), PathRefused)


def test_what_is_outside_is_refused_alike_whether_it_exists_or_not(world: World, mechanism: str) -> None:
    texts = set()
    for name in ("secret", "nothing", "folder/kept", "nothing/at/all"):
        link = world.tenant / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(world.outside / name)
        with pytest.raises(PathRefused) as refused:
            RootedPath(str(link), world.roots).exists()
        texts.add(str(refused.value))
    assert len(texts) == 1


def test_opening_costs_little(world: World, mechanism: str) -> None:
    """The best of several rounds, as the machine may be busy: planning opens thousands of files."""
    path = RootedPath(str(world.tenant / "hf" / "config.json"), world.roots)
    best = min(seconds_each(path) for _ in range(20))
    assert best < LIMIT_S, f"{best * 1e6:.0f} us a file"


def seconds_each(path: RootedPath, times: int = 50) -> float:
    began = perf_counter()
    for _ in range(times):
        os.close(path.open(os.O_RDONLY))
    return (perf_counter() - began) / times


def test_a_rooted_path_is_no_path_for_open(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        os.open(RootedPath(str(tmp_path)), os.O_RDONLY)  # type: ignore[arg-type]  # which is the point
