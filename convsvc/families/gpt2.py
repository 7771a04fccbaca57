"""GPT-2, GPT-Neo, GPT-J and CodeGen: the same names, each with its own attention; GPT-2's matrices lie input before output.

transformers 5.23: GPT2Attention splits c_attn [hidden, 3 * hidden] (Conv1D) into queries, keys and values of all heads. GPT-J and CodeGen
compute attention and feed-forward block side by side after one norm, which Megatron does not.
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.embeddings import EMBEDDING, OUTPUT_BIAS, OUTPUT_ROWS, TIED_OUTPUT_ROWS
from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS, fourfold_sizes, ungated
from convsvc.blocks.gqa import PROJ, PROJ_BIAS, QKV, QKV_BIAS, gqa_sizes
from convsvc.blocks.norms import PARALLEL_NORM, PARALLEL_NORM_BIAS, layer_norm
from convsvc.blocks.own import own
from convsvc.families.before_llama import BIGCODE
from convsvc.families.gpt_neox import PLAIN
from convsvc.models.facts import Facts
from convsvc.models.scope import Rows
from convsvc.tensors.declare import row

CONV1D = (
    row("attn.c_attn.weight", QKV, "hidden (slot group head_dim)"),
    row("attn.c_attn.bias", QKV_BIAS, "(slot group head_dim)"),
    row("attn.c_proj.weight", PROJ, "(group query head_dim) hidden"),
    row("attn.c_proj.bias", PROJ_BIAS, "hidden"),
)
CONV1D_MLP = (
    row("mlp.c_fc.weight", FC1.at(glu="0"), "hidden ffn"),
    row("mlp.c_proj.weight", FC2, "ffn hidden"),
    row("mlp.c_fc.bias", FC1_BIAS.at(glu="0"), "ffn"),
    row("mlp.c_proj.bias", FC2_BIAS, "hidden"),
)


def apart(module: str) -> Rows:
    """Queries, keys and values of heads that share none, in a matrix each."""
    return tuple(row(f"{module}.{side}_proj.weight", QKV.at(slot=str(at)), "(group head_dim) hidden") for at, side in enumerate("qkv"))


def multi_head_sizes(facts: Facts) -> dict[str, int]:
    """A group for each head; positions, the learned ones."""
    heads = facts.number("heads", default=facts.first_number(("num_heads",)))  # GPT-Neo's word, which is Mamba-2's for something else
    groups = {**facts.values, "num_attention_heads": heads, "num_key_value_heads": heads}
    positions = facts.first_number(("n_positions", "max_position_embeddings", "n_ctx"), default=1024)
    return {**gqa_sizes(Facts(groups, facts.origin)), "position": positions, "three_hidden": 3 * facts.number("hidden")}


def neo_sizes(facts: Facts) -> dict[str, int]:
    """glu (1) and ffn, four times the hidden size where nothing is said."""
    return {"glu": 1, "ffn": facts.number("ffn", default=4 * facts.number("hidden"))}


GPT2 = replace(
    BIGCODE,
    name="gpt2",
    title="GPT-2",
    model_types=("gpt2",),
    architectures=("GPT2LMHeadModel",),
    attention=CONV1D,
    mlp=CONV1D_MLP,
    sizes=(multi_head_sizes, fourfold_sizes),
    layer=None,
    fields=("n_positions",),
)
NEO = replace(
    GPT2,
    name="gpt-neo",
    title="GPT-Neo",
    model_types=("gpt_neo",),
    architectures=("GPTNeoForCausalLM",),
    attention=(
        *apart("attn.attention"),
        row("attn.attention.out_proj.weight", PROJ, "hidden (group query head_dim)"),
        row("attn.attention.out_proj.bias", PROJ_BIAS, "hidden"),
    ),
    mlp=BIGCODE.mlp,
    sizes=(multi_head_sizes, neo_sizes),
    fields=("max_position_embeddings", "attention_types"),
    ignored=(r"\.attn\.attention\.(bias|masked_bias)$",),
    names={"layers": "num_layers", "heads": "num_heads", "ffn": "intermediate_size", "epsilon": "layer_norm_epsilon"},
)
GPTJ = replace(
    BIGCODE,
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
CODEGEN = replace(
    GPTJ,
    name="codegen",
    title="CodeGen",
    model_types=("codegen",),
    architectures=("CodeGenForCausalLM",),
    # Queries, values and keys of four groups of heads, as they were cut over the ranks of a TPU.
    attention=(own("attn.qkv_proj.weight", "three_hidden hidden"), GPTJ.attention[-1]),
)
FAMILIES = (GPT2, NEO, GPTJ, CODEGEN)
