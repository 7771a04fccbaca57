"""MiMo-7B: Qwen2, and an MTP layer that reads the hidden state before the embedding.

Megatron's reads the embedding first, and no stored tensor is a union of boxes of the other's: the layer is carried as it is (its names
and the order: modeling_mimo.py of the published checkpoints, MiMoMTPLayers).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.mtp import E_NORM, EH_PROJ, H_NORM, MTP_NORM
from convsvc.families import qwen25
from convsvc.tensors.declare import row

_MTP = "model.mtp_layers.0."
MTP_LAYER = tuple(
    replace(each, stored=_MTP + each.stored, optional=True)
    for each in (
        row("token_layernorm.weight", E_NORM, "hidden"),
        row("hidden_layernorm.weight", H_NORM, "hidden"),
        row("input_proj.weight", EH_PROJ, "hidden (part input)"),
        row("final_layernorm.weight", MTP_NORM, "hidden"),
        *qwen25.FAMILY.norms,
        *qwen25.FAMILY.attention,
        *qwen25.FAMILY.mlp,
    )
)

FAMILY = replace(
    qwen25.FAMILY,
    name="mimo",
    title="MiMo-7B",
    model_types=("mimo",),
    architectures=("MiMoForCausalLM",),
    carried=MTP_LAYER,
)
