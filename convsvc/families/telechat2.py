"""TeleChat and TeleChat2: Llama under names of its own, with a group's key and value in one stored tensor and two biases a layer.

Names and order: modeling_telechat.py of the published checkpoints (TelechatAttention: key_value is viewed as heads of 2 * head_dim, the key
first; dense and down_proj have biases). The first ones' names lack `transformer.`.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log2

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM
from convsvc.blocks.glu import FC2_BIAS, GLU
from convsvc.blocks.gqa import PROJ, PROJ_BIAS, QKV
from convsvc.families import llama2
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row


def longer_rotation(facts: Facts) -> str | None:
    """The base grows with the length of the texts that it was trained with, beyond 4096 tokens (RotaryEmbedding.get_ntk_alpha)."""
    length = facts.first_number(("training_seqlen",))
    if length <= 4096:
        return None
    factor = 2 ** ceil(log2(length / 4096) + 1) - 1
    return (
        f"training_seqlen {length}: the rotary base is 10000 x {factor} ** (head_dim / (head_dim - 2)), as the model's code computes it: "
        "training must be told, or computes another model"
    )


FAMILY = replace(
    llama2.FAMILY,
    name="telechat2",
    title="TeleChat, TeleChat2",
    model_types=("telechat", "telechat2"),
    architectures=("TelechatForCausalLM", "TeleChatForCausalLM", "Telechat2ForCausalLM", "TeleChat2ForCausalLM"),
    attention=(
        row("self_attention.query.weight", QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
        row("self_attention.key_value.weight", QKV.at(slot="query:query + 2"), "(group slot head_dim) hidden"),
        row("self_attention.dense.weight", PROJ, "hidden (group query head_dim)"),
        row("self_attention.dense.bias", PROJ_BIAS, "hidden"),
    ),
    mlp=(*GLU, row("mlp.down_proj.bias", FC2_BIAS, "hidden")),
    flags=(),
    spelling=((r"^(word_embeddings|h|ln_f)\.", r"transformer.\1."),),
    embedding=(row("transformer.word_embeddings.weight", EMBEDDING, "vocab hidden"),),
    final_norm=(row("transformer.ln_f.weight", FINAL_NORM, "hidden"),),
    layer_prefix="transformer.h.{layer}.",
    tied_by_default=True,
    names={"layers": "n_layer", "heads": "n_head", "ffn": "ffn_hidden_size", "epsilon": "layer_norm_epsilon"},
    advice=(longer_rotation,),
)
