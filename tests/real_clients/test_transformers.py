"""transformers loads what we wrote, and computes exactly what it computed from the source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from convsvc.conversion import convert
from tests.real_clients.tiny_models import EXPERTS, MODELS, Tiny, load, logits, save_random

pytestmark = pytest.mark.real_client


def there_and_back(tiny: Tiny, source: Path, work: Path) -> Path:
    """Through Megatron rank files of the model's layout, and back with the source's config files."""
    there, back = work / "mcore", work / "back"
    convert(
        {
            "model_type": tiny.family,
            "source": {"format": "huggingface", "path": str(source)},
            "target": {"format": "mindspeed-llm", "path": str(there), **tiny.layout},
        },
        engine="inline",
    )
    convert(
        {
            "source": {"format": "mindspeed-llm", "path": str(there)},
            "target": {"format": "huggingface", "path": str(back), "config_dir": str(source)},
        },
        engine="inline",
    )
    return back


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "float32"])
@pytest.mark.parametrize("tiny", [pytest.param(tiny, id=f"{tiny.family}-{at}") for at, tiny in enumerate(MODELS)])
def test_a_round_tripped_model_gives_the_same_logits(tiny: Tiny, dtype: torch.dtype, tied: bool, tmp_path: Path) -> None:
    source = tmp_path / "hf"
    save_random(tiny, source, dtype=dtype, tied=tied)
    model, _ = load(source)
    again, info = load(there_and_back(tiny, source, tmp_path))
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert {parameter.dtype for parameter in again.parameters()} == {dtype}
    want = logits(model)
    assert want.isfinite().all()
    assert want.std() > 0
    assert torch.equal(want, logits(again))


def test_either_name_of_the_number_of_experts_is_understood(tmp_path: Path) -> None:
    """Published Qwen3-MoE configurations say num_experts; transformers 5 saves num_local_experts."""
    tiny, source = MODELS[-1], tmp_path / "hf"
    save_random(tiny, source, dtype=torch.float32, tied=False)
    config = json.loads((source / "config.json").read_text())
    number = config.pop("num_local_experts", None) or config.pop("num_experts")
    assert number == EXPERTS["num_experts"]
    for name in ("num_experts", "num_local_experts"):
        (source / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if key != "num_experts"} | {name: number})
        )
        work = tmp_path / name
        work.mkdir()
        model, _ = load(source)
        assert torch.equal(logits(model), logits(load(there_and_back(tiny, source, work))[0]))
