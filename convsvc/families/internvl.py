"""InternVL 2, 2.5, 3 and 3.5: InternViT before a language model of one of several families, which its configuration names.

Names and order: modeling_internvl_chat.py of the published checkpoints.
"""

from __future__ import annotations

from functools import partial

from convsvc.blocks import intern_vit
from convsvc.families import internlm2, llama2, qwen3, qwen3_moe, qwen25
from convsvc.models.around import TEXT_CONFIG, around
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.towers import Tower, text_kind

INSIDE = (("llm_config",),)
VISION = Tower(
    name="image_encoder",
    part="vision_config",
    sizes=intern_vit.sizes,
    before=intern_vit.EMBEDDINGS,
    layer=intern_vit.layer,
    after=intern_vit.PROJECTOR,
    layer_prefix="vision_model.encoder.layers.{layer}.",
    count="num_hidden_layers",
)


HF_VISION = Tower(
    name="image_encoder",
    part="vision_config",
    sizes=intern_vit.hf_sizes,
    before=intern_vit.HF_EMBEDDINGS,
    layer=intern_vit.hf_layer,
    after=intern_vit.HF_PROJECTOR,
    layer_prefix="vision_tower.encoder.layer.{layer}.",
    count="num_hidden_layers",
)


def _has(kinds: tuple[str, ...], facts: Facts) -> bool:
    return text_kind(facts, (*INSIDE, *TEXT_CONFIG)) in kinds


def _with(text: Family, title: str) -> Family:
    return around(
        text,
        towers=(VISION,),
        body="language_model.model.",
        head="language_model.",
        inside=INSIDE,
        name=f"internvl-{text.name}",
        title=f"InternVL with {title}",
        model_types=("internvl_chat",),
        architectures=("InternVLChatModel",),
        stacked=False,
        distinguish=partial(_has, text.model_types),
    )


def _hf_with(text: Family, title: str) -> Family:
    return around(
        text,
        towers=(HF_VISION,),
        body="language_model.model.",
        head="language_model.",
        name=f"internvl-hf-{text.name}",
        title=f"InternVL with {title}, in transformers' names",
        model_types=("internvl",),
        architectures=("InternVLForConditionalGeneration",),
        distinguish=partial(_has, text.model_types),
    )


FAMILIES = (
    _with(llama2.FAMILY, "Llama"),
    _with(internlm2.FAMILY, "InternLM2"),
    _with(qwen25.FAMILY, "Qwen2"),
    _with(qwen3.FAMILY, "Qwen3"),
    _with(qwen3_moe.FAMILY, "Qwen3-MoE"),
    _hf_with(llama2.FAMILY, "Llama"),
    _hf_with(qwen25.FAMILY, "Qwen2"),
    _hf_with(qwen3.FAMILY, "Qwen3"),
    _hf_with(qwen3_moe.FAMILY, "Qwen3-MoE"),
)
