"""What all tests share: modules beside the tests (`tests.golden.corpus`) can be imported, however pytest was started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-mode", action="store_true", help="every golden case in every mode of execution (a quarter of an hour)")
