"""ChatGLM2, ChatGLM3 and GLM-4 under their own names: GLM whose queries, keys and values are one stored tensor, and so are gate and up.

modeling_chatglm.py of the published checkpoints: SelfAttention, MLP.swiglu.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, FINAL_NORM, OUTPUT
from convsvc.blocks.glu import FC1, FC2
from convsvc.blocks.gqa import PACKED_QKV, PACKED_QKV_BIAS, PROJ
from convsvc.families import glm
from convsvc.models.facts import Facts
from convsvc.tensors.declare import row


def is_of_the_second(facts: Facts) -> bool:
    """ChatGLM2 and later; the first ChatGLM, which has positions in two dimensions, is another model of the same name."""
    return facts.get("position_encoding_2d", "inner_hidden_size") is None


FAMILY = replace(
    glm.FAMILY,
    name="chatglm",
    title="ChatGLM2, ChatGLM3, GLM-4-9B (own names)",
    model_types=("chatglm",),
    architectures=("ChatGLMForConditionalGeneration", "ChatGLMModel"),
    attention=(
        row("self_attention.query_key_value.weight", PACKED_QKV),
        row("self_attention.dense.weight", PROJ, "hidden (group query head_dim)"),
    ),
    mlp=(
        row("mlp.dense_h_to_4h.weight", FC1, "(glu ffn) hidden"),
        row("mlp.dense_4h_to_h.weight", FC2, "hidden ffn"),
    ),
    flags=((("add_qkv_bias", "add_bias_linear"), (row("self_attention.query_key_value.bias", PACKED_QKV_BIAS),)),),
    embedding=(row("transformer.embedding.word_embeddings.weight", EMBEDDING, "vocab hidden"),),
    final_norm=(row("transformer.encoder.final_layernorm.weight", FINAL_NORM, "hidden"),),
    output=(
        row("transformer.output_layer.weight", OUTPUT, "vocab hidden"),
        # Some savers write it twice.
        row("lm_head.weight", OUTPUT, "vocab hidden", optional=True, written=False),
    ),
    tied_output=(row("transformer.output_layer.weight", EMBEDDING, "vocab hidden", optional=True, written=False),),
    layer_prefix="transformer.encoder.layers.{layer}.",
    ignored=(r"(^|\.)rotary_(emb|pos_emb)\.inv_freq$",),
    distinguish=is_of_the_second,
    names={
        "layers": "num_layers",
        "vocab": "padded_vocab_size",
        "groups": "multi_query_group_num",
        "head_dim": "kv_channels",
        "ffn": "ffn_hidden_size",
        "epsilon": "layernorm_epsilon",
    },
)
