"""Step-Video. Facts: what MindSpeed-MM's StepVideoConverter writes: all queries, all keys, all values, cut by heads."""

from __future__ import annotations

from convsvc.blocks.dit import spelled
from convsvc.dialects.mindspeed_mm_sora.form import Form
from convsvc.families import stepvideo as step
from convsvc.models.diffusion import Spelling, StackNames
from convsvc.tensors.declare import row

SPELLING = Spelling(
    "mindspeed-mm",
    step.BEFORE + spelled((step.MODULATION, "adaln_single.linear", "modulation")),
    {
        "blocks": StackNames(
            "transformer_blocks.{layer}.",
            (
                *step.COMMON,
                row("attn1.proj_qkv.weight", step.QKV, "(slot head head_dim) width", tp="head"),
                row("attn1.proj_out.weight", step.SELF_OUT, "width (head head_dim)", tp="head"),
                row("attn2.proj_q.weight", step.Q, "(head head_dim) width", tp="head"),
                row("attn2.proj_kv.weight", step.KV, "(pair head head_dim) width", tp="head"),
                row("attn2.proj_out.weight", step.CROSS_OUT, "width (head head_dim)", tp="head"),
                *spelled((step.FF_1, "ff.net.0.proj", "ffn"), (step.FF_2, "ff.net.2", "ffn")),
            ),
        )
    },
    step.AFTER,
)
FORMS = {"stepvideo": Form(SPELLING, tp=True, pp=True)}
