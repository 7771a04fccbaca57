"""The gated feed-forward block: gate and up as one matrix (glu 0 and 1), and down."""

from __future__ import annotations

from typing import Any

from convsvc.models.facts import Facts
from convsvc.models.model import Model
from convsvc.tensors.declare import Row, logical, row

FC1 = logical("mlp.linear_fc1.weight", "glu ffn hidden", over="hidden")
FC2 = logical("mlp.linear_fc2.weight", "hidden ffn", over="ffn")
FC1_BIAS = logical("mlp.linear_fc1.bias", "glu ffn")
FC2_BIAS = logical("mlp.linear_fc2.bias", "hidden")

GLU = (
    row("mlp.gate_proj.weight", FC1.at(glu="0"), "ffn hidden"),
    row("mlp.up_proj.weight", FC1.at(glu="1"), "ffn hidden"),
    row("mlp.down_proj.weight", FC2, "hidden ffn"),
)
# Gate and up are one stored tensor.
GLU_PACKED = (
    row("mlp.gate_up_proj.weight", FC1, "(glu ffn) hidden"),
    row("mlp.down_proj.weight", FC2, "hidden ffn"),
)
GLU_BIASES = (
    row("mlp.gate_proj.bias", FC1_BIAS.at(glu="0"), "ffn"),
    row("mlp.up_proj.bias", FC1_BIAS.at(glu="1"), "ffn"),
    row("mlp.down_proj.bias", FC2_BIAS, "hidden"),
)

# Without a gate, the first matrix is the one that goes up.
UNGATED = (
    row("mlp.up_proj.weight", FC1.at(glu="0"), "ffn hidden"),
    row("mlp.down_proj.weight", FC2, "hidden ffn"),
)


def ungated(up: str, down: str, *, biased: bool) -> tuple[Row, ...]:
    """A feed-forward block without a gate by the names of its two matrices, with a bias on each or none."""
    weights = (row(f"{up}.weight", FC1.at(glu="0"), "ffn hidden"), row(f"{down}.weight", FC2, "hidden ffn"))
    biases = (row(f"{up}.bias", FC1_BIAS.at(glu="0"), "ffn"), row(f"{down}.bias", FC2_BIAS, "hidden"))
    return weights + biases if biased else weights


def fourfold_sizes(facts: Facts) -> dict[str, int]:
    """glu (1) and ffn, which is four times the hidden size where none of the fields of such models says it."""
    return {"glu": 1, "ffn": facts.first_number(("ffn_hidden_size", "n_inner"), default=4 * facts.number("hidden"))}


def ungated_sizes(facts: Facts) -> dict[str, int]:
    """glu (1) and ffn."""
    return {"glu": 1, "ffn": facts.number("ffn")}


def glu_sizes(facts: Facts) -> dict[str, int]:
    """glu (2) and ffn; without ffn where every layer has experts and nobody says it."""
    kinds = facts.get("moe_layer_freq")
    experts_only = facts.get("intermediate_size", "ffn_hidden_size") is None and isinstance(kinds, list) and 0 not in kinds
    return {"glu": 2} if experts_only else {"glu": 2, "ffn": facts.number("ffn")}


def saved_args(model: Model, facts: Facts) -> dict[str, Any]:
    """The dense blocks' width, and the switch for a bias that they have; Megatron's is of all linear layers."""
    width = {"ffn_hidden_size": model.sizes["ffn"]} if "ffn" in model.sizes else {}
    return {**width, "add_bias_linear": True} if model.layers_have(FC1_BIAS) else width
