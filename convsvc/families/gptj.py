"""GPT-J: one norm for both blocks; rotary positions on a part of a head.

transformers 5.23: attention and feed-forward block are computed side by side after one norm, which Megatron does not.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, OUTPUT_BIAS, OUTPUT_ROWS, TIED_OUTPUT_ROWS
from convsvc.blocks.glu import fourfold_sizes, ungated
from convsvc.blocks.gqa import PROJ
from convsvc.blocks.norms import PARALLEL_NORM, PARALLEL_NORM_BIAS, layer_norm
from convsvc.families import gpt_bigcode
from convsvc.families.gpt2 import apart, multi_head_sizes
from convsvc.families.gpt_neox import PLAIN
from convsvc.tensors.declare import row

FAMILY = replace(
    gpt_bigcode.FAMILY,
    name="gptj",
    title="GPT-J",
    model_types=("gptj",),
    architectures=("GPTJForCausalLM",),
    norms=layer_norm("ln_1", PARALLEL_NORM, PARALLEL_NORM_BIAS),
    attention=(*apart("attn"), row("attn.out_proj.weight", PROJ, "hidden (group query head_dim)")),
    mlp=ungated("mlp.fc_in", "mlp.fc_out", biased=True),
    sizes=(multi_head_sizes, fourfold_sizes),
    layer=None,
    fields=("rotary_dim",),
    embedding=(row("transformer.wte.weight", EMBEDDING, "vocab hidden"),),
    output=(*OUTPUT_ROWS, row("lm_head.bias", OUTPUT_BIAS, "vocab")),
    tied_output=(*TIED_OUTPUT_ROWS, row("lm_head.bias", OUTPUT_BIAS, "vocab")),
    tied_by_default=False,
    ignored=(r"\.attn\.(bias|masked_bias|embed_positions|causal_mask)$",),
    megatron=PLAIN,
)
