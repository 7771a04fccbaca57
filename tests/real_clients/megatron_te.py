"""What Transformer Engine's modules are called and how they name what they hold, without it: so that Megatron's own layer specs for it
can be built, saved, loaded and run on CPUs.

`install` puts them in the place of what the specs of core 0.16 and 0.19 ask for (models/backends.py, BackendSpecProvider). A norm is
fused into the linear layer behind it under `layer_norm_weight`; every one of them, a norm and a core attention, too, has an `_extra_state`.
Norms are multiplied by 1 + weight where layernorm_zero_centered_gamma says so.
"""

from __future__ import annotations

import math
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.models.gpt import experimental_attention_variant_module_specs, gpt_layer_specs, moe_module_specs
from megatron.core.ssm import gated_delta_net
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer import multi_latent_attention

VARIANTS = "megatron.core.transformer.experimental_attention_variant"
ABSORBED, SPARSE = f"{VARIANTS}.absorbed_mla", f"{VARIANTS}.dsa"


class Stateful(torch.nn.Module):
    """Has an extra state, which says None, and does without one in a file, as Transformer Engine's modules do."""

    def __init__(self) -> None:
        super().__init__()
        self._register_load_state_dict_pre_hook(lambda state, prefix, *rest: state.setdefault(f"{prefix}_extra_state", None))

    def get_extra_state(self) -> Any:
        return None

    def set_extra_state(self, state: Any) -> None:
        pass


def normed(hidden: torch.Tensor, weight: torch.Tensor, config: Any) -> torch.Tensor:
    scale = 1 + weight if config.layernorm_zero_centered_gamma else weight
    return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + config.layernorm_epsilon) * scale


class Norm(Stateful):
    """TENorm: one of the root of the mean square, or with a mean and a bias, as the configuration it is given says."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **ignored: Any) -> None:
        super().__init__()
        self.config, self.eps, self.weight = config, eps, torch.nn.Parameter(torch.ones(hidden_size))
        if config.normalization == "LayerNorm":
            self.bias = torch.nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.config.normalization == "LayerNorm":
            return torch.nn.functional.layer_norm(hidden, hidden.shape[-1:], self.weight, self.bias, self.eps)
        return normed(hidden, self.weight, self.config)


class NormedLinear(ColumnParallelLinear):
    """TELayerNormColumnParallelLinear."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **named: Any) -> None:
        super().__init__(input_size, output_size, config=config, **named)
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(input_size))

    def forward(self, hidden: torch.Tensor, *rest: Any, **named: Any) -> Any:
        return super().forward(normed(hidden, self.layer_norm_weight, self.config), *rest, **named)


class WholeLinear(Stateful):
    """TELinear with parallel_mode duplicated: every rank has all of it."""

    def __init__(self, input_size: int, output_size: int, **ignored: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(output_size, input_size))

    def forward(self, hidden: torch.Tensor) -> Any:
        return hidden @ self.weight.T, None


class CoreAttention(Stateful):
    """TEDotProductAttention: causal, with heads of queries and keys that need not be as wide as those of values."""

    def __init__(self, config: Any, *args: Any, softmax_scale: float | None = None, **ignored: Any) -> None:
        super().__init__()
        self.scale = softmax_scale

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        length, heads = query.shape[0], query.shape[2]
        key, value = (each.repeat_interleave(heads // each.shape[2], dim=2) for each in (key, value))
        scores = torch.einsum("qbhd,kbhd->bhqk", query, key) * (self.scale or 1 / math.sqrt(query.shape[-1]))
        scores = scores.masked_fill(torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1), -torch.inf)
        mixed = torch.einsum("bhqk,kbhd->qbhd", torch.softmax(scores, dim=-1), value)
        return mixed.reshape(length, query.shape[1], -1)


class Provider(LocalSpecProvider):
    """TESpecProvider."""

    def linear(self) -> type:
        return WholeLinear

    def fuse_layernorm_and_linear(self) -> bool:
        return True

    def column_parallel_layer_norm_linear(self) -> type:
        return NormedLinear

    def layer_norm(self, rms_norm: bool = False, for_qk: bool = False, **ignored: Any) -> type:
        return Norm

    def core_attention(self) -> type:
        return CoreAttention


def normalised(heads: torch.Tensor) -> torch.Tensor:
    """fla.modules.l2norm."""
    return heads * torch.rsqrt((heads * heads).sum(-1, keepdim=True) + 1e-6)


def install() -> None:
    """Before a spec is asked for."""
    for module in (gpt_layer_specs, experimental_attention_variant_module_specs, moe_module_specs):
        module.HAVE_TE, module.TESpecProvider = True, Provider
    gpt_layer_specs.TENorm = Norm
    for module in (gated_delta_net, getattr(gated_delta_net, "common", gated_delta_net)):
        module.HAVE_FLA, module.l2norm = True, normalised
    if find_spec("megatron.core.transformer.mla_qk_norm_config"):  # from 0.19
        chosen = import_module("megatron.core.transformer.mla_qk_norm_config")
        backend = chosen.get_backend
        chosen.get_backend = lambda implementation: Provider() if implementation == "transformer_engine" else backend(implementation)
    latent = [multi_latent_attention]
    if find_spec(ABSORBED):  # from 0.18
        latent.append(import_module(ABSORBED))
    if find_spec(SPARSE):
        import_module(SPARSE).rotate_activation = lambda heads: heads  # of queries and keys alike: their products stay what they are
    for module in latent:
        module.TELinear, module.TEColumnParallelLinear = WholeLinear, ColumnParallelLinear
