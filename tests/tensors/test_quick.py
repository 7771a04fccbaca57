"""Records that are made quickly are those that are made as usual."""

from __future__ import annotations

import ast
import importlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import convsvc
from convsvc.formats.base import StoredTensor, stored_tensors, tensor_bytes
from convsvc.plan.records import Place, PlannedTensor, View
from convsvc.tensors.quick import quick

ROOT = Path(convsvc.__file__).parent


def test_a_record_made_quickly_is_the_record():
    usual = View((0,), (4,), (1,), (Place(2, 8),))
    made = quick(View, ((0,), (4,), (1,), (quick(Place, (2, 8)),)))
    assert type(made) is View
    assert made == usual
    assert hash(made) == hash(usual)
    assert made.volume == 4
    assert pickle.loads(pickle.dumps(made)) == usual


def test_a_record_made_quickly_has_a_value_for_every_field():
    assert quick(PlannedTensor, (0, "w", "BF16", (2,), 8, 4, None)) == PlannedTensor(0, "w", "BF16", (2,), 8, 4)


def test_stored_tensors_made_at_once_know_their_sizes():
    one, other = stored_tensors([("a", "F32", (2, 3), 0), ("b", "BF16", (), 24)])
    assert (one, other) == (StoredTensor("a", "F32", (2, 3), 0), StoredTensor("b", "BF16", (), 24))
    assert [one.size_bytes, other.size_bytes, tensor_bytes("U8", (0, 5))] == [24, 2, 0]


def made_in(file: Path) -> Iterator[tuple[str, int, int, int]]:
    """Of each record that a module makes quickly, of values that can be counted: its kind, the line, its values and its fields."""
    tree = ast.parse(file.read_text())
    module = importlib.import_module(".".join(("convsvc", *file.relative_to(ROOT).with_suffix("").parts)))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        match call:
            case ast.Call(func=ast.Name("quick"), args=[ast.Name(kind), ast.Tuple(values)]):
                pass
            case ast.Call(
                func=ast.Name("map"),
                args=[
                    ast.Name("quick"),
                    ast.Call(func=ast.Name("repeat"), args=[ast.Name(kind)]),
                    ast.Call(func=ast.Name("zip"), args=values),
                ],
            ):
                pass
            case _:
                continue
        if not any(isinstance(value, ast.Starred) for value in values):
            yield kind, call.lineno, len(values), len(getattr(module, kind)._fields)


def test_nobody_makes_a_record_quickly_with_a_value_too_few() -> None:
    """Nothing else would count them: a field with a default has none there."""
    files = [file for file in ROOT.rglob("*.py") if "quick(" in (text := file.read_text()) or "map(quick" in text]
    made = [(file.name, *each) for file in files for each in made_in(file)]
    assert {kind for _, kind, *_ in made} >= {"View", "Place", "Found", "Entry", "Laid", "PlannedTensor", "Block", "Coded"}
    assert [each for each in made if each[-2] != each[-1]] == []
