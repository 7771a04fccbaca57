"""Falcon-Mamba: Mamba whose time steps and states are normed, without weights."""

from __future__ import annotations

from dataclasses import replace

from convsvc.families import mamba

FAMILY = replace(
    mamba.FAMILY, name="falcon-mamba", title="Falcon-Mamba", model_types=("falcon_mamba",), architectures=("FalconMambaForCausalLM",)
)
