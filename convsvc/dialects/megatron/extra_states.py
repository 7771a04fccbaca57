"""Transformer Engine's `_extra_state` objects, which Megatron's loader asks for and refuses a checkpoint without: all of them say None.

Every linear, norm and core attention of a layer of Transformer Engine has one, and the norms behind the layers; the embedding, the
output layer, the router and a mixer's convolution have none (core 0.16.1, gpt_layer_specs.py, extensions/transformer_engine.py). An
object more does no harm; None says that FP8 is off (`--dist-ckpt-strictness` is assume_ok_unexpected by default).
"""

from __future__ import annotations

from collections.abc import Iterator

from convsvc.blocks.gqa import PROJ
from convsvc.blocks.mla import LATENT_PROJ
from convsvc.dialects.megatron.layout import LAYERS, Keys
from convsvc.dialects.megatron.tables import key_rows
from convsvc.models.model import Model
from convsvc.models.scope import Scope
from convsvc.tensors.declare import Row

# What is saved as each of them, by the spec that has no Transformer Engine.
STATE = [None]
WITHOUT = (
    "embedding.word_embeddings", "output_layer", "mlp.router", "mlp.shared_experts", "mixer.conv1d", "mixer", "mixer.norm",
    "self_attention", "self_attention.conv1d",
)  # fmt: skip
CORE = "self_attention.core_attention"
EXPERTS = "mlp.experts.experts."


def extra_states(model: Model, settings: Keys) -> Iterator[str]:
    """The names of all of them. Where layers are stacked, a name has the layer's number behind it."""
    count = model.num_layers
    for scope in model.scopes:
        is_layer = scope.kind in ("layer", "mtp_block")
        prefix = "" if not is_layer else scope.logical if scope.kind == "mtp_block" else f"{LAYERS}{scope.number}."
        stacked = scope.kind == "layer" and settings.stacked
        for module in _modules(scope, model):
            experts = model.num_experts if module.startswith(EXPERTS) else 0
            name = f"{LAYERS if stacked else prefix}{module}._extra_state/shard_"
            own, whole = (f"{scope.number}", f"{count}") if stacked else ("0", "1")
            if not experts:
                yield f"{name}{own}_{whole}"
            for expert in range(experts):
                yield f"{name}{own}.{expert}_{whole}.{experts}" if stacked else f"{name}{expert}_{experts}"


def _modules(scope: Scope, model: Model) -> list[str]:
    modules = dict.fromkeys(module for row in key_rows(scope, model) if (module := _module_of(row)) not in WITHOUT)
    if scope.logicals & {PROJ.name, LATENT_PROJ.name}:
        modules[CORE] = None
    return list(modules)


def _module_of(row: Row) -> str:
    """The module that a key's parameter is of; of a part of one, too (`mixer.in_proj.weight.z`)."""
    return row.stored.partition(".weight.")[0] if ".weight." in row.stored else row.stored.partition(".bias.")[0].rpartition(".")[0]
