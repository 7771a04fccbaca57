"""Families added by the recipe (docs/adding-a-family.md): transformers computes after a round trip what it computed before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.real_clients.test_transformers import there_and_back
from tests.real_clients.tiny_models import Tiny, load, logits, save_random

pytestmark = pytest.mark.real_client
ROUTING = {"num_local_experts": 4, "num_experts_per_tok": 2}

MODELS = (
    Tiny("mixtral", "MixtralConfig", ROUTING, {"tensor_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True}),
    Tiny("mixtral", "MixtralConfig", ROUTING, {"pipeline_parallel_size": 2, "expert_parallel_size": 4}),
    Tiny("mixtral", "MixtralConfig", ROUTING, {"tensor_parallel_size": 2, "moe_tp_extend_ep": True}),
    Tiny("glm4", "Glm4Config", {"head_dim": 12, "attention_bias": True, "pad_token_id": 0}),
    Tiny("glm4", "Glm4Config", {"head_dim": 4, "attention_bias": False, "pad_token_id": 0}, {"transformer_impl": "transformer_engine"}),
)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("tiny", [pytest.param(tiny, id=f"{tiny.family}-{at}") for at, tiny in enumerate(MODELS)])
def test_a_round_tripped_model_gives_the_same_logits(tiny: Tiny, tied: bool, tmp_path: Path) -> None:
    source = tmp_path / "hf"
    save_random(tiny, source, dtype=torch.bfloat16, tied=tied)
    model, _ = load(source)
    again, info = load(there_and_back(tiny, source, tmp_path))
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    want = logits(model)
    assert want.isfinite().all()
    assert want.std() > 0
    assert torch.equal(want, logits(again))
