"""transformers computes with a vision-language model what it computed before it was converted, there and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from tests.real_clients.tiny_models import transformers

pytestmark = pytest.mark.real_client
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 3,
    "vocab_size": 96, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}
DEEP_ROPE = MROPE | {"mrope_section": [2, 1, 1]}
DEEP = {
    "depth": 3, "hidden_size": 16, "intermediate_size": 24, "num_heads": 4, "out_hidden_size": 32, "patch_size": 4,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 2],
}  # fmt: skip
GLM = {
    "depth": 2, "hidden_size": 16, "intermediate_size": 40, "num_heads": 4, "out_hidden_size": 32, "patch_size": 4, "image_size": 16,
}  # fmt: skip
HYBRID = {
    "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 4, "linear_value_head_dim": 6,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
INTERN = {
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "image_size": [16, 16],
    "patch_size": [4, 4], "attention_bias": True, "use_qk_norm": True,
}  # fmt: skip
PIXTRAL = {
    "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2,
    "image_size": 16, "patch_size": 4, "head_dim": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tiny:
    """A vision-language model: its configuration's class, what its text and its vision part say, and how the one for pictures is fed."""

    config: str
    text: dict[str, Any]
    vision: dict[str, Any]
    rest: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.config.removesuffix("Config")


MODELS = (
    Tiny("Qwen2VLConfig", {"rope_parameters": MROPE}, {"depth": 2, "embed_dim": 16, "num_heads": 4, "hidden_size": 32, "patch_size": 4}),
    Tiny(
        "Qwen2_5_VLConfig",
        {"rope_parameters": MROPE},
        {"depth": 3, "hidden_size": 16, "intermediate_size": 24, "num_heads": 4, "out_hidden_size": 32, "patch_size": 4},
    ),
    Tiny("Qwen3VLConfig", {"head_dim": 8, "rope_parameters": DEEP_ROPE}, DEEP),
    Tiny(
        "Qwen3VLMoeConfig",
        {"head_dim": 8, "rope_parameters": DEEP_ROPE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12},
        DEEP,
    ),
    Tiny("Glm4vConfig", {"rope_parameters": MROPE | {"partial_rotary_factor": 0.5, "mrope_section": [1, 0, 0]}}, GLM),
    Tiny("Qwen3_5Config", HYBRID, {**DEEP, "deepstack_visual_indexes": []}),
    Tiny(
        "Qwen3_5MoeConfig",
        {**HYBRID, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 24},
        {**DEEP, "deepstack_visual_indexes": []},
    ),
    Tiny("InternVLConfig", {"model_type": "qwen2"}, INTERN),
    Tiny("Mistral3Config", {"head_dim": 8, "model_type": "mistral"}, PIXTRAL),
)
# MindSpeed-MM keeps these in torch DCP, not in rank files.
THROUGH_DCP = ("Qwen3_5", "Qwen3_5Moe", "Mistral3")
SIGLIP = {
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "image_size": 16, "patch_size": 4,
}  # fmt: skip
# Models that MindSpeed-MM does not know.
OTHERS = (
    Tiny("Gemma3Config", {"head_dim": 8}, SIGLIP | {"vision_use_head": False}, {"mm_tokens_per_image": 4}),
    Tiny("Gemma3Config", {"head_dim": 8}, SIGLIP, {"mm_tokens_per_image": 4}),
)


def tiny_model(tiny: Tiny) -> Any:
    config = getattr(transformers(), tiny.config)(text_config=TEXT | tiny.text, vision_config=tiny.vision, **tiny.rest)
    torch.manual_seed(1)
    model = transformers().AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for each in model.parameters():
            each.uniform_(-0.5, 0.5)
    return model


def answers(model: Any, tiny: Tiny) -> list[torch.Tensor]:
    """The logits of a text; the vision tower's parameters are compared one by one."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 10, 11, 12, 7]])).logits
    return [logits, *(value for _, value in sorted(model.state_dict().items()))]


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("tiny", [*MODELS, *OTHERS], ids=str)
def test_a_vision_model_computes_the_same_after_torch_dcp_and_back(tiny: Tiny, tied: bool, tmp_path: Path) -> None:
    tiny = Tiny(tiny.config, tiny.text, tiny.vision, tiny.rest | {"tie_word_embeddings": tied})
    check_same_after({"format": "dcp"}, tiny, tmp_path)


@pytest.mark.parametrize("tiny", [tiny for tiny in MODELS if str(tiny) not in THROUGH_DCP], ids=str)
def test_a_vision_model_computes_the_same_after_rank_files_of_mindspeed_mm_and_back(tiny: Tiny, tmp_path: Path) -> None:
    """Two ranks of a tensor, three stages: the image encoder ends in the first, where the text decoder begins; one holds nothing."""
    experts = {"ep_size": 2} if "num_experts" in tiny.text else {}
    depth = next(tiny.vision[name] for name in ("depth", "num_hidden_layers") if name in tiny.vision)
    tensor = 1 if str(tiny) == "Glm4v" else 2  # how its converter cuts a tensor is not known
    cut = {"tp_size": tensor, "llm_pp_layers": [1, 0, 2], "vit_pp_layers": [depth, 0, 0], **experts}
    check_same_after({"format": "mindspeed-mm", **cut}, tiny, tmp_path)
    assert len(list((tmp_path / "there").glob("release/*/model_optim_rng.pt"))) == 3 * tensor * (2 if experts else 1)


def check_same_after(there: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    """transformers loads what comes back with nothing missing or new, and computes what it did."""
    model = tiny_model(tiny)
    model.save_pretrained(tmp_path / "hf")
    path = str(tmp_path / "there")
    # Rank files have no place for a config.json.
    words = {} if there["format"] == "dcp" else {"config_dir": str(tmp_path / "hf")}
    convert({"source": {"format": "huggingface", "path": str(tmp_path / "hf")}, "target": {**there, "path": path}})
    target = {"format": "huggingface", "path": str(tmp_path / "back")}
    convert({"source": {"format": there["format"], "path": path, **words}, "target": target})
    again, told = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(told.values()), told
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads((tmp_path / "hf" / "config.json").read_text())
    (logits, *weights), (logits_again, *weights_again) = answers(model, tiny), answers(again.eval(), tiny)
    assert all(map(torch.equal, weights, weights_again))
    # Experts are added up in an order that depends on where they lie in memory.
    assert torch.allclose(logits, logits_again, rtol=1e-4, atol=1e-5)
