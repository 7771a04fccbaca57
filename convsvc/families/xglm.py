"""XGLM: OPT's layers with positions that are computed and embeddings that are scaled, which rank files cannot tell (transformers 5.23)."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING_ROWS, FINAL_NORM, FINAL_NORM_BIAS
from convsvc.blocks.glu import ungated, ungated_sizes
from convsvc.blocks.gqa import headed_sizes
from convsvc.blocks.norms import layer_norm
from convsvc.blocks.own import apart
from convsvc.families import opt

FAMILY = replace(
    opt.FAMILY,
    name="xglm",
    title="XGLM",
    model_types=("xglm",),
    architectures=("XGLMForCausalLM",),
    attention=apart(opt.ATTENTION + opt.ATTENTION_BIASES, "scaled."),
    mlp=ungated("fc1", "fc2", biased=True),
    sizes=(headed_sizes, ungated_sizes),
    layer=None,
    embedding=EMBEDDING_ROWS,
    final_norm=layer_norm("model.layer_norm", FINAL_NORM, FINAL_NORM_BIAS),
    layer_prefix="model.layers.{layer}.",
    ignored=(r"(^|\.)embed_positions\.weights?$",),
    distinguish=None,
    names={"ffn": "ffn_dim", "heads": "attention_heads", "layers": "num_layers", "hidden": "d_model"},
    fields=(),
    megatron={},
)
