"""LoRA adapters of Qwen2.5-VL in rank files: Megatron's modules with Hugging Face's parts (enable_canonical_hf_struct).

Facts: what mm-convert writes (commit 57069cd5): each side is cut as its matrix is, the tower's queries, keys and values across their whole
length.
"""

from __future__ import annotations

from convsvc.dialects.mindspeed_mm_sora.form import Form
from convsvc.families import qwen25_vl_lora

PREFIXES = {"text": "text_decoder.decoder.layers.{layer}.", "vision": "image_encoder.encoder.blocks.layers.{layer}."}
MODULES = {
    **{("text", name): f"self_attention.{name}" for name in ("q_proj", "k_proj", "v_proj")},
    ("text", "o_proj"): "self_attention.linear_proj",
    ("text", "down_proj"): "mlp.linear_fc2",
    ("vision", "qkv"): "self_attention.linear_qkv",
    ("vision", "proj"): "self_attention.linear_proj",
    ("vision", "down_proj"): "mlp.linear_fc2",
    ("projector", "mlp.0"): "image_encoder.projector.encoder.linear_fc1",
    ("projector", "mlp.2"): "image_encoder.projector.encoder.linear_fc2",
}
FORMS = {
    "qwen2.5-vl-lora": Form(qwen25_vl_lora.form("mindspeed-mm", PREFIXES, MODULES, cut=True), tp=True, pp=True, vpp=True),
}
