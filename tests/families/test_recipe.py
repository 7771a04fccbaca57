"""The recipe for a new family shows a real one."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from convsvc.families import mixtral

RECIPE = Path(__file__).parents[2] / "docs" / "adding-a-family.md"


def test_the_family_in_the_recipe_is_the_one_that_runs() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    assert shown == inspect.getsource(mixtral)
