"""Step-Video: one stack of blocks with attention to itself and to the text; a head's queries, keys and values lie together."""

from __future__ import annotations

from convsvc.blocks.dit import Rows, linear, spelled
from convsvc.models.diffusion import Spelling, StackNames, diffusion
from convsvc.tensors.declare import logical, row

MODULATION = linear("modulation", "modulation hidden")
TIME_1, TIME_2 = linear("time.fc1", "hidden time"), linear("time.fc2", "hidden hidden_in")
PATCH = linear("patch", "hidden channel patch_row patch_column")
TEXT_1, TEXT_2 = linear("text.fc1", "hidden text"), linear("text.fc2", "hidden hidden_in")
CLIP = linear("clip", "clip_out clip")
OUT, OUT_TABLE = linear("out", "out hidden"), logical("out.scale_shift_table", "two hidden")

TABLE = logical("scale_shift_table", "six width")
NORM_1, NORM_2 = linear("norm1", "width"), linear("norm2", "width")
QKV = logical("self_attn.qkv.weight", "head slot head_dim width")
Q, KV = logical("cross_attn.q.weight", "head head_dim width"), logical("cross_attn.kv.weight", "head pair head_dim width")
SELF_OUT, CROSS_OUT = logical("self_attn.out.weight", "width head head_dim"), logical("cross_attn.out.weight", "width head head_dim")
SELF_Q_NORM, SELF_K_NORM = (linear(f"self_attn.{each}_norm", "head_dim", bias=False) for each in "qk")
CROSS_Q_NORM, CROSS_K_NORM = (linear(f"cross_attn.{each}_norm", "head_dim", bias=False) for each in "qk")
FF_1, FF_2 = linear("ff.fc1", "ffn width", bias=False), linear("ff.fc2", "width ffn", bias=False)

BEFORE = spelled(
    (TIME_1, "adaln_single.emb.timestep_embedder.linear_1"),
    (TIME_2, "adaln_single.emb.timestep_embedder.linear_2"),
    (PATCH, "pos_embed.proj"),
    (TEXT_1, "caption_projection.linear_1"),
    (TEXT_2, "caption_projection.linear_2"),
    (CLIP, "clip_projection"),
)
AFTER = spelled((OUT_TABLE, "scale_shift_table"), (OUT, "proj_out"))
COMMON: Rows = spelled(
    (TABLE, "scale_shift_table"),
    (NORM_1, "norm1"),
    (NORM_2, "norm2"),
    (SELF_Q_NORM, "attn1.q_norm"),
    (SELF_K_NORM, "attn1.k_norm"),
    (CROSS_Q_NORM, "attn2.q_norm"),
    (CROSS_K_NORM, "attn2.k_norm"),
)

ORIGINAL = Spelling(
    "original",
    BEFORE + spelled((MODULATION, "adaln_single.linear")),
    {
        "blocks": StackNames(
            "transformer_blocks.{layer}.",
            (
                *COMMON,
                row("attn1.wqkv.weight", QKV, "(head slot head_dim) width"),
                row("attn1.wo.weight", SELF_OUT, "width (head head_dim)"),
                row("attn2.wq.weight", Q, "(head head_dim) width"),
                row("attn2.wkv.weight", KV, "(head pair head_dim) width"),
                row("attn2.wo.weight", CROSS_OUT, "width (head head_dim)"),
                *spelled((FF_1, "ff.net.0.proj"), (FF_2, "ff.net.2")),
            ),
        )
    },
    AFTER,
)

FAMILY = diffusion(
    "stepvideo",
    "Step-Video",
    forms=(ORIGINAL,),
    class_names=("StepVideoModel",),
    counts={"blocks": "num_layers"},
    constants={"slot": 3, "pair": 2},
)
