"""Which rows of a framework's tables a scope has, and what of a row's axes a rank holds. Pure."""

from __future__ import annotations

from dataclasses import replace

from convsvc.dialects.mcore.grid import Rank, slice_evenly, slice_unevenly
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mcore.tables import Layers, Tables
from convsvc.dialects.templates import rows_that_fit
from convsvc.errors import LayoutError
from convsvc.models.model import Model
from convsvc.models.scope import Scope
from convsvc.tensors.blocks import Window
from convsvc.tensors.declare import ANYWHERE, Row

AXES = {
    "group": "num_key_value_heads",
    "ffn": "intermediate_size",
    "expert_ffn": "moe_intermediate_size",
    "shared_ffn": "the shared experts' intermediate size",
    "head": "num_attention_heads",
    "key_head": "linear_num_key_heads",
    "o_group": "o_groups",
    "mamba_group": "n_groups",
    "vocab": "the vocabulary",
}


# What the sizes that cut are called in a job: of a model of one module, and of several.
SIZES = ("tensor_parallel_size", "expert_parallel_size", "expert_tensor_parallel_size")
MODULES = ("tp_size (or the module's own)", "ep_size", "tp_size")


def rows_of(scope: Scope, model: Model, settings: Settings, tables: Tables) -> tuple[Row, ...]:
    """The rows that hold a scope's logical tensors.

    Raises LayoutError if one has no place in this dialect.
    """
    return rows_that_fit(scope, model, _table(scope, model, settings, tables.of(scope.module)), tables.format)


def _table(scope: Scope, model: Model, settings: Settings, tables: Tables) -> tuple[Row, ...]:
    ends = {"embedding": tables.embedding, "head": tables.heads, "last_embedding": tables.last_embedding}
    if scope.kind in ends:
        return ends[scope.kind]
    if scope.kind == "output":
        norms = tables.norms_after_mtp if model.num_mtp else tables.norms
        if model.tied:
            own = settings.of(scope.module)
            is_apart = own.pp > 1 or len(own.counts or ()) > 1
            return norms + tables.output_biases + (tables.tied if is_apart else ())
        return norms + tables.outputs + tables.output_biases
    if scope.kind == "mtp":
        return tuple(replace(each, stored=each.stored.format(mtp=scope.number)) for each in tables.mtp)
    layers = tables.te if settings.transformer_engine else tables.local
    return _layer_table(settings, layers.of(scope.logicals) if layers.others else layers, scope.dense)


def _layer_table(settings: Settings, layers: Layers, dense: bool) -> tuple[Row, ...]:
    up, experts = layers.split if settings.mla_mm_split else layers.up, layers.grouped if settings.grouped_gemm else layers.experts
    return (layers.dense if dense else layers.sparse) + up + experts


def windows_of(each: Row, scope: Scope, settings: Settings, rank: Rank) -> dict[str, Window]:
    """What of each axis this rank holds."""
    parallel, windows = settings.of(scope.module), {}
    t, e = rank.t % parallel.tp, rank.e % parallel.ep
    tp_size, ep_size, etp_size = MODULES if settings.modules else SIZES
    if each.tp == ANYWHERE:
        windows[ANYWHERE] = Window(t, parallel.tp)
    elif each.tp:
        size = settings.padded_vocab if each.tp == "vocab" else scope.sizes[each.tp]
        windows[each.tp] = _cut(each, each.tp, size, parallel.tp, t, tp_size)
    if each.ep:
        parts, index = (parallel.ep * parallel.tp, e * parallel.tp + t) if parallel.extend_ep else (parallel.ep, e)
        windows[each.ep] = _cut(each, each.ep, scope.sizes[each.ep], parts, index, ep_size)
    if each.etp and not parallel.extend_ep and parallel.etp > 1:
        windows[each.etp] = _cut(each, each.etp, scope.sizes[each.etp], parallel.etp, t, etp_size)
    return windows


def _cut(each: Row, axis: str, size: int, parts: int, index: int, why: str) -> Window:
    if each.uneven:
        return Window(*slice_unevenly(size, parts, index))
    try:
        return Window(*slice_evenly(AXES.get(axis, axis), size, parts, index, why))
    except LayoutError as error:
        is_padded = axis == "vocab" and why == SIZES[0]
        do = "state make_vocab_size_divisible_by to pad it with zero rows" if is_padded else f"choose a {why} that divides {size}"
        raise LayoutError(f"{each.stored}: {error.message}", do=do, details=error.details) from None
