"""Text decoders without a class alone, or with other names alone: inside their published model, repacked, they compute the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import LayoutError
from convsvc.plan.planner import make_plan
from tests.real_clients.tiny_models import SIZES, TOKENS, foreign, transformers

pytestmark = pytest.mark.real_client
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
M3 = {
    **SIZES, **ENDS, "head_dim": 12, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 16,
    "dense_intermediate_size": 48, "shared_intermediate_size": 24, "rotary_dim": 4, "index_n_heads": 2, "index_head_dim": 10,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "layer_types": ["full_attention"] + ["minimax_m3_sparse"] * 3,
    "index_block_size": 2, "index_topk_blocks": 2,
}  # fmt: skip
STEP = {
    **SIZES, **ENDS, "head_dim": 12, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "share_expert_dim": 20,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "sliding_window": 4, "num_sliding_attention_heads": 16,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
MLLAMA = {
    **SIZES, **ENDS, "cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
TILES = {"supported_aspect_ratios": [[1, 1]], "intermediate_layers_indices": [0], "num_global_layers": 1, "vision_output_dim": 32}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "minimax_m3": ("MiniMaxM3VLConfig", M3, VISION, {"projector_hidden_size": 32}),
    "step3": ("Step3p7Config", STEP, VISION, {}),
    "mllama": ("MllamaConfig", MLLAMA, {**VISION, **TILES, "max_num_tiles": 1, "attention_heads": 2}, {"image_token_index": 60}),
}


def save(name: str, directory: Path) -> None:
    kind, text, vision, more = MODELS[name]
    library = transformers()
    config = getattr(library, kind)(text_config=dict(text), vision_config=dict(vision), tie_word_embeddings=False, **more)
    torch.manual_seed(0)
    model = foreign(library.AutoModelForImageTextToText.from_config, config, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + 0.1)
    foreign(model.save_pretrained, directory)


def computed(directory: Path) -> torch.Tensor:
    model, info = foreign(transformers().AutoModelForImageTextToText.from_pretrained, directory, dtype="auto", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        found: torch.Tensor = foreign(model.eval(), TOKENS).logits
    return found


def source(directory: Path) -> Mapping[str, Any]:
    return {"format": "huggingface", "path": str(directory), "modules": ["text_decoder"]}


@pytest.mark.parametrize("name", MODELS)
def test_a_wrapped_model_whose_text_went_through_torchs_format_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    save(name, tmp_path / "hf")
    plan = make_plan({"source": source(tmp_path / "hf"), "target": {"format": "dcp", "path": str(tmp_path / "dcp")}})
    assert plan.model_type == name
    convert({"source": source(tmp_path / "hf"), "target": {"format": "dcp", "path": str(tmp_path / "dcp"), "shards": 2}}, engine="inline")
    there = {"format": "dcp", "path": str(tmp_path / "dcp"), "modules": ["text_decoder"]}
    convert({"source": there, "target": {"format": "huggingface", "path": str(tmp_path / "back")}}, engine="inline")
    want = computed(tmp_path / "hf")
    assert want.isfinite().all()
    assert torch.equal(want, computed(tmp_path / "back"))


@pytest.mark.parametrize("name", MODELS)
def test_rank_files_refuse_it_by_the_name_of_what_has_no_place(name: str, tmp_path: Path) -> None:
    save(name, tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["text_config"]
    with pytest.raises(LayoutError, match=f"mindspeed-llm has no place for .* of {name}"):
        make_plan({"source": source(tmp_path / "hf"), "target": {"format": "mindspeed-llm", "path": str(tmp_path / "mg")}})
