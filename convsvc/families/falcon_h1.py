"""Falcon-H1: Bamba with a mixer beside attention in every layer."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.gqa import GQA
from convsvc.blocks.mamba import GATED_NORM, layer_mixer
from convsvc.families import bamba
from convsvc.families.bamba import MIXED_NORM, NORM
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows


def both_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A mixer beside attention; its gated norm only where mamba_rms_norm says so (FalconH1DecoderLayer)."""
    rows = layer_mixer(facts)
    if not facts.flag("mamba_rms_norm"):
        rows = tuple(each for each in rows if GATED_NORM not in each.logicals)
    return standard_layer(replace(family, norms=MIXED_NORM + NORM, attention=rows + GQA), facts, layer)


FAMILY = replace(
    bamba.FAMILY,
    name="falcon-h1",
    title="Falcon-H1",
    model_types=("falcon_h1",),
    architectures=("FalconH1ForCausalLM",),
    layer=both_layer,
    fields=("mamba_rms_norm", "mamba_d_ssm"),
)
