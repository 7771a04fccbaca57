"""HunyuanVideo. Facts: what MindSpeed-MM's HunyuanVideoConverter writes and merges: matrices over ranks, one stage.

linear1 is two tensors there; what goes into linear2, the attention's and the feed-forward block's, is cut in each of them.
"""

from __future__ import annotations

from convsvc.blocks.dit import joined, spelled
from convsvc.dialects.mindspeed_mm_sora.form import Form
from convsvc.families import hunyuan_video as hunyuan
from convsvc.models.diffusion import Spelling, StackNames

SPELLING = Spelling(
    "mindspeed-mm",
    spelled(
        (hunyuan.PATCH_BIAS, "img_in.proj.bias"),
        (hunyuan.TEXT_TIME_1, "txt_in.t_embedder.time_embed.0"),
        (hunyuan.TEXT_TIME_2, "txt_in.t_embedder.time_embed.2"),
        (hunyuan.TIME_1, "time_in.time_embed.0"),
        (hunyuan.TIME_2, "time_in.time_embed.2"),
        (hunyuan.VECTOR_1, "vector_in.fc1", "vector"),
        (hunyuan.VECTOR_2, "vector_in.fc2", "vector"),
    ),
    {
        "double_blocks": StackNames(
            "double_blocks.{layer}.",
            tuple(
                row
                for each in hunyuan.STREAMS
                for row in (
                    *spelled((hunyuan.MODULATION[each], f"{each}_mod.linear", f"{each}_modulation")),
                    *joined(f"{each}_attn_qkv", *hunyuan.QKV[each], tp="inner"),
                    *spelled(
                        (hunyuan.PROJ[each], f"{each}_attn_proj", "inner"),
                        (hunyuan.FC1[each], f"{each}_mlp.fc1", "ffn"),
                        (hunyuan.FC2[each], f"{each}_mlp.fc2", "ffn"),
                    ),
                )
            ),
        ),
        "single_blocks": StackNames(
            "single_blocks.{layer}.",
            joined("linear1_qkv", *hunyuan.ONE_QKV, tp="one_inner")
            + spelled(
                (hunyuan.ONE_FC1, "linear1_mlp", "one_ffn"),
                (hunyuan.ONE_OUT, "linear2", "one_input"),
                (hunyuan.ONE_MODULATION, "modulation.linear", "one_modulation"),
            ),
        ),
        hunyuan.REFINED: hunyuan.REFINER_STACK,
    },
    spelled((hunyuan.OUT, "proj_out", "out"), (hunyuan.OUT_MODULATION, "adaLN_modulation.1", "out_modulation")),
    {
        **hunyuan.PATCHES,
        hunyuan.REFINER: hunyuan.REFINES,
        hunyuan.GUIDANCE: {
            "before": spelled((hunyuan.GUIDANCE_1, "guidance_in.time_embed.0"), (hunyuan.GUIDANCE_2, "guidance_in.time_embed.2"))
        },
    },
)
FORMS = {"hunyuan-video": Form(SPELLING, tp=True)}
