"""Opening what training with Megatron-FSDP keeps beside the weights: moments, and the words of every weight's group, of the schedule.

An optimizer's groups are told by what every weight says of its own (`fsdp_state`): they become a list, as torch_dist has them, and which
weight is in which is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from convsvc.dialects.checkpoint import Training
from convsvc.dialects.megatron.fsdp_state import GROUP, MOMENTS, STATE, STEP
from convsvc.dialects.megatron.moments import State, check_kinds
from convsvc.dialects.megatron.state import FSDP_HALF, by_old_name
from convsvc.dialects.megatron.training import CONTENT, FULLY, SHARDING, WEIGHTS_ALONE, Common, Gathered, States, counted, stateless
from convsvc.errors import SourceError
from convsvc.formats.dcp.items import read_words
from convsvc.formats.dcp.records import Item, Metadata
from convsvc.roots import RootedPath

SHOWN = 12
NAME = re.compile(rf"{re.escape('.'.join(STATE))}\.((?:module\.)+)(.+)\.([^.]+)")
FIELD = re.compile(rf"{re.escape('.'.join(GROUP))}\.((?:module\.)+)(.+)\.([^.]+)")
WORD = re.compile(r"(iteration|num_floating_point_operations_so_far|opt_param_scheduler)(?:\.([^.]+))?")


@dataclass(slots=True)
class _Read:
    """What the entries say: a weight's fields, its step, other words; which entries these are."""

    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: dict[str, Any] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)


def find_fsdp_states(folder: RootedPath, metadata: Metadata, prefix: str, common: Common) -> States:
    """The optimizer's state in a checkpoint of Megatron-FSDP whose weights' keys begin with `prefix`.

    Raises SourceError where there is none, or of a weight a part only, or where words of it are missing.
    """
    found = {name: match for name in metadata.tensors if (match := NAME.fullmatch(name))}
    moments = {name: State(match[3], by_old_name(match[2])) for name, match in found.items() if match[3] != STEP}
    if not moments:
        raise SourceError(f"{folder} has no optimizer state", do=WEIGHTS_ALONE)
    wrappers = {match[1] for match in found.values()}
    if len(wrappers) > 1 or len(set(moments.values())) < len(moments):
        raise SourceError(f"{folder}: several optimizers have state of one weight", do=WEIGHTS_ALONE)
    check_kinds(str(folder), moments.values())
    _check_adam(folder, moments.values())
    items = _items(metadata, found)
    read = _read(folder, items, Gathered(common))
    groups, group_of = _groups(folder, read, {state.of for state in moments.values()})
    weights = {by_old_name(name).removeprefix(prefix) for name in metadata.tensors if name.startswith(prefix)}
    training = _training(read, groups, group_of, common)
    notes = tuple(stateless(weights - {state.of for state in moments.values()}))
    tensors = {name: metadata.tensors[name] for name in moments}
    return States(tensors, moments, training, notes, frozenset(items), wrappers.pop())


def _check_adam(folder: RootedPath, states: Iterable[State]) -> None:
    others = sorted({state.kind for state in states} ^ set(MOMENTS))
    if others:
        raise SourceError(
            f"{folder}: Megatron-FSDP's optimizer has {', '.join(MOMENTS)}, which are carried; this is another: {', '.join(others)}",
            do=WEIGHTS_ALONE,
        )


def _items(metadata: Metadata, states: Mapping[str, re.Match[str]]) -> dict[str, Item]:
    """Where all words lie, by their entries. Raises SourceError for a word that is a tensor, but for steps."""
    tensor = next((name for name in metadata.tensors if FIELD.fullmatch(name)), None)
    if tensor is not None:
        raise SourceError(f"{tensor} is a tensor, no word of a group, and is not carried", do=WEIGHTS_ALONE)
    items = {name: item for name, item in metadata.places.items() if FIELD.fullmatch(name) or WORD.fullmatch(name)}
    for name, match in states.items():
        if match[3] == STEP:
            held = [chunk.item for chunk in metadata.tensors[name].chunks if chunk.item is not None]
            if not held:
                raise SourceError(f"{name}: no chunk holds it", do="save or fetch the checkpoint again; or " + WEIGHTS_ALONE)
            items[name] = held[0]
    return items


def _read(folder: RootedPath, items: Mapping[str, Item], gathered: Gathered) -> _Read:
    by_file: dict[str, list[tuple[str, Item]]] = {}
    for name, item in items.items():
        by_file.setdefault(item.file, []).append((name, item))
    read = _Read()
    for file, wanted in by_file.items():
        wanted.sort(key=lambda each: each[1].file_offset)
        for name, value in read_words(folder / file, wanted):
            _keep(read, name, gathered.plain(value, name))
    return read


def _keep(read: _Read, name: str, value: Any) -> None:
    if match := FIELD.fullmatch(name):
        read.fields.setdefault(by_old_name(match[2]), {})[match[3]] = value
    elif match := NAME.fullmatch(name):
        read.steps[by_old_name(match[2])] = value
    elif match := WORD.fullmatch(name):
        place = read.words if match[2] is None else read.words.setdefault(match[1], {})
        if not isinstance(place, dict) or (match[2] is None and match[1] in read.words):
            raise SourceError(f"{match[1]} is a value, and there are others in it", do="save the checkpoint again; or " + WEIGHTS_ALONE)
        place[match[2] or match[1]] = value


def _groups(folder: RootedPath, read: _Read, weights: Iterable[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The groups, and which of them every weight is in. Raises SourceError for weights of none."""
    groups: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    group_of: dict[str, int] = {}
    without = []
    for weight in sorted(weights):
        fields = read.fields.get(weight[:-2] if FSDP_HALF.fullmatch(weight) else weight)
        if fields is None:
            without.append(weight)
            continue
        fields = fields | ({STEP: read.steps[weight]} if weight in read.steps else {})
        group_of[weight] = number = numbers.setdefault(repr(sorted(fields.items())), len(groups))
        groups += [fields] if number == len(groups) else []
    if without:
        raise SourceError(
            f"{folder} has moments of {len(without)} weights that are in no group of the optimizer",
            facts=without[:SHOWN],
            do="save or fetch the checkpoint again; or " + WEIGHTS_ALONE,
        )
    return groups, group_of


def _training(read: _Read, groups: list[dict[str, Any]], group_of: Mapping[str, int], common: Common) -> Training:
    iteration = read.words.pop("iteration", None)
    optimizer = {"optimizer": {"param_groups": groups}, SHARDING: FULLY}
    words = {"optimizer": optimizer, **read.words, "content_metadata": dict(CONTENT)}
    return Training(iteration if type(iteration) is int else 0, counted(common.tree), words, {}, group_of)
