"""Imports point one way: tensors <- encodings, formats, models, blocks <- families <- dialects <- plan <- execute <- engine <- service."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "convsvc"
SERVICE = 6
# A part may import parts of a lower rank, and itself. Those of one rank do not know each other, but for what NEIGHBOURS allows.
RANKS = {
    "errors": 0, "notes": 0, "loopback": 0, "units": 0, "job_text": 1, "tensors": 1, "spec": 1,
    "roots": 2, "encodings": 2, "formats": 2, "blocks": 2, "models": 2, "families": 2, "dialects": 2,
    "plan": 3, "pictures": 3, "execute": 4, "engine": 5, "conversion": SERVICE, "comparison": SERVICE,
    "service": SERVICE, "client": SERVICE, "cli": SERVICE + 1,
}  # fmt: skip
NEIGHBOURS = {
    "formats": {"roots"},
    "dialects": {
        "blocks",
        "encodings",
        "families",
        "formats",
        "models",
        "roots",
    },  # a dialect's layout is a family's tensors, placed on ranks, in files
    "models": {"blocks"},  # a family's table has blocks in it by default
    "blocks": {"models"},  # a block finds its sizes in a model's facts
    "families": {"blocks", "models"},
    "spec": {"job_text"},
    "pictures": {"plan"},
    "service": {"conversion", "comparison"},  # the executor runs a job as `convsvc convert` and `convsvc verify` do
    "client": {"service"},  # the views and errors alone; see below
}
HTTP_AND_SQL = {"fastapi", "starlette", "uvicorn", "httpx", "sse_starlette", "sqlalchemy", "alembic"}
FILES_AND_NETWORK = {"os", "io", "pathlib", "mmap", "socket", "shutil", "tempfile", "subprocess", "torch", "safetensors", "ray"}

# A kernel's memory may be the kernel's own (mmap without a file): `steps.alignment`.
PURE = ("tensors", "encodings", "blocks", "models", "families", "execute/steps", "execute/kernels")

Import = tuple[Path, int, str]


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file, wherever it stands; not those for the type checker alone."""
    tree = ast.parse(path.read_text())
    typing_only = {id(node) for block in ast.walk(tree) if is_type_checking(block) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((path, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            yield from ((path, node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
IMPORTS = [found for path in FILES for found in imports_of(path)]


def where(found: Import) -> str:
    path, line, name = found
    return f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}"


def test_there_is_something_to_look_at() -> None:
    assert len(IMPORTS) > 100
    assert {part_of(path) for path in FILES} <= set(RANKS), "a new part of the package needs its rank here"


def test_every_arrow_points_the_right_way() -> None:
    wrong = []
    for path, line, name in IMPORTS:
        here, there = part_of(path), [*name.split("."), ""][1]
        if not name.startswith("convsvc.") or there not in RANKS or there == here or there in NEIGHBOURS.get(here, ()):
            continue
        if RANKS[there] >= RANKS[here]:
            wrong.append(where((path, line, name)))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("packages", "highest"),
    [(HTTP_AND_SQL, SERVICE - 1), ({"ray"}, RANKS["engine"] - 1)],
    ids=["HTTP and SQL only in the service", "Ray only from the engine up"],
)
def test_what_a_part_may_not_know(packages: set[str], highest: int) -> None:
    wrong = [where(found) for found in IMPORTS if RANKS[part_of(found[0])] <= highest and found[2].partition(".")[0] in packages]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_know_no_file(room: str) -> None:
    inside = [found for found in IMPORTS if str(found[0].relative_to(PACKAGE)).startswith(f"{room}/")]
    assert inside, "the room has moved"
    assert not [where(found) for found in inside if found[2].partition(".")[0] in FILES_AND_NETWORK - {"mmap"}]


def test_ray_is_imported_by_its_engine_alone() -> None:
    assert {found[0].name for found in IMPORTS if found[2].partition(".")[0] == "ray"} <= {"ray.py"}


LIGHT = tuple(f"convsvc.service.{name}" for name in ("views", "plan_views", "cluster_views", "watch_views", "batch_views", "errors"))


def test_the_client_takes_nothing_of_the_service_but_its_views_and_errors() -> None:
    taken = {found[2] for found in IMPORTS if part_of(found[0]) == "client" and found[2].startswith("convsvc.service")}
    assert all(name.startswith(LIGHT) for name in taken), taken


def modules() -> dict[str, Path]:
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def arrows(found: list[Import], known: dict[str, Path]) -> dict[str, set[str]]:
    """Which module imports which, wherever the import stands; `from a import b` is of the module a.b where there is one."""
    names = {path: name for name, path in known.items()}
    result: dict[str, set[str]] = {name: set() for name in known}
    for path, _, imported in found:
        there = imported if imported in known else imported.rpartition(".")[0]
        if there in known and there != names[path]:
            result[names[path]].add(there)
    return result


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that lead back to the first of them; none if there is no way back."""
    left = {name: set(there) for name, there in graph.items()}
    while leaves := [name for name, there in left.items() if not there & left.keys()]:
        for name in leaves:
            del left[name]
    way: list[str] = []
    name = min(left, default="")
    while name and name not in way:
        way.append(name)
        name = min(left[name] & left.keys())
    return [*way[way.index(name) :], name] if way else []


def test_no_module_leads_back_to_itself_not_even_by_an_import_within_a_function() -> None:
    graph = arrows(IMPORTS, modules())
    assert sum(map(len, graph.values())) > 1000
    assert not circle(graph), " imports ".join(circle(graph))


def test_what_the_service_imports_of_itself_stands_at_the_top() -> None:
    """Within a function is where a circle hides. What takes long to import (the planner, the engines) is of other parts."""
    late = [
        f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"
        for path in FILES
        if part_of(path) == "service"
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("convsvc.service")
    ]
    assert not late, "\n".join(late)


# What a room of the service may know of its other rooms, beside its own and the files that lie in none (errors, views, settings ...).
SERVICE_ROOMS = {
    "store": {"observe.tracing", "access.identity"},  # the trace that a job was submitted in, and who submits it: both are values
    "webhooks": {"store"},
    "observe": {"store"},
    "access": {"store"},
    "executor": {"store", "observe", "webhooks"},
    "routes": {"store", "access"},
}


def test_the_rooms_of_the_service_know_each_other_one_way() -> None:
    rooms, wrong = PACKAGE / "service", []
    for path, line, name in IMPORTS:
        here = path.relative_to(rooms).parts[0] if path.is_relative_to(rooms) else ""
        there = name.removeprefix("convsvc.service.")
        if here not in SERVICE_ROOMS or there == name or there.split(".")[0] not in SERVICE_ROOMS or there.split(".")[0] == here:
            continue
        if not any(f"{there}.".startswith(f"{allowed}.") for allowed in SERVICE_ROOMS[here]):
            wrong.append(where((path, line, name)))
    assert not wrong, "\n".join(wrong)


def test_a_circle_is_found_and_one_way_is_none() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"top": {"a"}, "a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == ["a", "b", "c", "a"]
    assert circle({}) == []


def test_a_wrong_arrow_is_found(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("def late():\n    from convsvc.service import app\n\nimport ray\n")
    assert [name for _, _, name in imports_of(file)] == ["ray", "convsvc.service.app"]


def test_what_reads_and_writes_says_so_and_nothing_else_does() -> None:
    """A module that calls itself pure has no function of the name of one that touches the disk."""
    wrong = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        if "Pure." in (ast.get_docstring(tree) or "").split("\n\n")[0]:
            functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            wrong += [f"{path}:{node.lineno} {node.name}" for node in functions if node.name.startswith(("read_", "write_"))]
    assert not wrong, "\n".join(wrong)
