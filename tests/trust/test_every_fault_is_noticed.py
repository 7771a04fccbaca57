"""After a conversion, a fault on either side is an error of `verify` or of planning, or a note: every one of the drawn two thousand."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from convsvc.conversion import convert, verify
from convsvc.errors import ConvsvcError
from convsvc.plan.planner import make_plan
from tests.roundtrip.any_family import any_family
from tests.roundtrip.any_layout import layouts
from tests.roundtrip.test_any_layout import write_model
from tests.trust.faults import EVERY, damage

# Sizes are drawn, which transformers' classes refuse.
pytestmark = pytest.mark.not_for_transformers

FAMILIES = ("llama2", "qwen3", "qwen3-moe", "gemma2", "deepseek3", "glm45", "qwen3-next", "mamba2", "phi3.5-moe", "longcat")
# Of each of three models of a family, in each direction: 10 x 3 x 2 x 35 are 2,100.
FAULTS = 35


def unnoticed(job: dict[str, Any], sides: list[Path], rng: random.Random, count: int) -> list[str]:
    """What `verify` did not notice and planning said no word of, of so many faults drawn on both sides."""
    missed, drawn, known = [], 0, set(make_plan(job).notes)
    while drawn < count:
        side, fault = rng.choice(sides), rng.choice(EVERY)
        with damage(side, fault, rng) as said:
            if said is None:
                continue
            drawn += 1
            try:
                verify(job)
            except ConvsvcError:
                continue
            if set(make_plan(job).notes) - known:
                continue
            missed.append(f"{side.name}: {said}")
    return missed


@pytest.fixture(autouse=True)
def _without_witnesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are processes of their own, which import torch: for two thousand faults too slow, and what is noticed here needs none."""
    monkeypatch.setattr("convsvc.execute.check.witness.call_witnesses", lambda *_: None)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_fault_on_either_side_is_noticed(family: str, data: st.DataObject) -> None:
    model = data.draw(any_family(family))
    layout = data.draw(layouts(model))
    with tempfile.TemporaryDirectory() as folder:
        hf, mcore, back = (Path(folder) / name for name in ("hf", "mcore", "back"))
        write_model(model, hf)
        there = {
            "source": {"format": "huggingface", "path": str(hf)},
            "target": {"format": "mindspeed-llm", "path": str(mcore), **layout},
        }
        again = {
            "source": {"format": "mindspeed-llm", "path": str(mcore)},
            "target": {"format": "huggingface", "path": str(back), "config_dir": str(hf)},
        }
        rng, missed = random.Random(family), []
        for job, sides in ((there, [hf, mcore]), (again, [mcore, back])):
            job["options"] = {"verify": "full"}
            convert(job, engine="inline")
            verify(job)
            missed += unnoticed(job, sides, rng, FAULTS)
        assert not missed, "\n".join([f"{len(missed)} of {2 * FAULTS}, {json.dumps(layout)}", *missed])
