"""CogVideoX. Facts: what MindSpeed-MM's CogVideoConverter writes: matrices over ranks and layers over stages, none over virtual ones."""

from __future__ import annotations

from convsvc.blocks.dit import joined, spelled
from convsvc.dialects.mindspeed_mm_sora.form import Form
from convsvc.families import cogvideo as cog
from convsvc.models.diffusion import Spelling, StackNames

SPELLING = Spelling(
    "mindspeed-mm",
    spelled(
        (cog.TIME_1, "time_embed.time_embed.0"),
        (cog.TIME_2, "time_embed.time_embed.2"),
        (cog.PATCH_BIAS, "patch_embed.proj.bias"),
        (cog.TEXT, "caption_projection"),
    ),
    {
        "blocks": StackNames(
            "videodit_blocks.{layer}.",
            joined("self_atten.proj_qkv", cog.Q, cog.K, cog.V, tp="inner")
            + spelled(
                (cog.MODULATION, "scale_shift_table.1", "modulation"),
                (cog.NORM_1, "norm1"),
                (cog.NORM_2, "norm2"),
                (cog.Q_NORM, "self_atten.q_norm"),
                (cog.K_NORM, "self_atten.k_norm"),
                (cog.ATTENTION_OUT, "self_atten.proj_out", "inner"),
                (cog.FF_1, "ff.net.0.proj", "ffn"),
                (cog.FF_2, "ff.net.2", "ffn"),
            ),
        )
    },
    spelled(
        (cog.NORM_FINAL, "norm_final"),
        (cog.NORM_OUT, "norm_out"),
        (cog.OUT, "proj_out_linear"),
        (cog.OUT_MODULATION, "adaLN_modulation.1", "out_modulation"),
    ),
    {
        cog.CONV: {"before": spelled((cog.PATCH_CONV, "patch_embed.proj"))},
        cog.MATRIX: {"before": spelled((cog.PATCH_MATRIX, "patch_embed.proj"))},
        cog.POSITIONS: {"before": spelled((cog.COSINES, "pos_embed.freqs_cos"), (cog.SINES, "pos_embed.freqs_sin"))},
    },
)
FORMS = {"cogvideo": Form(SPELLING, tp=True, pp=True)}
