"""Keys of experts one by one, and of a gated linear_fc1 in two halves: fsdp_dtensor's, and torch_dist's of singleton_local_shards. Pure.

Facts: megatron-core 0.16.1, core/transformer/fsdp_dtensor_checkpoint.py: handle_swiglu_in_state_dict names the gate's half `_w` and the
other `_v`, of models whose activation is SwiGLU alone; handle_experts_in_state_dict numbers experts over all ranks. They are named as the
modules' parameters are: TEGroupedMLP has weight0, weight1 ..., SequentialMLP has local_experts. Later versions split a delta net's
projections (handle_gdn_in_state_dict) and a mixer's as torch_dist does. Where content_metadata has singleton_local_shards, torch_dist
names halves alike, and an expert experts.experts.N (transformer/mlp.py, apply_swiglu_sharded_factory; transformer/moe/experts.py).
"""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.glu import FC1, FC1_BIAS
from convsvc.blocks.moe import EXPERT_FC1, EXPERT_FC2, SHARED_FC1
from convsvc.dialects.megatron.tables import key_rows
from convsvc.models.model import Model
from convsvc.models.scope import Rows, Scope
from convsvc.tensors.declare import Logical, Row, row

# Before all keys: a state dict's "model", and the wrapper that is Megatron-FSDP (core/distributed/fsdp/mcore_fsdp_adapter.py).
PREFIX = "model.module."
GROUPED, SEQUENTIAL = "mlp.experts.{0}{{expert}}", "mlp.experts.local_experts.{{expert}}.{0}"
SINGLE = "mlp.experts.experts.{{expert}}.{0}"


def _expert(what: str) -> tuple[str, tuple[str, ...]]:
    """An expert's key, and its other names."""
    return GROUPED.format(what), (SEQUENTIAL.format(what), SINGLE.format(what))


def _halves(stored: str, what: Logical, order: str, also: tuple[str, ...] = ()) -> tuple[Row, Row]:
    """The gate's half and the other: `order` is that of either."""
    gate, up = (
        row(f"{stored}_{half}", what.at(glu=number), order, also=tuple([f"{other}_{half}" for other in also]))
        for number, half in (("0", "w"), ("1", "v"))
    )
    return gate, up


_FC1, _FC2 = "linear_fc1.weight", "linear_fc2.weight"
# By the keys of torch_dist that they stand for.
EXPERTS = {
    f"mlp.experts.experts.{_FC1}": (row(_expert(_FC1)[0], EXPERT_FC1, "(glu expert_ffn) hidden", also=_expert(_FC1)[1]),),
    f"mlp.experts.experts.{_FC2}": (row(_expert(_FC2)[0], EXPERT_FC2, "hidden expert_ffn", also=_expert(_FC2)[1]),),
}
HALVES = {
    "mlp.linear_fc1.weight": _halves("mlp.linear_fc1.weight", FC1, "ffn hidden"),
    "mlp.linear_fc1.bias": _halves("mlp.linear_fc1.bias", FC1_BIAS, "ffn"),
    "mlp.shared_experts.linear_fc1.weight": _halves("mlp.shared_experts.linear_fc1.weight", SHARED_FC1, "shared_ffn hidden"),
    f"mlp.experts.experts.{_FC1}": _halves(_expert(_FC1)[0], EXPERT_FC1, "expert_ffn hidden", _expert(_FC1)[1]),
}


def is_halved(model: Model) -> bool:
    """Whether training of a model saves halves: those of another activation than SiLU lie in one matrix."""
    return model.sizes.get("glu") == 2 and model.family.megatron.get("swiglu", True) is not False


def fsdp_rows(scope: Scope, model: Model, *, halved: bool, sequential: bool) -> Rows:
    """As `key_rows`, of experts that are keys of their own, and gates where they are `halved`; `sequential`: experts are modules.

    Raises LayoutError for what has no place in Megatron core.
    """
    apart = EXPERTS | HALVES if halved and scope.sizes.get("glu") == 2 else EXPERTS
    rows = [
        replace(new, optional=each.optional, written=each.written)
        for each in key_rows(scope, model)
        for new in apart.get(each.stored, (each,))
    ]
    return tuple([_in_modules(each) if sequential and each.looped else each for each in rows])


def _in_modules(expert: Row) -> Row:
    """An expert's row by its module's name."""
    return replace(expert, stored=expert.also[0])
