"""Families whose mathematics has no place in Megatron's model: repacked, through torch's format and back, they compute what they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import LayoutError
from convsvc.families import Facts, find_family
from convsvc.plan.planner import make_plan
from tests.real_clients.tiny_models import Tiny, load, logits, save_random

pytestmark = pytest.mark.real_client
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

MODELS = (
    Tiny("olmo2", "Olmo2Config", ENDS),
    Tiny("olmo2", "Olmo3Config", {**ENDS, "sliding_window": 4}),
    Tiny("exaone4", "Exaone4Config", {"head_dim": 12, "sliding_window": 4, "sliding_window_pattern": 2}),
    Tiny("gpt-neox", "GPTNeoXConfig", ENDS),
    Tiny("bloom", "BloomConfig", {"n_layer": 4, "n_head": 8, **ENDS}),
    Tiny("falcon", "FalconConfig", {"new_decoder_architecture": True, "num_kv_heads": 2, **ENDS}),
    Tiny("falcon", "FalconConfig", {"multi_query": True, **ENDS}),
    Tiny("phi", "PhiConfig", {"qk_layernorm": True, **ENDS}),
    Tiny("stablelm", "StableLmConfig", {"qk_layernorm": True, "use_parallel_residual": True, **ENDS}),
    Tiny("cohere", "CohereConfig", {"use_qk_norm": True, **ENDS}),
    Tiny("cohere", "Cohere2Config", {"head_dim": 12, "sliding_window": 4, **ENDS}),
)


@pytest.mark.parametrize("tiny", [pytest.param(tiny, id=f"{tiny.family}-{at}") for at, tiny in enumerate(MODELS)])
def test_a_model_that_went_through_torchs_format_gives_the_same_logits(tiny: Tiny, tmp_path: Path) -> None:
    source = tmp_path / "hf"
    save_random(tiny, source, dtype=torch.bfloat16, tied=False)
    assert find_family(None, Facts(json.loads((source / "config.json").read_text()), "config.json")).name == tiny.family
    read = {"format": "huggingface", "path": str(source)}
    convert({"source": read, "target": {"format": "dcp", "path": str(tmp_path / "dcp"), "shards": 2}}, engine="inline")
    there = {"format": "dcp", "path": str(tmp_path / "dcp")}
    convert({"source": there, "target": {"format": "huggingface", "path": str(tmp_path / "back")}}, engine="inline")
    model, _ = load(source)
    again, info = load(tmp_path / "back")
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    want = logits(model)
    assert want.isfinite().all()
    assert torch.equal(want, logits(again))


@pytest.mark.parametrize("tiny", [pytest.param(tiny, id=f"{tiny.family}-{at}") for at, tiny in enumerate(MODELS)])
def test_rank_files_refuse_it_by_the_name_of_what_has_no_place(tiny: Tiny, tmp_path: Path) -> None:
    source = tmp_path / "hf"
    save_random(tiny, source, dtype=torch.bfloat16, tied=False)
    with pytest.raises(LayoutError, match=f"mindspeed-llm has no place for .* of {tiny.family}"):
        make_plan(
            {
                "source": {"format": "huggingface", "path": str(source)},
                "target": {"format": "mindspeed-llm", "path": str(tmp_path / "mg")},
            }
        )
