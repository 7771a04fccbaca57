"""CogVideoX: blocks that attend to text and video together; each block's shifts, scales and gates come from the time.

Published as a component of a diffusers pipeline, and by its authors (`sat`) with the per-layer matrices of the time in lists of their own.
The twelve steps of `modulation` are, as the authors store them, shift, scale and gate of the video before attention and before the
feed-forward block, then the same of the text; diffusers keeps those before attention in norm1, the others in norm2.
"""

from __future__ import annotations

from convsvc.blocks.dit import chunks, joined, linear, spelled
from convsvc.models.diffusion import Spelling, StackNames, diffusion
from convsvc.tensors.declare import logical

TIME_1, TIME_2 = linear("time_embed.fc1", "time time_in"), linear("time_embed.fc2", "time time_hidden")
PATCH_CONV = linear("patch_embed.conv", "hidden channel patch_row patch_column", bias=False)
PATCH_MATRIX = linear("patch_embed.matrix", "hidden patch", bias=False)
PATCH_BIAS = logical("patch_embed.bias", "hidden")
TEXT = linear("text_projection", "hidden text")
COSINES, SINES = logical("positions.cosines", "token rotary"), logical("positions.sines", "token rotary")
NORM_FINAL, NORM_OUT, OUT = linear("norm_final", "hidden"), linear("norm_out", "hidden"), linear("out", "out hidden")
OUT_MODULATION = linear("out.modulation", "out_modulation time")

MODULATION = linear("modulation", "modulation time")
NORM_1, NORM_2 = linear("norm1", "hidden"), linear("norm2", "hidden")
Q, K, V = (linear(f"attn.{each}", "inner hidden") for each in "qkv")
Q_NORM, K_NORM = linear("attn.q_norm", "head_dim"), linear("attn.k_norm", "head_dim")
ATTENTION_OUT = linear("attn.out", "hidden inner")
FF_1, FF_2 = linear("ff.fc1", "ffn hidden"), linear("ff.fc2", "hidden ffn")

CONV, MATRIX, POSITIONS = "patch_conv", "patch_matrix", "positions"

DIFFUSERS = Spelling(
    "hf_diffusers",
    spelled(
        (TIME_1, "time_embedding.linear_1"),
        (TIME_2, "time_embedding.linear_2"),
        (PATCH_BIAS, "patch_embed.proj.bias"),
        (TEXT, "patch_embed.text_proj"),
    ),
    {
        "blocks": StackNames(
            "transformer_blocks.{layer}.",
            chunks("norm1.linear", MODULATION, "modulation", "hidden", (0, 6), 3)
            + chunks("norm2.linear", MODULATION, "modulation", "hidden", (3, 9), 3)
            + spelled(
                (NORM_1, "norm1.norm"),
                (NORM_2, "norm2.norm"),
                (Q, "attn1.to_q"),
                (K, "attn1.to_k"),
                (V, "attn1.to_v"),
                (Q_NORM, "attn1.norm_q"),
                (K_NORM, "attn1.norm_k"),
                (ATTENTION_OUT, "attn1.to_out.0"),
                (FF_1, "ff.net.0.proj"),
                (FF_2, "ff.net.2"),
            ),
        )
    },
    spelled((NORM_FINAL, "norm_final"), (OUT_MODULATION, "norm_out.linear"), (NORM_OUT, "norm_out.norm"), (OUT, "proj_out")),
    {
        CONV: {"before": spelled((PATCH_CONV, "patch_embed.proj"))},
        MATRIX: {"before": spelled((PATCH_MATRIX, "patch_embed.proj"))},
        POSITIONS: {"before": spelled((COSINES, "pos_embed.freqs_cos"), (SINES, "pos_embed.freqs_sin"))},
    },
)
SAT = Spelling(
    "sat",
    spelled(
        (TIME_1, "time_embed.0"),
        (TIME_2, "time_embed.2"),
        (PATCH_BIAS, "mixins.patch_embed.proj.bias"),
        (TEXT, "mixins.patch_embed.text_proj"),
    ),
    {
        "blocks": StackNames(
            "transformer.layers.{layer}.",
            joined("attention.query_key_value", Q, K, V)
            + spelled(
                (MODULATION, "adaln_layer.adaLN_modulations.1"),
                (NORM_1, "input_layernorm"),
                (NORM_2, "post_attention_layernorm"),
                (Q_NORM, "adaln_layer.query_layernorm_list"),
                (K_NORM, "adaln_layer.key_layernorm_list"),
                (ATTENTION_OUT, "attention.dense"),
                (FF_1, "mlp.dense_h_to_4h"),
                (FF_2, "mlp.dense_4h_to_h"),
            ),
        )
    },
    spelled(
        (NORM_FINAL, "transformer.final_layernorm"),
        (NORM_OUT, "mixins.final_layer.norm_final"),
        (OUT, "mixins.final_layer.linear"),
        (OUT_MODULATION, "mixins.final_layer.adaLN_modulation.1"),
    ),
    {
        CONV: {"before": spelled((PATCH_CONV, "mixins.patch_embed.proj"))},
        MATRIX: {"before": spelled((PATCH_MATRIX, "mixins.patch_embed.proj"))},
        POSITIONS: {"before": spelled((COSINES, "mixins.pos_embed.freqs_cos"), (SINES, "mixins.pos_embed.freqs_sin"))},
    },
    renames=((r"^mixins\.adaln_layer\.(\w+)\.(\d+)\.", r"transformer.layers.\2.adaln_layer.\1."),),
)

FAMILY = diffusion(
    "cogvideo",
    "CogVideoX",
    forms=(DIFFUSERS, SAT),
    class_names=("CogVideoXTransformer3DModel",),
    counts={"blocks": "num_layers"},
    derived={"modulation": "12 * hidden"},
    one_of=((CONV, MATRIX),),
    ignored=(r"^(first_stage_model|conditioner|cond_stage_model)\.", r"(^|\.)transformer\.position_embeddings\.weight$"),
)
