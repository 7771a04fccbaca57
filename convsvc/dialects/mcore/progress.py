"""How far training has come, as rank files say it, and the state that it keeps in them. Pure but for the names in a directory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from convsvc.dialects.mcore.settings import Settings
from convsvc.models.facts import Facts
from convsvc.roots import RootedPath

RELEASE = "release"
# Of the arguments those that count on (megatron/training/checkpointing.py, load_checkpoint).
COUNTING = ("consumed_train_samples", "consumed_valid_samples", "skipped_train_samples")
# What the distributed optimizer has of its own beside a rank's file (checkpointing.py, get_distributed_optimizer_checkpoint_name).
OPTIMIZER_FILE = "distrib_optim.pt"
# What a converter puts where training has not begun; MindSpeed-LLM's puts 1, which with state beside it is training's.
CONVERTERS = 1
WITHOUT = "leave options.state out to convert the weights alone: the iteration is kept; load with --no-load-optim --no-load-rng"


def reached(tree: Mapping[str, Any], folder: str, *, with_state: bool) -> int | None:
    """The iteration of a checkpoint: what it says itself, as training loads it, else its directory's; None where training begins.

    >>> reached({"iteration": 500}, "iter_0000500", with_state=True), reached({}, "iter_0000500", with_state=False)
    (500, 500)
    >>> reached({"iteration": 1}, "iter_0000001", with_state=False), reached({"iteration": 7}, "release", with_state=True)
    (None, None)
    """
    if folder == RELEASE:
        return None
    number, said = re.fullmatch(r"iter_(\d{1,12})", folder), tree.get("iteration")
    told = (said if type(said) is int else 0, int(number[1]) if number else 0)
    return next((each for each in told if each > CONVERTERS or (each == CONVERTERS and with_state)), None)


def folder_of(iteration: str) -> str:
    """An iteration's directory.

    >>> folder_of("12"), folder_of("release")
    ('iter_0000012', 'release')
    """
    return RELEASE if iteration == RELEASE else f"iter_{int(iteration):07d}"


def tracked_as(folder: str) -> str:
    """What the tracker says of an iteration's directory.

    >>> tracked_as("iter_0000012"), tracked_as("release")
    ('12', 'release')
    """
    return RELEASE if folder == RELEASE else str(int(folder.removeprefix("iter_")))


def at_iteration(settings: Settings, stated: str | None, reached: int | None) -> Settings:
    """The settings of a target, in the directory of the iteration that is stated, or that training has come to; as they are without."""
    iteration = stated or (None if reached is None else str(reached))
    return settings if iteration is None else replace(settings, folder=folder_of(iteration))


def is_known(key: str) -> bool:
    """Whether what stands at a rank file's top is not training state."""
    return key in ("args", "checkpoint_version", "iteration") or bool(re.fullmatch(r"model\d*", key))


def states_in(keys: Iterable[str]) -> set[str]:
    """The state among what stands at a rank file's top, in words."""
    return {f"{key} in the rank files: training state, not weights" for key in keys if not is_known(key)}


def states_beside(rank_file: RootedPath) -> set[str]:
    """The state beside a rank's file, in words."""
    beside = RootedPath(rank_file.path.rpartition("/")[0], rank_file.roots) / OPTIMIZER_FILE
    said = f"{OPTIMIZER_FILE} beside the rank files: the distributed optimizer's, training state, not weights"
    return {said} if beside.is_file() else set()


def counted(facts: Facts, folder: str) -> dict[str, int]:
    """The samples that training has counted up to an iteration that is kept: where its data go on."""
    if folder == RELEASE or int(tracked_as(folder)) == CONVERTERS:
        return {}
    return {name: value for name in COUNTING if type(value := facts.values.get(name)) is int}
