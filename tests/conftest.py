"""What all tests share: modules beside the tests (`tests.golden.corpus`) can be imported, however pytest was started."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-mode", action="store_true", help="every golden case in every mode of execution (a quarter of an hour)")


@pytest.fixture(autouse=True)
def transformers_loads_what_is_written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Hugging Face directory that a test writes in this process is loaded by transformers, whose account must be clean.

    A test whose weights or configuration transformers cannot have (made on purpose) is marked `not_for_transformers`.
    """
    from convsvc import conversion

    if request.node.get_closest_marker("not_for_transformers") is not None:
        return
    monkeypatch.setattr(conversion, "run", _judged(conversion.run))


def _judged(run: Callable[..., Any]) -> Callable[..., Any]:
    def run_and_judge(plan: Any, *args: Any, **kwargs: Any) -> Any:
        result = run(plan, *args, **kwargs)
        target = plan.job["target"]
        if target["format"] == "huggingface" and not target.get("adapter_only") and (Path(target["path"]) / "config.json").exists():
            from tests.loading import judge

            judge(Path(target["path"]), lacks_biases=any(note.text.startswith("the source has no ") for note in plan.notes))
        return result

    return run_and_judge
