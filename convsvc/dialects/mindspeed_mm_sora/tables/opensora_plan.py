"""Open-Sora Plan 1.2, 1.3 and 1.5. Facts: what MindSpeed-MM's OpenSoraPlanConverter writes, and how it merges version 1.5.

Its tables of 1.2 and 1.3 (checkpoint/sora_model/opensoraplan_converter.py) differ in what the blocks are called; 1.2 has no stages.
"""

from __future__ import annotations

from convsvc.blocks.dit import spelled
from convsvc.dialects.mindspeed_mm_sora.form import Form
from convsvc.families import opensora_plan as plan
from convsvc.models.diffusion import Spelling, StackNames

BLOCK = spelled(
    (plan.TABLE, "scale_shift_table"),
    (plan.SELF_Q, "self_atten.proj_q", "inner"),
    (plan.SELF_K, "self_atten.proj_k", "inner"),
    (plan.SELF_V, "self_atten.proj_v", "inner"),
    (plan.SELF_OUT, "self_atten.proj_out", "inner"),
    (plan.CROSS_Q, "cross_atten.proj_q", "inner"),
    (plan.CROSS_K, "cross_atten.proj_k", "inner"),
    (plan.CROSS_V, "cross_atten.proj_v", "inner"),
    (plan.CROSS_OUT, "cross_atten.proj_out", "inner"),
    (plan.FF_1, "ff.net.0.proj", "ffn"),
    (plan.FF_2, "ff.net.2", "ffn"),
)
V12 = Spelling("mindspeed-mm", (), {"blocks": StackNames("videodit_blocks.{layer}.", BLOCK)}, ())
V13 = Spelling("mindspeed-mm", plan.BEFORE, {"blocks": StackNames("videodit_sparse_blocks.{layer}.", BLOCK)}, plan.AFTER, plan.PATCHES)
FORMS = {
    "opensora-plan-v1.2": Form(V12, tp=True),
    "opensora-plan-v1.3": Form(V13, tp=True, pp=True, vpp=True),
    "opensora-plan-v1.5": Form(plan.training(tp=True), tp=True),
}
