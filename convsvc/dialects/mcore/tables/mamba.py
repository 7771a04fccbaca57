"""Mamba-2's mixers: every part of a projection is cut for itself, group by group."""

from __future__ import annotations

from convsvc.blocks.mamba import (
    A_LOG,
    CONV,
    CONV_BIAS,
    GATED_NORM,
    IN_PROJ,
    MAMBA_FINAL_NORM,
    MIXER_NORM,
    MIXER_OUT,
    SKIP,
    STEP_BIAS,
)
from convsvc.tensors.declare import row

MIXERS = (
    row("norm.weight",           MIXER_NORM, "hidden"),
    row("mixer.in_proj.weight",  IN_PROJ,                                                tp="mamba_group"),
    row("mixer.conv1d.weight",   CONV,                                                   tp="mamba_group"),
    row("mixer.conv1d.bias",     CONV_BIAS,                                              tp="mamba_group"),
    row("mixer.A_log",           A_LOG,      "(mamba_group mamba_head)",                 tp="mamba_group"),
    row("mixer.D",               SKIP,       "(mamba_group mamba_head)",                 tp="mamba_group"),
    row("mixer.dt_bias",         STEP_BIAS,  "(mamba_group mamba_head)",                 tp="mamba_group"),
    row("mixer.norm.weight",     GATED_NORM, "(mamba_group mamba_head mamba_dim)",       tp="mamba_group"),
    row("mixer.out_proj.weight", MIXER_OUT,  "hidden (mamba_group mamba_head mamba_dim)", tp="mamba_group"),
)  # fmt: skip
MAMBA_FINAL_NORMS = (row("decoder.final_norm.weight", MAMBA_FINAL_NORM, "hidden"),)
