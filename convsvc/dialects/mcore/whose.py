"""Whose rank files lie in a directory, Megatron-LM's or MindSpeed-LLM's: their trackers and directories are alike. Headers only.

Names decide where only one of the two has a place for them: latent attention's down projections are apart in Megatron core and one matrix
in MindSpeed-LLM (`linear_qkv`), gated delta nets and MTP's norms are called otherwise. Where both read the same, the saved args do:
MindSpeed-LLM's training and its converter both save its own arguments, which are on the command line whatever the model is.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from convsvc.dialects.files import index_file
from convsvc.dialects.mcore.checkpoint import MODEL, TE_NAMES, iteration_folder, rank_paths
from convsvc.dialects.mcore.tables import Layers, Tables
from convsvc.errors import ConvsvcError
from convsvc.models.scope import Rows
from convsvc.roots import RootedPath

# Arguments that MindSpeed-LLM adds to Megatron's (commit c77308a1: features_manager, convert_hf2mg.py), or its converter has alone.
OF_MINDSPEED = frozenset({
    "mla_mm_split", "moe_tp_extend_ep", "noop_layers", "num_layer_list", "schedules_method", "qkv_type", "fc_type", "load_model_type",
    "save_layer_by_layer", "use_fused_rmsnorm", "use_ascend_mc2", "npu_deterministic",
})  # fmt: skip
# What Megatron-LM's own args say of every checkpoint since core 0.7, and ours of its rank files.
OF_MEGATRON = "ckpt_format"
LAYER = re.compile(r"(?:mtp\.layers\.\d+\.(?:transformer_layer|mtp_model_layer)|decoder\.layers\.\d+)\.")
# Of adapters and buffers nobody's tables speak.
WEIGHT = re.compile(r"^(?!.*(lora_|\.base_layer\.|\.adapter\.|_extra_state|inv_freq)).*$")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rank file shows: which layers there are, by the kinds of their tensors, other tensors, and the names of the saved args."""

    layers: frozenset[frozenset[str]]
    others: frozenset[str]
    args: frozenset[str]
    transformer_engine: bool


@dataclass(frozen=True, slots=True)
class Whose:
    """Whether rank files are Megatron-LM's; `reason` is why; None where both read them alike and only custom says it."""

    megatron: bool
    reason: str | None = None


def whose(root: RootedPath, megatron: Tables, mindspeed: Tables) -> Whose | None:
    """Whose the rank files below a directory are; None where there are none, or those of a model of neither. Raises nothing."""
    seen = _seen(root)
    if seen is None:
        return None
    unknown = [_unknown(seen, tables) for tables in (megatron, mindspeed)]
    return None if min(unknown) == len(seen.others) + sum(map(len, seen.layers)) else judge(seen, *unknown)


def judge(seen: Seen, unknown_to_megatron: int, unknown_to_mindspeed: int) -> Whose:
    """Whose they are, of so many kinds of tensors that one or the other has no place for. Pure."""
    if unknown_to_megatron != unknown_to_mindspeed:
        return Whose(unknown_to_megatron < unknown_to_mindspeed, "tensors are called as in it alone")
    if words := sorted(seen.args & OF_MINDSPEED):
        return Whose(False, f"the saved args have {', '.join(words[:2])}")
    if OF_MEGATRON in seen.args:
        return Whose(True, f"the saved args have {OF_MEGATRON} and no argument of MindSpeed-LLM's")
    return Whose(seen.transformer_engine)


def _seen(root: RootedPath) -> Seen | None:
    """What the first rank's file shows, and the last one's, which has other stages' layers; None where they cannot be read."""
    layers, others, args, names = set[frozenset[str]](), set[str](), set[str](), set[str]()
    try:
        paths = rank_paths(iteration_folder(root, None))
        for path in dict.fromkeys((paths[0], paths[-1])):
            index, _ = index_file(path)
            here = [tensor.name.partition("/")[2] for tensor in index.tensors if MODEL.match(tensor.name)]
            mine = list(filter(WEIGHT.match, here))
            layers |= set(_layers_of(mine))
            others |= {_shape_of(name) for name in mine if not LAYER.match(name)}
            names |= set(mine)
            saved = index.tree.get("args")
            args |= set(vars(saved)) if isinstance(saved, Namespace) else set()
    except ConvsvcError:
        return None
    return Seen(frozenset(layers), frozenset(others), frozenset(args), any(re.search(TE_NAMES, name) for name in names))


def _layers_of(names: Iterable[str]) -> Iterator[frozenset[str]]:
    held: dict[str, set[str]] = {}
    for name in names:
        if match := LAYER.match(name):
            held.setdefault(match[0], set()).add(_shape_of(name[match.end() :]))
    return map(frozenset, held.values())


def _shape_of(name: str) -> str:
    """A name without its numbers, be they fields of a row.

    >>> _shape_of("experts.3.weight12"), _shape_of("experts.{expert}.weight{expert}")
    ('experts.#.weight#', 'experts.#.weight#')
    """
    return re.sub(r"\{[a-z_]+\}|\d+", "#", name)


def _unknown(seen: Seen, tables: Tables) -> int:
    """For how many kinds of tensors there is no place, each layer taken as of the implementation that has one for most."""
    variants = [_names(_rows(layers)) for layers in _variants(tables)]
    own = (tables.embedding, tables.norms, tables.norms_after_mtp, tables.outputs, tables.output_biases, tables.tied, tables.mtp)
    ends = _names(row for rows in (*own, tables.last_embedding) for row in rows)
    return len(seen.others - ends) + sum(min(len(layer - names) for names in variants) for layer in seen.layers)


def _variants(tables: Tables) -> Iterator[Layers]:
    for layers in (tables.local, tables.te):
        yield layers
        yield from layers.others.values()


def _rows(layers: Layers) -> Rows:
    return (*layers.dense, *layers.sparse, *layers.experts, *layers.grouped, *layers.up, *layers.split)


def _names(rows: Iterable[Any]) -> frozenset[str]:
    return frozenset(_shape_of(name) for row in rows for name in (row.stored, *row.also))
