"""Mamba-2's mixer: a state space model whose heads are grouped; the heads of a group share what writes to and reads from their states.

Sizes: mamba_group; mamba_head = heads a group; mamba_dim, a head's width; state, a state's; conv_kernel; single (1). Gates, inputs, both
state projections and time steps come out of one projection, in this order, and a convolution runs over the middle three. Tensor ranks
share groups, each of these parts for itself (megatron/core/ssm/mamba_mixer.py: in_proj is "z x B C dt").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convsvc.blocks.own import called
from convsvc.errors import SourceError
from convsvc.models.facts import NAMES, Facts
from convsvc.models.model import Model
from convsvc.tensors.declare import Row, logical, part, row

MIXER_NORM = logical("norm.weight", "hidden")
IN_GATE = logical("mixer.in_proj.gate", "mamba_group mamba_head mamba_dim hidden")
IN_VALUE = logical("mixer.in_proj.value", "mamba_group mamba_head mamba_dim hidden")
IN_WRITE = logical("mixer.in_proj.write", "mamba_group state hidden")
IN_READ = logical("mixer.in_proj.read", "mamba_group state hidden")
IN_STEP = logical("mixer.in_proj.step", "mamba_group mamba_head hidden")
CONV_VALUE = logical("mixer.conv1d.value", "mamba_group mamba_head mamba_dim single conv_kernel")
CONV_WRITE = logical("mixer.conv1d.write", "mamba_group state single conv_kernel")
CONV_READ = logical("mixer.conv1d.read", "mamba_group state single conv_kernel")
CONV_VALUE_BIAS = logical("mixer.conv1d.value_bias", "mamba_group mamba_head mamba_dim")
CONV_WRITE_BIAS = logical("mixer.conv1d.write_bias", "mamba_group state")
CONV_READ_BIAS = logical("mixer.conv1d.read_bias", "mamba_group state")
A_LOG = logical("mixer.A_log", "mamba_group mamba_head")
SKIP = logical("mixer.D", "mamba_group mamba_head")
STEP_BIAS = logical("mixer.dt_bias", "mamba_group mamba_head")
GATED_NORM = logical("mixer.norm.weight", "mamba_group mamba_head mamba_dim")
MIXER_OUT = logical("mixer.out_proj.weight", "hidden mamba_group mamba_head mamba_dim")
MIXER_OUT_BIAS = logical("mixer.out_proj.bias", "hidden")
# Megatron's name for it is not that of a decoder's final norm.
MAMBA_FINAL_NORM = logical("final_norm.weight", "hidden")

IN_PROJ = (
    part(IN_GATE, "(mamba_group mamba_head mamba_dim) hidden"),
    part(IN_VALUE, "(mamba_group mamba_head mamba_dim) hidden"),
    part(IN_WRITE, "(mamba_group state) hidden"),
    part(IN_READ, "(mamba_group state) hidden"),
    part(IN_STEP, "(mamba_group mamba_head) hidden"),
)
CONV = (
    part(CONV_VALUE, "(mamba_group mamba_head mamba_dim) single conv_kernel"),
    part(CONV_WRITE, "(mamba_group state) single conv_kernel"),
    part(CONV_READ, "(mamba_group state) single conv_kernel"),
)
CONV_BIAS = (
    part(CONV_VALUE_BIAS, "(mamba_group mamba_head mamba_dim)"),
    part(CONV_WRITE_BIAS, "(mamba_group state)"),
    part(CONV_READ_BIAS, "(mamba_group state)"),
)
MIXER = (
    row("mixer.in_proj.weight", IN_PROJ),
    row("mixer.conv1d.weight", CONV),
    row("mixer.A_log", A_LOG, "(mamba_group mamba_head)", keep="F32"),
    row("mixer.D", SKIP, "(mamba_group mamba_head)", keep="F32"),
    row("mixer.dt_bias", STEP_BIAS, "(mamba_group mamba_head)", keep="F32"),
    row("mixer.norm.weight", GATED_NORM, "(mamba_group mamba_head mamba_dim)"),
    row("mixer.out_proj.weight", MIXER_OUT, "hidden (mamba_group mamba_head mamba_dim)"),
)
MIXER_CONV_BIAS = (row("mixer.conv1d.bias", CONV_BIAS),)
MIXER_BIASES = (row("mixer.out_proj.bias", MIXER_OUT_BIAS, "hidden"),)

# What mamba_ssm's Mamba2 takes where its ssm_cfg is silent.
STATE_SPACES: Mapping[str, tuple[str, int]] = {"state": ("d_state", 128), "mamba_groups": ("ngroups", 1), "mamba_dim": ("headdim", 64)}


def mamba_sizes(facts: Facts) -> dict[str, int]:
    """All of the module's sizes, and vocab where the configuration pads it (pad_vocab_size_multiple, state-spaces).

    Raises SourceError if the configuration is silent about a size, or the heads cannot be grouped.
    """
    groups, dim = _size(facts, "mamba_groups"), _size(facts, "mamba_dim")
    heads = facts.number("mamba_heads", default=0) or _heads(facts, dim)
    if not groups or heads % groups:
        raise SourceError(f"{facts.origin}: {heads} heads cannot share {groups} groups evenly")
    sizes = {
        "mamba_group": groups,
        "mamba_head": heads // groups,
        "mamba_dim": dim,
        "state": _size(facts, "state"),
        "conv_kernel": facts.first_number(("conv_kernel", "mamba_d_conv", "d_conv"), default=4),
        "single": 1,
    }
    multiple = facts.first_number(("pad_vocab_size_multiple",))
    return sizes | ({"vocab": -(-facts.number("vocab") // multiple) * multiple} if multiple else {})


# Inside a layer that has a feed-forward block as well (Granite 4, Bamba, Falcon-H1): a norm before it that no framework's mixer layer is.
LAYER_MIXER = called(MIXER, mixer="mamba")
LAYER_MIXER_BIASES = called(MIXER_BIASES, mixer="mamba")
LAYER_MIXER_CONV_BIAS = called(MIXER_CONV_BIAS, mixer="mamba")
LAYER_MIXER_NORM = logical("layer_with_mixer.input_layernorm.weight", "hidden")


def layer_mixer(facts: Facts) -> tuple[Row, ...]:
    """The rows of a mixer inside of a layer, and its biases where the configuration has them."""
    conv_bias = LAYER_MIXER_CONV_BIAS if facts.flag("mamba_conv_bias", default=True) else ()
    return LAYER_MIXER + conv_bias + (LAYER_MIXER_BIASES if facts.flag("mamba_proj_bias") else ())


def layer_mixer_sizes(facts: Facts) -> dict[str, int]:
    """Of a mixer inside of a layer: by mamba_ssm's names with mamba_ before them, as Granite 4, Bamba and Falcon-H1 have them."""
    names = {"mamba_num_heads": "mamba_n_heads", "mamba_head_dim": "mamba_d_head", "mamba_num_groups": "mamba_n_groups"}
    names |= {"mamba_state_dim": "mamba_d_state", "expand": "mamba_expand"}
    values = {name: facts.get(other, name) for name, other in names.items()}
    if values["mamba_head_dim"] in (None, "auto"):
        inner = facts.first_number(("mamba_d_ssm",), default=facts.first_number(("mamba_expand",), default=2) * facts.number("hidden"))
        values["mamba_head_dim"] = inner // max(facts.number("mamba_n_heads"), 1)
    return mamba_sizes(Facts({**facts.values, **values}, facts.origin))


def saved_args(model: Model, facts: Facts) -> dict[str, Any]:
    """Hugging Face's names and Megatron's (megatron/core/transformer/transformer_config.py, mamba_*)."""
    sizes = model.sizes
    if "mamba_group" not in sizes:
        return {}
    heads = sizes["mamba_group"] * sizes["mamba_head"]
    # Where layers have attention too, these names are its heads'.
    alone = {} if "group" in sizes else {"head_dim": sizes["mamba_dim"], "num_heads": heads}
    return {
        **alone,
        "state_size": sizes["state"],
        "mamba_state_dim": sizes["state"],
        "n_groups": sizes["mamba_group"],
        "mamba_num_groups": sizes["mamba_group"],
        "mamba_head_dim": sizes["mamba_dim"],
        "mamba_num_heads": heads,
        "conv_kernel": sizes["conv_kernel"],
    }


def _heads(facts: Facts, dim: int) -> int:
    """As many as fill the inner width, which is twice the hidden size where nothing else is said (Megatron's default)."""
    inner = facts.first_number(("expand",), default=2) * facts.number("hidden")
    if not dim or inner % dim:
        raise SourceError(f"{facts.origin}: an inner width of {inner} is no multiple of heads {dim} wide", do="state num_heads, or expand")
    return inner // dim


def _size(facts: Facts, what: str) -> int:
    """A size by its key in NAMES; in a state-spaces configuration, which says little, what its ssm_cfg or mamba_ssm's defaults say."""
    config: Any = facts.get("ssm_cfg")
    nested, usual = STATE_SPACES[what]
    default = config.get(nested, usual) if isinstance(config, dict) else None
    if facts.get(*NAMES[what], default=default) is None:
        raise SourceError(f"{facts.origin} does not say {' or '.join(NAMES[what])}", do=f"state source.architecture.{NAMES[what][0]}")
    return facts.number(what, default=default)
