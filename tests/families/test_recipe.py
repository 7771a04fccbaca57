"""The recipe for a new family shows a real one."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path

from convsvc.families import mixtral, qwen2_vl
from convsvc.models.family import Family

RECIPE = Path(__file__).parents[2] / "docs" / "adding-a-family.md"


def test_the_family_in_the_recipe_is_the_one_that_runs() -> None:
    shown, _ = re.findall(r"```python\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    assert shown == inspect.getsource(mixtral)


def test_the_family_of_several_modules_in_the_recipe_is_the_one_that_runs() -> None:
    _, shown = re.findall(r"```python\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    found: dict[str, Family] = {}
    exec("def make():\n    " + shown.replace("\n", "\n    ").replace("QWEN2_VL =", "return") + "\n", vars(qwen2_vl), found)
    made = found["make"]()  # type: ignore[operator]
    assert replace(made, spelling=qwen2_vl.QWEN2_VL.spelling) == qwen2_vl.QWEN2_VL
