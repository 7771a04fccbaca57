"""Mamba (the first): layers that are a norm and a selective state space, for which frameworks have no place."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.own import own
from convsvc.families import mamba2
from convsvc.models.facts import Facts
from convsvc.models.family import Family
from convsvc.models.scope import LayerRows, Rows

# Two inner widths come out of the first projection: what goes through the convolution, and its gate (MambaMixer).
MIXER = (
    own("mixer.in_proj.weight", "two_inner hidden"),
    own("mixer.conv1d.weight", "inner single conv_kernel"),
    own("mixer.x_proj.weight", "step_and_states inner"),
    own("mixer.dt_proj.weight", "inner dt_rank"),
    own("mixer.dt_proj.bias", "inner"),
    own("mixer.A_log", "inner ssm_state", keep="F32"),
    own("mixer.D", "inner", keep="F32"),
    own("mixer.out_proj.weight", "hidden inner"),
)
CONV_BIAS = (own("mixer.conv1d.bias", "inner"),)
BIASES = (own("mixer.in_proj.bias", "two_inner"), own("mixer.out_proj.bias", "hidden"))


def with_biases(facts: Facts, mixer: Rows, conv_bias: Rows, biases: Rows, *, conv: str, proj: str) -> Rows:
    """A mixer, with the biases that the configuration's fields `conv` and `proj` speak of."""
    return mixer + (conv_bias if facts.flag(conv, default=True) else ()) + (biases if facts.flag(proj) else ())


def mixer_layer(family: Family, facts: Facts, layer: int) -> LayerRows:
    """A norm and a mixer."""
    return LayerRows(family.norms + with_biases(facts, MIXER, CONV_BIAS, BIASES, conv="use_conv_bias", proj="use_bias"))


def mamba1_sizes(facts: Facts) -> dict[str, int]:
    """inner: the state spaces' width; dt_rank: of the time steps, a 16th of the hidden size where it is "auto" (MambaConfig)."""
    hidden, state = facts.number("hidden"), facts.first_number(("mamba_d_state", "state_size"), default=16)
    stated = facts.first_number(("mamba_expand", "expand"), default=2) * hidden
    inner = stated if facts.get("mamba_expand") is not None else facts.first_number(("intermediate_size",), default=stated)
    rank = facts.get("mamba_dt_rank", "time_step_rank", default="auto")
    rank = -(-hidden // 16) if rank == "auto" else facts.first_number(("mamba_dt_rank", "time_step_rank"))
    kernel = facts.first_number(("mamba_d_conv", "conv_kernel"), default=4)
    sizes = {"inner": inner, "two_inner": 2 * inner, "ssm_state": state, "dt_rank": rank, "step_and_states": rank + 2 * state}
    return {**sizes, "conv_kernel": kernel, "single": 1}


FAMILY = replace(
    mamba2.FAMILY,
    name="mamba",
    title="Mamba",
    model_types=("mamba",),
    architectures=("MambaForCausalLM",),
    attention=(),
    sizes=(mamba1_sizes,),
    layer=mixer_layer,
    shown_by=None,
    tied_by_default=True,
    fields=("time_step_rank", "expand"),
)
