"""HyperCLOVA X (SEED, Think): Granite with a norm after each block, too, unless the configuration says otherwise."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.norms import NORMS, POST_ATTENTION_NORM, POST_MLP_NORM
from convsvc.families import granite
from convsvc.models.facts import Facts
from convsvc.models.family import Family, standard_layer
from convsvc.models.scope import LayerRows
from convsvc.tensors.declare import row

AFTER = (row("post_norm1.weight", POST_ATTENTION_NORM, "hidden"), row("post_norm2.weight", POST_MLP_NORM, "hidden"))


def peri_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """Norms after the blocks, where use_post_norm does not deny them (HyperCLOVAXDecoderLayer)."""
    after = AFTER if facts.flag("use_post_norm", default=True) else ()
    return standard_layer(replace(family, norms=NORMS + after), facts, layer)


FAMILY = replace(
    granite.FAMILY,
    name="hyperclovax",
    title="HyperCLOVA X",
    model_types=("hyperclovax",),
    architectures=("HyperCLOVAXForCausalLM",),
    layer=peri_layer,
    fields=("use_post_norm",),
    megatron={"post_norm": True},
)
