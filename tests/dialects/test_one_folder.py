"""A format is one folder of convsvc/dialects: nothing that is general imports one, or asks for one by its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from convsvc.spec.formats import formats, names_of, sides

PACKAGE = Path(__file__).parents[2] / "convsvc"
# The commands of other tools are theirs: each speaks of its tool's formats.
DOORS = {"cli/convert_ckpt_v2.py", "cli/mindformers.py", "cli/main.py", "cli/mm_convert/dcp_jobs.py", "cli/mm_convert/mm_jobs.py"}
DOORS |= {"cli/mm_convert/sora_jobs.py"}
GENERAL = ("__init__.py", "adaptable.py", "base.py", "checkpoint.py", "files.py", "json_files.py", "layout.py", "output.py", "templates.py")


def general_files() -> list[Path]:
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "dialects"]
    general = [PACKAGE / "dialects" / name for name in GENERAL]
    shared = sorted((PACKAGE / "dialects" / "mcore").rglob("*.py"))
    return [path for path in (*files, *general, *shared) if str(path.relative_to(PACKAGE)) not in DOORS]


def knowledge_of(path: Path) -> Iterator[str]:
    """Where a file imports a format's folder, or has a format's name as a text of its own."""
    folders = tuple(package + "." for package in formats().values())
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}." for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name + "." for alias in node.names]
        elif isinstance(node, ast.Constant) and node.value in formats():
            yield f"{path}:{node.lineno} speaks of {node.value!r}"
        yield from (f"{path}:{node.lineno} imports {name}" for name in names if name.startswith(folders))


def test_no_general_module_imports_or_names_a_format() -> None:
    assert {"huggingface", "mindspeed-llm"} <= set(formats())
    assert not [line for path in general_files() for line in knowledge_of(path)]


def test_knowledge_of_a_format_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "general.py"
    file.write_text('from convsvc.dialects.huggingface import source\nimport convsvc.dialects.peft.job\nformat = "mindspeed-llm"\n')
    assert len(list(knowledge_of(file))) == 3


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_format_that_a_job_may_name_has_the_module_that_reads_or_writes_it(side: str) -> None:
    """What the commands offer is seen from the modules that are there, the job's unions are made of classes."""
    assert names_of(side) == list(sides(side.upper()))
