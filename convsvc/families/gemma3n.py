"""Gemma 3n (text): Gemma 4's inputs a layer and borrowed keys, with alternating updates of several streams and a low-rank path beside.

transformers 5.23, Gemma3nTextDecoderLayer. Megatron's decoder has neither.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING_ROWS
from convsvc.blocks.glu import GLU
from convsvc.blocks.gqa import GQA, QK_NORM
from convsvc.blocks.norms import NORMS_AROUND
from convsvc.blocks.own import own
from convsvc.families import gemma4, gemma4_edge
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows

ALTUP = (
    own("altup.correct_output_scale", "hidden"),
    own("altup.correction_coefs.weight", "update other_update"),
    own("altup.modality_router.weight", "update hidden"),
    own("altup.prediction_coefs.weight", "update_pairs update"),
    own("altup.router_norm.weight", "hidden"),
    own("laurel.linear_left.weight", "laurel_rank hidden"),
    own("laurel.linear_right.weight", "hidden laurel_rank"),
    own("laurel.post_laurel_norm.weight", "hidden"),
)
STREAMS = tuple(
    own(f"model.altup_{side}projections.{{further_update}}.weight", "further_update hidden other_hidden") for side in ("", "unembed_")
)


def gemma3n_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """The last layers have queries only, and use an earlier layer's keys and values."""
    borrows = layer >= facts.num_layers - facts.number("num_kv_shared_layers", default=15)
    attention = gemma4.QUERIES if borrows else GQA + QK_NORM
    return LayerRows(NORMS_AROUND + attention + GLU + gemma4.PER_LAYER + ALTUP, sizes={"ffn": width_of(facts, layer)})


def width_of(facts: Facts, layer: int) -> int:
    """A layer's width: one number, or one a layer."""
    widths = facts.get("intermediate_size")
    return int(widths[layer]) if isinstance(widths, list | tuple) and layer < len(widths) else facts.number("ffn")


def gemma3n_sizes(facts: Facts) -> dict[str, int]:
    """Gemma 4's, and those of the streams."""
    count = facts.number("altup_num_inputs", default=4)
    usual = gemma4.gemma4_sizes(Facts({**facts.values, "intermediate_size": width_of(facts, 0)}, facts.origin))
    streams = {"update": count, "other_update": count, "update_pairs": count * count, "further_update": count - 1}
    return {**usual, **streams, "other_hidden": facts.number("hidden"), "laurel_rank": facts.number("laurel_rank", default=64)}


FAMILY = replace(
    gemma4_edge.FAMILY,
    name="gemma3n",
    title="Gemma 3n (text)",
    model_types=("gemma3n_text", "gemma3n"),
    architectures=("Gemma3nForCausalLM",),
    attention=GQA + QK_NORM,
    packed=(),
    sizes=(gemma3n_sizes,),
    layer=gemma3n_layer,
    embedding=EMBEDDING_ROWS + gemma4_edge.PER_LAYER_ENDS + STREAMS,
    distinguish=None,
    fields=(
        "layer_types",
        "num_kv_shared_layers",
        "altup_num_inputs",
        "laurel_rank",
        "hidden_size_per_layer_input",
        "vocab_size_per_layer_input",
    ),
)
