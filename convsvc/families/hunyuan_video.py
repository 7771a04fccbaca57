"""HunyuanVideo: blocks with streams of their own for video and text, then blocks in which both are one.

As its authors publish it. In the second kind queries, keys, values and the feed-forward block's first matrix are one tensor (linear1), and
so are the attention's and the feed-forward block's outputs (linear2). The refiner of the text (txt_in) is kept as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from convsvc.blocks.dit import Rows, joined, linear, spelled
from convsvc.models.diffusion import Spelling, StackNames, diffusion
from convsvc.tensors.declare import logical

PATCH_CONV = linear("img_in.conv", "hidden channel frame patch_row patch_column", bias=False)
PATCH_MATRIX = linear("img_in.matrix", "hidden patch", bias=False)
PATCH_BIAS = logical("img_in.bias", "hidden")
TIME_1, TIME_2 = linear("time_in.fc1", "hidden time"), linear("time_in.fc2", "hidden hidden_in")
TEXT_TIME_1, TEXT_TIME_2 = linear("txt_in.time.fc1", "hidden time"), linear("txt_in.time.fc2", "hidden hidden_in")
GUIDANCE_1, GUIDANCE_2 = linear("guidance_in.fc1", "hidden time"), linear("guidance_in.fc2", "hidden hidden_in")
VECTOR_1, VECTOR_2 = linear("vector_in.fc1", "vector vector_in"), linear("vector_in.fc2", "hidden vector")
OUT, OUT_MODULATION = linear("out", "out hidden"), linear("out.modulation", "out_modulation hidden")

STREAMS = ("img", "txt")
MODULATION = {each: linear(f"{each}.modulation", f"{each}_modulation hidden") for each in STREAMS}
QKV = {each: tuple(linear(f"{each}.{what}", "inner hidden") for what in "qkv") for each in STREAMS}
PROJ = {each: linear(f"{each}.proj", "hidden inner") for each in STREAMS}
FC1 = {each: linear(f"{each}.fc1", "ffn hidden") for each in STREAMS}
FC2 = {each: linear(f"{each}.fc2", "hidden ffn") for each in STREAMS}
Q_NORM = {each: linear(f"{each}.q_norm", "head_dim", bias=False) for each in STREAMS}
K_NORM = {each: linear(f"{each}.k_norm", "head_dim", bias=False) for each in STREAMS}

ONE_QKV = tuple(linear(f"attn.{what}", "one_inner one_hidden") for what in "qkv")
ONE_FC1 = linear("fc1", "one_ffn one_hidden")
ONE_OUT = linear("out", "one_hidden one_input")
ONE_MODULATION = linear("modulation", "one_modulation hidden")
ONE_Q_NORM, ONE_K_NORM = linear("q_norm", "head_dim", bias=False), linear("k_norm", "head_dim", bias=False)

CONV, MATRIX, GUIDANCE, QK_NORM = "patch_conv", "patch_matrix", "guidance", "qk_norm"
NORMS: Mapping[str, Rows] = {
    "double_blocks": spelled(
        *((Q_NORM[each], f"{each}_attn_q_norm") for each in STREAMS), *((K_NORM[each], f"{each}_attn_k_norm") for each in STREAMS)
    ),
    "single_blocks": spelled((ONE_Q_NORM, "q_norm"), (ONE_K_NORM, "k_norm")),
}
PATCHES: Mapping[str, Mapping[str, Rows]] = {
    CONV: {"before": spelled((PATCH_CONV, "img_in.proj"))},
    MATRIX: {"before": spelled((PATCH_MATRIX, "img_in.proj"))},
    QK_NORM: NORMS,
}

ORIGINAL = Spelling(
    "original",
    spelled(
        (PATCH_BIAS, "img_in.proj.bias"),
        (TEXT_TIME_1, "txt_in.t_embedder.mlp.0"),
        (TEXT_TIME_2, "txt_in.t_embedder.mlp.2"),
        (TIME_1, "time_in.mlp.0"),
        (TIME_2, "time_in.mlp.2"),
        (VECTOR_1, "vector_in.in_layer"),
        (VECTOR_2, "vector_in.out_layer"),
    ),
    {
        "double_blocks": StackNames(
            "double_blocks.{layer}.",
            tuple(
                row
                for each in STREAMS
                for row in (
                    *spelled((MODULATION[each], f"{each}_mod.linear")),
                    *joined(f"{each}_attn_qkv", *QKV[each]),
                    *spelled((PROJ[each], f"{each}_attn_proj"), (FC1[each], f"{each}_mlp.fc1"), (FC2[each], f"{each}_mlp.fc2")),
                )
            ),
        ),
        "single_blocks": StackNames(
            "single_blocks.{layer}.",
            joined("linear1", *ONE_QKV, ONE_FC1) + spelled((ONE_OUT, "linear2"), (ONE_MODULATION, "modulation.linear")),
        ),
    },
    spelled((OUT, "final_layer.linear"), (OUT_MODULATION, "final_layer.adaLN_modulation.1")),
    {**PATCHES, GUIDANCE: {"before": spelled((GUIDANCE_1, "guidance_in.mlp.0"), (GUIDANCE_2, "guidance_in.mlp.2"))}},
)

FAMILY = diffusion(
    "hunyuan-video",
    "HunyuanVideo",
    forms=(ORIGINAL,),
    class_names=("HunyuanVideoTransformer3DModel",),
    sums={"one_input": ("one_inner", "one_ffn")},
    one_of=((CONV, MATRIX),),
    passing=(r"txt_in\.(?!t_embedder\.).*",),
)
