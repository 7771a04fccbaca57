"""What `--use-checkpoint-args` takes from saved args that a configuration says in another form, or leaves to its class. Pure.

Megatron takes each arg that is there and keeps its own default for others, so that what is missing is computed otherwise without a word:
the args it asks for are those of megatron/training/checkpointing.py, load_args_from_checkpoint (core 0.19).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convsvc.blocks.glu import FC1, FC1_BIAS
from convsvc.blocks.gqa import PROJ, PROJ_BIAS
from convsvc.blocks.mamba import MIXER_OUT
from convsvc.blocks.moe import EXPERT_FC1
from convsvc.blocks.norms import INPUT_NORM_BIAS, PARALLEL_NORM_BIAS
from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.models.scope import Scope
from convsvc.notes import Note

# What configurations call the longest sequence, and what feed-forward blocks compute.
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx")
ACTIVATIONS = ("hidden_act", "mlp_hidden_act", "activation_function", "hidden_activation")
# A sequence that fits where nobody says one: --seq-length on the command line comes before it.
USUAL_SEQUENCE = 4096
NORM_BIASES = (INPUT_NORM_BIAS, PARALLEL_NORM_BIAS)
# Of a layer with one mixer (core/ssm/mamba_hybrid_layer_allocation.py, Symbols).
SYMBOLS = {MIXER_OUT.name: "M", PROJ.name: "*", EXPERT_FC1.name: "E", FC1.name: "-"}


def told_args(model: Model, facts: Facts) -> dict[str, Any]:
    """The args that the architecture's own lack; without those that nothing is known of."""
    args: dict[str, Any] = {}
    for of_kind in (_positions, _activation, _choices, _pattern):
        args |= of_kind(model, facts)
    return args


def untold(model: Model, facts: Facts) -> list[Note]:
    """What no arg can say of the model: training that is built by args alone leaves it out, does not load it, or computes another one."""
    said = []
    if model.layers_have(PROJ_BIAS) and not model.layers_have(FC1_BIAS):
        said.append(
            "self_attention.linear_proj.bias: Megatron has one with a bias on all linear layers alone (add_bias_linear), and loads this "
            "model without it"
        )
    is_silu = model.family.megatron.get("swiglu", True) and _said(facts) in (None, "silu", "swish")
    if model.sizes.get("glu") == 2 and not is_silu:
        said.append(
            "the feed-forward blocks have a gate, and their activation is not SiLU: Megatron's args know no such block, and its layers "
            "without a gate are half as wide (gated_linear_unit and activation_func of its TransformerConfig say it)"
        )
    if model.family.megatron.get("normalization") == "LayerNorm" and not any(map(model.layers_have, NORM_BIASES)):
        said.append("norms are LayerNorms without a bias, which Megatron does not have: it asks for layer_norm_bias")
    return [Note("advice", f"{each}: training must be told otherwise in code, or it computes another model") for each in said]


def _positions(model: Model, facts: Facts) -> dict[str, Any]:
    """The longest sequence and that of training, and of how much of a head positions are."""
    most = next((value for name in POSITIONS if type(value := facts.get(name)) is int and value > 0), model.sizes.get("position"))
    args: dict[str, Any] = {} if most is None else {"max_position_embeddings": most}
    if facts.get("seq_length") is None and most is not None:
        args["seq_length"] = min(most, USUAL_SEQUENCE)
    return args | ({"rotary_percent": model.family.partial_rotary} if model.family.partial_rotary != 1.0 else {})


def _activation(model: Model, facts: Facts) -> dict[str, Any]:
    """The square of a rectified sum, of blocks without a gate."""
    return {"squared_relu": True} if model.sizes.get("glu") == 1 and _said(facts) == "relu2" else {}


def _said(facts: Facts) -> Any:
    """The activation, by the configuration's word."""
    return next((facts.get(name) for name in ACTIVATIONS if facts.get(name) is not None), None)


def _choices(model: Model, facts: Facts) -> dict[str, Any]:
    """How many experts a token chooses, of configurations that say it layer by layer or inside of others."""
    nested = facts.get("ffn_config")
    said = facts.get("num_experts_per_tok", "moe_topk", "moe_router_topk")
    said = nested.get("moe_top_k") if said is None and isinstance(nested, Mapping) else said
    if isinstance(said, list) and len(set(map(repr, said))) == 1:
        said = said[0]
    return {"moe_router_topk": said} if model.num_experts and type(said) is int else {}


def _pattern(model: Model, facts: Facts) -> dict[str, Any]:
    """What each layer is, of a model whose layers are one mixer each; Mamba-2 alone needs no word."""
    found = [_symbols(scope) for scope in model.layers()]
    if not model.layers_have(MIXER_OUT) or any(len(each) != 1 for each in found) or set(found) == {"M"}:
        return {}
    return {"hybrid_override_pattern": "".join(found), "hybrid_layer_pattern": "".join(found)}


def _symbols(scope: Scope) -> str:
    return "".join(symbol for name, symbol in SYMBOLS.items() if name in scope.logicals)
