"""A new distributed checkpoint: `.distcp` files, common.pt, `.metadata`, and metadata.json and the tracker behind all others.

Megatron-FSDP's has neither common.pt nor metadata.json: what a state dict has beside the model is an object each (`args`, `iteration`,
`checkpoint_version`), which its loader asks for (megatron/training/checkpointing.py, _load_base_checkpoint, strict_fsdp_dtensor_load).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from convsvc.dialects.alike import plan_alike
from convsvc.dialects.iterations import TRACKER
from convsvc.dialects.layout import Layout
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.new_files import bytes_by_dtype
from convsvc.dialects.mcore.progress import RELEASE, counted, folder_of
from convsvc.dialects.mcore.saved_args import compose_args
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.megatron.checkpoint import COMMON, MARK
from convsvc.dialects.megatron.extra_states import STATE, extra_states
from convsvc.dialects.megatron.fsdp_objects import Objects, StateWords, path_of
from convsvc.dialects.megatron.fsdp_state import MAIN, check_apart, groups_of
from convsvc.dialects.megatron.integrity import INTEGRITY
from convsvc.dialects.megatron.job import MegatronTarget
from convsvc.dialects.megatron.layout import Keys, chunks
from convsvc.dialects.megatron.norms import write_norms
from convsvc.dialects.megatron.own_args import own_args
from convsvc.dialects.megatron.state import WORDS_OF_STATE
from convsvc.dialects.megatron.told_args import untold
from convsvc.dialects.output import Draft, NewFile, Output, SideFile
from convsvc.errors import JobError, LayoutError
from convsvc.formats import distcp
from convsvc.formats.base import StoredTensor
from convsvc.formats.dcp.metadata import LIMITS
from convsvc.formats.dcp.records import METADATA, Chunk, Chunked, Item, Metadata
from convsvc.formats.dcp.writing import pickle_metadata
from convsvc.formats.torch_zip_layout import torch_zip_bytes
from convsvc.models.model import Model
from convsvc.notes import Note

KIND = "distcp"
# All objects say the same, so that one torch file stands for all of them.
OBJECTS = "__0_0.distcp"
BACKEND = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", "common_backend_version": 1}
CHECKPOINT_VERSION = 3.0
# Which models have of: mixers, delta nets.
HYBRID_SIZES = frozenset({"mamba_group", "key_head"})


def _iteration(draft: Draft[MegatronTarget, Keys]) -> str:
    """The job's, or that which training has come to. Raises JobError where it goes on and nobody says from where."""
    if draft.target.iteration is not None or draft.training is None:
        return draft.target.iteration or str(draft.settings.iteration or RELEASE)
    if not draft.training.iteration:
        raise JobError("the source does not say which iteration training has come to", do="state target.iteration")
    return str(draft.training.iteration)


def output(draft: Draft[MegatronTarget, Keys]) -> tuple[Layout, Output]:
    """A file for every chunk of a layer's largest tensor, beside small ones; the words of the model in common.pt."""
    layout, settings, specs = draft.layout, draft.settings, draft.specs()
    held: dict[str, list[int]] = {}
    for entry in layout.entries:
        held.setdefault(entry.file, []).append(entry.kind)
    skeletons, chosen = plan_alike(held.values(), specs, distcp.plan_skeleton)
    folder = folder_of(_iteration(draft))
    files = tuple([NewFile(f"{folder}/{path}", KIND, number) for path, number in zip(held, chosen, strict=True)])
    places = {(path, tensor.name): tensor for path, number in zip(held, chosen, strict=True) for tensor in skeletons[number].tensors}
    make = _fsdp_sides if settings.fsdp else _dist_sides
    sides = make(draft, folder, lambda: _chunked(draft.model, settings, places))
    entries = tuple([entry._replace(file=f"{folder}/{entry.file}") for entry in layout.entries])
    encoded, changed = write_norms(draft.layout, draft.dtypes) if draft.training is None else ({}, [])
    notes = [*changed, *(Note("advice", said) for said in draft.model.advice), *untold(draft.model, draft.facts)]
    instead: frozenset[str] = frozenset()
    if settings.fsdp and draft.training is not None:
        instead = settings.state.get(MAIN, frozenset())
        notes += _state_words(draft).notes()
        notes += (
            [Note("ignored", f"{len(instead)} weights are left out, as Megatron-FSDP has main weights in their place")] if instead else []
        )
    if draft.training is not None and draft.training.groups and not settings.fsdp:
        notes.append(Note("changed", "weights are main weights, as Megatron-FSDP has no others: Megatron rounds them to its own dtype"))
    return Layout(layout.kinds, entries), Output(files, skeletons, sides, tuple(notes), encoded, settings.hashed, instead=instead)


def _dist_sides(draft: Draft[MegatronTarget, Keys], folder: str, chunked: Callable[[], dict[str, Chunked]]) -> tuple[SideFile, ...]:
    """What lies beside the weights of torch_dist."""
    if draft.training is not None and draft.training.groups:
        check_apart(groups_of(draft.training.common["optimizer"]))
    state = torch_zip_bytes(STATE, "archive")
    objects = tuple(extra_states(draft.model, draft.settings))
    metadata = Metadata(chunked(), objects, dict.fromkeys(objects, Item(OBJECTS, 0, len(state))))
    return (
        SideFile(f"{folder}/{OBJECTS}", text=state),
        SideFile(f"{folder}/{COMMON}", text=torch_zip_bytes(_common(draft), "common", draft.training.data if draft.training else {})),
        SideFile(f"{folder}/{METADATA}", text=pickle_metadata(metadata, None), last=True),
        *([SideFile(f"{folder}/{INTEGRITY}", last=True, hashes_of=folder)] if draft.settings.hashed else []),
        SideFile(f"{folder}/{MARK}", text=json.dumps(BACKEND), last=True),
        SideFile(TRACKER, text=_iteration(draft), last=True),
    )


def _fsdp_sides(draft: Draft[MegatronTarget, Keys], folder: str, chunked: Callable[[], dict[str, Chunked]]) -> tuple[SideFile, ...]:
    """What lies beside the weights of fsdp_dtensor: the state dict's other values, by their names, and where each name stood in it."""
    common, tensors, objects = _common(draft), chunked(), Objects(OBJECTS)
    for name in sorted(WORDS_OF_STATE):
        objects.place((name,), objects.item(common[name], name))
    if draft.training is not None:
        tensors |= _state_words(draft).add_to(objects, tensors)
    paths = {name: path_of(name) for name in tensors} | objects.paths
    metadata = pickle_metadata(Metadata(tensors, tuple(objects.places), objects.places), paths)
    if len(metadata) > LIMITS.size_bytes:
        raise LayoutError(
            f"{METADATA} would have {len(metadata)} bytes, and at most {LIMITS.size_bytes} are read",
            facts=[f"{len(tensors)} tensors, {len(objects.places)} objects, one of each field of a group for every weight"],
            do="go on training from a target with storage torch_dist, which has no such objects",
        )
    return (
        SideFile(f"{folder}/{OBJECTS}", text=objects.data),
        SideFile(f"{folder}/{METADATA}", text=metadata, last=True),
        SideFile(TRACKER, text=_iteration(draft), last=True),
    )


def _state_words(draft: Draft[MegatronTarget, Keys]) -> StateWords:
    """Raises LayoutError for layers whose projections Megatron-FSDP trains in one matrix: their state was never seen."""
    assert draft.training is not None
    if not draft.model.sizes.keys().isdisjoint(HYBRID_SIZES):
        raise LayoutError(
            f"optimizer state of {draft.model.family.name} is not written for Megatron-FSDP: core 0.16.1 trains the projections of mixers "
            "and delta nets in one matrix, whose parts have keys of their own here",
            do="go on training from a target with storage torch_dist; or leave options.state out to convert the weights alone",
        )
    decayed = draft.facts.get("apply_wd_to_qk_layernorm") is True
    return StateWords(draft.training, draft.settings.wrappers, decayed_norms=decayed)


def _chunked(model: Model, settings: Keys, places: Mapping[tuple[str, str], StoredTensor]) -> dict[str, Chunked]:
    held: dict[str, tuple[str, tuple[int, ...], list[Chunk]]] = {}
    for name, shape, file, box, _, _ in chunks(model, settings):
        tensor = places[file, name]
        held.setdefault(name, (tensor.dtype, shape, []))[2].append(Chunk(box, Item(file, *distcp.item_of(tensor))))
    return {name: Chunked(dtype, shape, tuple(found)) for name, (dtype, shape, found) in held.items()}


def _common(draft: Draft[MegatronTarget, Keys]) -> dict[str, Any]:
    """What Megatron keeps beside tensors (megatron/training/checkpointing.py, generate_state_dict)."""
    iteration = 0 if _iteration(draft) == RELEASE else int(_iteration(draft))
    own: dict[str, Any] = {
        "ckpt_format": draft.target.storage,
        "mtp_num_layers": draft.model.num_mtp or None,
        **own_args(draft.model, draft.facts),
    }
    # A list makes Megatron ask for keys of each layer.
    own |= {"moe_layer_freq": 1} if draft.settings.stacked and draft.model.num_experts else {}
    # Of torch_dist either is loaded: said, it would override what the command line says.
    grouped = not draft.settings.sequential if draft.settings.fsdp else None
    own |= {"moe_grouped_gemm": grouped} if draft.model.num_experts else {}
    as_ranks = Settings(
        Parallel(), draft.settings.padded_vocab, transformer_engine=True, vocab_divisor=draft.target.make_vocab_size_divisible_by
    )
    training = draft.training
    if training is not None:  # args that say no random state is there make its loader not ask for it
        own |= {"no_save_optim": False, "no_save_rng": True, **training.args}
    if draft.target.iteration is None and draft.settings.iteration is not None:
        own |= counted(draft.facts, folder_of(_iteration(draft)))
    # Main weights are no word of the dtype that is trained in.
    dtypes = bytes_by_dtype(draft.specs()) if training is None or not draft.settings.fsdp else {}
    args = compose_args(draft.model, as_ranks, draft.facts, dtypes, own)
    content: dict[str, Any] = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
    if not draft.settings.stacked:
        content["non_homogeneous_layers"] = True
    common = dict(training.common) if training is not None else {}
    content |= common.pop("content_metadata", {})
    return {"args": args, "checkpoint_version": CHECKPOINT_VERSION, "iteration": iteration, "content_metadata": content, **common}
