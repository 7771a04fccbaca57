"""Open-Sora 2: blocks with streams of their own for video and text, then blocks in which both are one.

What training calls as it is published (embedders, the last layer, the second kind's fused matrices) is kept as it is.
"""

from __future__ import annotations

from convsvc.blocks.dit import linear, spelled
from convsvc.models.diffusion import Spelling, StackNames, diffusion
from convsvc.tensors.declare import Logical, logical

TIME_1, TIME_2 = linear("time_in.fc1", "hidden time"), linear("time_in.fc2", "hidden hidden_in")
VECTOR_1, VECTOR_2 = linear("vector_in.fc1", "hidden vector"), linear("vector_in.fc2", "hidden hidden_in")
STREAMS = ("img", "txt")
MODULATION = {each: linear(f"{each}.modulation", "modulation hidden") for each in STREAMS}
QKV = {each: {what: linear(f"{each}.{what}", "inner hidden") for what in "qkv"} for each in STREAMS}
PROJ = {each: linear(f"{each}.proj", "hidden inner") for each in STREAMS}
Q_NORM: dict[str, Logical] = {each: logical(f"{each}.q_norm.weight", "head_dim") for each in STREAMS}
K_NORM: dict[str, Logical] = {each: logical(f"{each}.k_norm.weight", "head_dim") for each in STREAMS}
FC1 = {each: linear(f"{each}.fc1", "ffn hidden") for each in STREAMS}
FC2 = {each: linear(f"{each}.fc2", "hidden ffn") for each in STREAMS}
ONE_Q_NORM, ONE_K_NORM = logical("q_norm.weight", "head_dim"), logical("k_norm.weight", "head_dim")
ONE_MODULATION, ONE_OUT = linear("modulation", "one_modulation hidden"), linear("out", "hidden one_input")

ORIGINAL = Spelling(
    "original",
    spelled(
        (TIME_1, "time_in.in_layer"), (TIME_2, "time_in.out_layer"), (VECTOR_1, "vector_in.in_layer"), (VECTOR_2, "vector_in.out_layer")
    ),
    {
        "double_blocks": StackNames(
            "double_blocks.{layer}.",
            tuple(
                row
                for each in STREAMS
                for row in spelled(
                    (MODULATION[each], f"{each}_mod.lin"),
                    *((QKV[each][what], f"{each}_attn.{what}_proj") for what in "qkv"),
                    (PROJ[each], f"{each}_attn.proj"),
                    (Q_NORM[each], f"{each}_attn.norm.query_norm.scale"),
                    (K_NORM[each], f"{each}_attn.norm.key_norm.scale"),
                    (FC1[each], f"{each}_mlp.0"),
                    (FC2[each], f"{each}_mlp.2"),
                )
            ),
        ),
        "single_blocks": StackNames(
            "single_blocks.{layer}.",
            spelled(
                (ONE_Q_NORM, "norm.query_norm.scale"),
                (ONE_K_NORM, "norm.key_norm.scale"),
                (ONE_MODULATION, "modulation.lin"),
                (ONE_OUT, "linear2"),
            ),
        ),
    },
    (),
    file="Open_Sora_v2",
)

FAMILY = diffusion(
    "opensora",
    "Open-Sora 2",
    forms=(ORIGINAL,),
    passing=(r"(img_in|txt_in|cond_in|guidance_in|final_layer)\..*", r"single_blocks\.\d+\.(linear1|q_proj|k_proj|v_mlp)\..*"),
)
