"""Open-Sora Plan: version 1.2 (whole attention) and 1.3 (sparse), one stack; 1.5 (stacks of several resolutions, text attended with video).

Of version 1.5 the names are known as training has them. What stands beside the blocks of 1.2 and 1.5 is kept as it is: training has it
under the names that it is published with. Blocks of 1.2 are called as those of 1.3, so that a job must say that it is 1.2.
"""

from __future__ import annotations

from collections.abc import Mapping

from convsvc.blocks.dit import Rows, linear, spelled
from convsvc.models.diffusion import Spelling, StackNames, diffusion
from convsvc.tensors.declare import logical

TIME_1, TIME_2 = linear("time.fc1", "hidden time"), linear("time.fc2", "hidden hidden_in")
MODULATION = linear("modulation", "modulation hidden")
TEXT_1, TEXT_2 = linear("text.fc1", "hidden text"), linear("text.fc2", "hidden hidden_in")
PATCH_2D = linear("patch2d", "hidden channel patch_row patch_column", bias=False)
PATCH_3D = linear("patch3d", "hidden channel frame patch_row patch_column", bias=False)
PATCH_BIAS = logical("patch.bias", "hidden")
OUT, OUT_TABLE = linear("out", "out hidden"), logical("out.scale_shift_table", "two hidden")
TABLE = logical("scale_shift_table", "six hidden")
SELF_Q, SELF_K, SELF_V = (linear(f"self_attn.{each}", "inner hidden") for each in "qkv")
CROSS_Q, CROSS_K, CROSS_V = (linear(f"cross_attn.{each}", "inner hidden") for each in "qkv")
SELF_OUT, CROSS_OUT = linear("self_attn.out", "hidden inner"), linear("cross_attn.out", "hidden inner")
FF_1, FF_2 = linear("ff.fc1", "ffn hidden"), linear("ff.fc2", "hidden ffn")

FLAT, DEEP = "patch_2d", "patch_3d"
PATCHES: Mapping[str, Mapping[str, Rows]] = {
    FLAT: {"before": spelled((PATCH_2D, "pos_embed.proj"))},
    DEEP: {"before": spelled((PATCH_3D, "pos_embed.proj"))},
}
BEFORE = spelled(
    (TIME_1, "adaln_single.emb.timestep_embedder.linear_1"),
    (TIME_2, "adaln_single.emb.timestep_embedder.linear_2"),
    (MODULATION, "adaln_single.linear"),
    (TEXT_1, "caption_projection.linear_1"),
    (TEXT_2, "caption_projection.linear_2"),
    (PATCH_BIAS, "pos_embed.proj.bias"),
)
AFTER = spelled((OUT_TABLE, "scale_shift_table"), (OUT, "proj_out"))

BLOCK = spelled(
    (TABLE, "scale_shift_table"),
    (SELF_Q, "attn1.to_q"),
    (SELF_K, "attn1.to_k"),
    (SELF_V, "attn1.to_v"),
    (SELF_OUT, "attn1.to_out.0"),
    (CROSS_Q, "attn2.to_q"),
    (CROSS_K, "attn2.to_k"),
    (CROSS_V, "attn2.to_v"),
    (CROSS_OUT, "attn2.to_out.0"),
    (FF_1, "ff.net.0.proj"),
    (FF_2, "ff.net.2"),
)
ORIGINAL = Spelling("original", BEFORE, {"blocks": StackNames("transformer_blocks.{layer}.", BLOCK)}, AFTER, PATCHES)
WHOLE = Spelling("original", (), {"blocks": StackNames("transformer_blocks.{layer}.", BLOCK)}, ())

PATCH = linear("patch", "hidden patch")
NORM_OUT, LAST = linear("norm_out", "out_modulation time_hidden"), linear("proj_out", "out hidden")
JOINT_Q, JOINT_K, JOINT_V = (linear(f"attn.{each}", "inner hidden") for each in "qkv")
ADDED_Q, ADDED_K, ADDED_V = (linear(f"attn.added_{each}", "inner hidden") for each in "qkv")
JOINT_OUT, ADDED_OUT = linear("attn.out", "hidden inner"), linear("attn.added_out", "hidden inner")
Q_NORM, K_NORM, ADDED_Q_NORM, ADDED_K_NORM = (
    linear(f"attn.{each}_norm", "head_dim", bias=False) for each in ("q", "k", "added_q", "added_k")
)
VIDEO_1, VIDEO_2 = linear("ff.fc1", "ffn hidden", bias=False), linear("ff.fc2", "hidden ffn", bias=False)
WORDS_1, WORDS_2 = linear("ff_enc.fc1", "ffn hidden", bias=False), linear("ff_enc.fc2", "hidden ffn", bias=False)
NORM_1, NORM_2 = linear("norm1", "modulation time_hidden"), linear("norm2", "modulation time_hidden")
LABEL = r"\d+\.\d+"


def training(tp: bool = False) -> Spelling:
    """Version 1.5's names in training; with `tp`, with the axes that ranks cut."""

    def cut(axis: str) -> str:
        return axis if tp else ""

    return Spelling(
        "training",
        spelled((PATCH, "patch_embed.proj")),
        {
            "blocks": StackNames(
                "transformer_blocks.{layer}.",
                spelled(
                    *((each, f"attn1.proj_{name}", cut("inner")) for each, name in ((JOINT_Q, "q"), (JOINT_K, "k"), (JOINT_V, "v"))),
                    *((each, f"attn1.added_proj_{name}", cut("inner")) for each, name in ((ADDED_Q, "q"), (ADDED_K, "k"), (ADDED_V, "v"))),
                    (JOINT_OUT, "attn1.proj_out", cut("inner")),
                    (ADDED_OUT, "attn1.added_proj_out", cut("inner")),
                    (Q_NORM, "attn1.norm_proj_q"),
                    (K_NORM, "attn1.norm_proj_k"),
                    (ADDED_Q_NORM, "attn1.norm_added_proj_q"),
                    (ADDED_K_NORM, "attn1.norm_added_proj_k"),
                    (VIDEO_1, "ff.net.0.proj", cut("ffn")),
                    (VIDEO_2, "ff.net.2", cut("ffn")),
                    (WORDS_1, "ff_enc.net.0.proj", cut("ffn")),
                    (WORDS_2, "ff_enc.net.2", cut("ffn")),
                    (NORM_1, "norm1.linear", cut("modulation")),
                    (NORM_2, "norm2.linear", cut("modulation")),
                ),
                label=LABEL,
            )
        },
        spelled((NORM_OUT, "norm_out.linear", cut("out_modulation")), (LAST, "proj_out")),
    )


V12 = diffusion(
    "opensora-plan-v1.2",
    "Open-Sora Plan 1.2",
    forms=(WHOLE,),
    passing=(r"(?!transformer_blocks\.|videodit_blocks\.).*",),
    stated=True,
)
V13 = diffusion(
    "opensora-plan-v1.3",
    "Open-Sora Plan 1.3",
    forms=(ORIGINAL,),
    class_names=("OpenSoraT2V", "OpenSoraT2V_v1_3"),
    counts={"blocks": "num_layers"},
    one_of=((FLAT, DEEP),),
)
V15 = diffusion("opensora-plan-v1.5", "Open-Sora Plan 1.5", forms=(training(),), passing=(r"(?!transformer_blocks\.).*",))
FAMILIES = (V12, V13, V15)
