"""GLM-5: DeepSeek-V3.2 in which a layer may use the indexer of a layer before it, and MTP layers without copies."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.dsa import INDEXER, ROTATES_NEIGHBOURS, indexed_layers
from convsvc.blocks.mtp import MTP, MTP_SHARED_HEAD_NORM
from convsvc.families import deepseek32
from convsvc.families.deepseek2 import latent_layer
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.mtp_layers import Mtp
from convsvc.models.scope import LayerRows


def glm5_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A layer of DeepSeek-V3.2, without an indexer where it shares another's."""
    made = latent_layer(family, facts, layer)
    if indexed_layers(facts)(layer):
        return made
    return replace(made, rows=tuple(row for row in made.rows if row not in INDEXER))


FAMILY: Family = replace(
    deepseek32.FAMILY,
    name="glm5",
    title="GLM-5",
    model_types=("glm_moe_dsa",),
    architectures=("GlmMoeDsaForCausalLM",),
    silent="",
    layer=glm5_layer,
    mtp=Mtp(MTP + MTP_SHARED_HEAD_NORM),
    # transformers' GlmMoeDsaIndexer rotates neighbours, DeepSeek-V3.2's halves, whatever a configuration says.
    megatron={**deepseek32.FAMILY.megatron, ROTATES_NEIGHBOURS: True},
)
