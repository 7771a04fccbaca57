"""Wan and VACE. Facts: MindSpeed-MM, checkpoint/sora_model/wan_converter.py and vace_converter.py: no tensor parallelism; Wan has stages.

What embeds an image goes with the other embedders to the first stage; the source tool loses four of its norms' tensors there.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.dit import Rows, spelled
from convsvc.dialects.mindspeed_mm_sora.form import Form
from convsvc.families import vace, wan, wan_lora
from convsvc.models.diffusion import Spelling, StackNames

BEFORE = spelled(
    (wan.PATCH, "patch_embedding"),
    (wan.TEXT_1, "text_embedding.linear_1"),
    (wan.TEXT_2, "text_embedding.linear_2"),
    (wan.TIME_1, "time_embedding.0"),
    (wan.TIME_2, "time_embedding.2"),
    (wan.TIME_PROJECTION, "time_projection.1"),
)
BLOCK = spelled(
    (wan.MODULATION, "modulation"),
    (wan.SELF_Q, "self_attn.proj_q"),
    (wan.SELF_K, "self_attn.proj_k"),
    (wan.SELF_V, "self_attn.proj_v"),
    (wan.SELF_OUT, "self_attn.proj_out"),
    (wan.SELF_Q_NORM, "self_attn.q_norm"),
    (wan.SELF_K_NORM, "self_attn.k_norm"),
    (wan.CROSS_NORM, "norm3"),
    (wan.CROSS_Q, "cross_attn.proj_q"),
    (wan.CROSS_K, "cross_attn.proj_k"),
    (wan.CROSS_V, "cross_attn.proj_v"),
    (wan.CROSS_OUT, "cross_attn.proj_out"),
    (wan.CROSS_Q_NORM, "cross_attn.q_norm"),
    (wan.CROSS_K_NORM, "cross_attn.k_norm"),
    (wan.FFN_1, "ffn.0"),
    (wan.FFN_2, "ffn.2"),
)
IMAGE_BLOCK = spelled((wan.IMAGE_K, "cross_attn.k_img"), (wan.IMAGE_V, "cross_attn.v_img"), (wan.IMAGE_K_NORM, "cross_attn.k_norm_img"))


def _under(prefix: str, rows: Rows) -> Rows:
    return tuple(replace(each, stored=prefix + each.stored) for each in rows)


WAN = Spelling(
    "mindspeed-mm",
    BEFORE,
    {"blocks": StackNames("blocks.{layer}.", BLOCK)},
    wan.ORIGINAL_AFTER,
    wan.groups(wan.ORIGINAL_IMAGE, wan.ORIGINAL_POSITIONS, IMAGE_BLOCK),
)
VACE = Spelling(
    "mindspeed-mm",
    _under("wan_dit.", BEFORE) + spelled((vace.VACE_PATCH, "vace_dit.vace_patch_embedding")),
    {
        "blocks": StackNames("wan_dit.blocks.{layer}.", BLOCK),
        "vace_blocks": StackNames(
            "vace_dit.vace_blocks.{layer}.",
            _under("wan_dit_block.", BLOCK) + spelled((vace.GIVEN, "after_proj")),
            spelled((vace.TAKEN, "before_proj")),
        ),
    },
    _under("wan_dit.", wan.ORIGINAL_AFTER),
    wan.groups(_under("wan_dit.", wan.ORIGINAL_IMAGE), _under("wan_dit.", wan.ORIGINAL_POSITIONS), IMAGE_BLOCK),
)
FORMS = {
    "wan": Form(WAN, pp=True, vpp=True),
    "wan-lora": Form(wan_lora.form("mindspeed-mm", BLOCK + IMAGE_BLOCK), pp=True, vpp=True),
    "vace": Form(VACE),
}
