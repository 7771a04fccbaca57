"""VaultGemma: Gemma 2 without the norms after its blocks."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.norms import NORMS_AROUND
from convsvc.families import gemma, gemma2
from convsvc.models.beyond import windows

FAMILY = replace(
    gemma2.FAMILY,
    name="vaultgemma",
    title="VaultGemma",
    model_types=("vaultgemma",),
    architectures=("VaultGemmaForCausalLM",),
    norms=NORMS_AROUND[::2],
    megatron=gemma.FAMILY.megatron,
    advice=(windows,),
)
