"""Families stay tables: a sibling is its difference, in a file of its own."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from convsvc import families

MEDIAN, WORST = 40, 200


def lines() -> dict[str, int]:
    """How many lines the file of every family has, with its docstring, imports and blank lines; of `__init__` none."""
    files = Path(families.__file__).parent.glob("*.py")
    return {file.name: len(file.read_text().splitlines()) for file in files if file.name != "__init__.py"}


def test_half_of_all_families_are_tables_of_at_most_40_lines() -> None:
    counted = lines()
    longest = ", ".join(f"{name} {counted[name]}" for name in sorted(counted, key=counted.__getitem__)[-5:])
    assert median(counted.values()) <= MEDIAN, f"the median of {len(counted)} files is {median(counted.values())} lines; longest: {longest}"


def test_no_family_needs_more_than_200_lines() -> None:
    assert {name: count for name, count in lines().items() if count > WORST} == {}
