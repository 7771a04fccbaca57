"""What all tests share: modules beside the tests (`tests.golden.corpus`) can be imported, however pytest was started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from tests import loading  # noqa: E402 - it is beside the tests, too

# A drawn example may take as long as the machine does: no test judges the clock. What is drawn is the same everywhere, so that what passed
# here passes there; `--hypothesis-profile=anew` draws other examples, in search of what nobody thought of.
settings.register_profile("any machine", deadline=None, derandomize=True)
settings.register_profile("anew", deadline=None)
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-mode", action="store_true", help="every golden case in every mode of execution (a quarter of an hour)")


@pytest.fixture(autouse=True)
def transformers_loads_what_is_written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every Hugging Face directory that a test writes is loaded by transformers, whose account must be clean.

    What this process writes is judged at once; what commands, services, executors and clients write into the test's directory, when the
    test ends. A test whose weights or configuration transformers cannot have (made on purpose) is marked `not_for_transformers`.
    """
    from convsvc import conversion

    if request.node.get_closest_marker("not_for_transformers") is not None:
        yield
        return
    monkeypatch.setattr(conversion, "run", _judged(conversion.run))
    # Asked for here, so that it is there still when this ends.
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        loading.judge_written(folder)


@pytest.fixture(autouse=True, scope="module")
def transformers_loads_what_a_module_has_written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The same of directories that a module's tests share. What a marked module leaves there is no later module's to answer for."""
    yield
    if request.node.get_closest_marker("not_for_transformers") is None:
        loading.judge_written(tmp_path_factory.getbasetemp())
    else:
        loading.pass_over_written(tmp_path_factory.getbasetemp())


def _judged(run: Callable[..., Any]) -> Callable[..., Any]:
    def run_and_judge(plan: Any, *args: Any, **kwargs: Any) -> Any:
        result = run(plan, *args, **kwargs)
        target = plan.job["target"]
        if target["format"] == "huggingface" and not target.get("adapter_only") and (Path(target["path"]) / "config.json").exists():
            loading.judge(Path(target["path"]), lacks_biases=any(note.text.startswith("the source has no ") for note in plan.notes))
            for report in loading.reports_of(Path(target["path"])):
                loading.pass_over(report)
        return result

    return run_and_judge
