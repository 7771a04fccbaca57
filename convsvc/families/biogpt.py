"""BioGPT: XGLM's layers with learned positions, two more than it says (transformers 5.23)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM, FINAL_NORM_BIAS, OUTPUT, POSITIONS
from convsvc.blocks.glu import ungated_sizes
from convsvc.blocks.gqa import headed_sizes
from convsvc.blocks.norms import layer_norm
from convsvc.families import xglm
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row


def biogpt_sizes(facts: Facts) -> dict[str, int]:
    """position: two more than the configuration says, which stand before the first."""
    return {"position": facts.first_number(("max_position_embeddings",), default=1024) + 2}


FAMILY = replace(
    xglm.FAMILY,
    name="biogpt",
    title="BioGPT",
    model_types=("biogpt",),
    architectures=("BioGptForCausalLM",),
    sizes=(headed_sizes, ungated_sizes, biogpt_sizes),
    embedding=(
        row("biogpt.embed_tokens.weight", EMBEDDING, "vocab hidden"),
        row("biogpt.embed_positions.weight", POSITIONS, "position hidden"),
    ),
    final_norm=layer_norm("biogpt.layer_norm", FINAL_NORM, FINAL_NORM_BIAS),
    output=(row("output_projection.weight", OUTPUT, "vocab hidden"),),
    tied_output=(row("output_projection.weight", EMBEDDING, "vocab hidden", optional=True, written=False),),
    layer_prefix="biogpt.layers.{layer}.",
    ignored=(),
    names={"epsilon": "layer_norm_eps"},
    fields=("max_position_embeddings",),
)
