"""A new encoding is one file: nothing else knows which encodings there are, or what one of them is called."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
import torch

import convsvc
import convsvc.encodings
from convsvc.dialects.huggingface.job import HuggingFaceTarget
from convsvc.encodings.known import ENCODINGS, Encodings
from convsvc.plan import quantised
from tests.encodings.weights import Stored, decoded

PACKAGE = Path(convsvc.__file__).parent
NEW = '''
"""Codes are twice the value, as bytes."""
import numpy as np
from convsvc.encodings.base import Claim, Form, Part, codes_grid, whole
from convsvc.encodings.products import store

TITLE = "halves"
SIGNS = ("_halves",)


def claim(stem, sign, look):
    shape = look.part(stem + sign).shape
    return Claim(stem, (stem + sign,), Form("halves", shape, (codes_grid("U8", *shape),), "nothing"))


def decode(form, rect, pieces, out, dtype):
    store(pieces[0].rows(rect).astype(np.float32) / 2, out, dtype)
    return 0
'''


@pytest.fixture
def with_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The folder of encodings as it is with one more file."""
    (tmp_path / "halves.py").write_text(NEW)
    monkeypatch.setattr(convsvc.encodings, "__path__", [*convsvc.encodings.__path__, str(tmp_path)])
    for name in ("_found", "by_sign"):
        monkeypatch.delitem(vars(ENCODINGS), name, raising=False)
    yield convsvc.encodings
    for name in ("_found", "by_sign"):
        vars(ENCODINGS).pop(name, None)
    sys.modules.pop("convsvc.encodings.halves", None)


def test_a_file_is_enough(with_halves: ModuleType) -> None:
    codes = torch.from_numpy(np.arange(12, dtype=np.uint8).reshape(3, 4))
    have = decoded(Stored.of({"w_halves": codes}), "w", "BF16", box=((1, 3), (1, 4)))
    assert torch.equal(have, (codes / 2).bfloat16()[1:, 1:])
    assert quantised.describe_encodings(Stored.of({"w_halves": codes}).checkpoint().found.values())["encodings"] == {"halves": 1}


def test_every_encoding_says_what_is_asked_of_it() -> None:
    assert len(Encodings()) > 7
    for name, each in ENCODINGS.items():
        assert each.SIGNS or name == "less_one", name  # which a dialect tells by the names of its own
        assert callable(each.claim), name
        assert name == "unread" or (callable(each.decode) and each.TITLE), name


def test_nothing_else_names_an_encoding() -> None:
    named = re.compile(r"encodings\.(?!base\b|known\b|numbers\b|release\b)\w+|[\"'](" + "|".join(set(ENCODINGS) - {"unread"}) + r")[\"']")
    # What a user types is in the job, which is read without numpy; see below.
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "encodings" and path.name != "job.py"]
    found = [f"{path.relative_to(PACKAGE)}: {match[0]}" for path in files for match in named.finditer(path.read_text())]
    assert not found, "\n".join(found)


def test_a_job_may_ask_for_every_encoding_that_writes() -> None:
    (said,) = (field.annotation for name, field in HuggingFaceTarget.model_fields.items() if name == "quantization")
    assert set(get_args(said)) == {"none", "like-source", *ENCODINGS.writers}
