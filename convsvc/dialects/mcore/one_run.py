"""Whether the files of a checkpoint's ranks are of one run, one iteration and one layout. Pure.

A rank's file has everything that is needed to tell: the iteration, and the arguments that training was started with, the same in all
ranks but for what is of the process (its rank, its host).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from convsvc.errors import SourceError
from convsvc.models.facts import NAMES, shown
from convsvc.notes import Note

# Of a run and its state: two runs of one model differ in one of these, and so do two times at which one run was saved.
OF_THE_RUN = (
    "iteration", "consumed_train_samples", "consumed_valid_samples", "skipped_train_samples", "seed", "train_iters", "train_samples",
    "global_batch_size", "lr", "world_size", "data_parallel_size", "params_dtype", "bf16", "fp16",
)  # fmt: skip
# Of the layout and the model, whatever it is called by.
OF_THE_LAYOUT = re.compile(
    r"parallel_size$|parallel_layout$|pipeline|virtual|^vpp|^num_layer|^noop_layers$|^schedules_method$|^moe_(grouped_gemm|tp_extend_ep)$"
    r"|^mla_mm_split$|^mtp_num_layers$|^transformer_impl$|vocab_size|^num_query_groups$|^group_query_attention$|^num_key_value_heads$"
    r"|^untie_embeddings|^tie_word_embeddings$|^swiglu$|^add_(bias_linear|qkv_bias)$|_lora_rank$|^model_type_hf$|^lora_(r|alpha)$"
)
SIZES = frozenset(name for names in NAMES.values() for name in names)
# What a converter puts where there was no iteration.
NONE_YET = (None, 0, "release")


class OneRun:
    """Compares each rank's file with the first, and their iteration with the name of the folder they lie in."""

    def __init__(self, folder: str) -> None:
        number = re.fullmatch(r"iter_(\d+)", folder)
        self._folder, self._number = folder, int(number[1]) if number else None
        self._first: tuple[str, Mapping[str, Any]] | None = None
        self._seen: deque[Mapping[str, Any]] = deque(maxlen=8)

    def check(self, tree: Mapping[str, Any], args: Mapping[str, Any], path: str) -> None:
        """Raises SourceError naming both files, and each value that differs."""
        if any(tree is each for each in self._seen):  # files that are alike have one tree
            return
        said = _identity(tree, args)
        if self._first is None:
            self._first = path, said
        elif said != self._first[1]:
            self._refuse(said, path)
        self._seen.append(tree)

    def notes(self) -> tuple[Note, ...]:
        """A word where the files are of one iteration, and lie in the directory of another: somebody has put them there."""
        iteration = self._first[1]["iteration"] if self._first else None
        if self._number is None or iteration in NONE_YET or iteration == self._number:
            return ()
        return (Note("advice", f"the rank files say that they are of iteration {shown(iteration)}, and lie in {self._folder}"),)

    def _refuse(self, said: Mapping[str, Any], path: str) -> None:
        assert self._first is not None
        other, first = self._first
        names = [name for name in dict.fromkeys((*first, *said)) if first.get(name) != said.get(name)]
        raise SourceError(
            f"{path} and {other} are not of one checkpoint",
            facts=[f"{name}: {shown(said.get(name))}, and {shown(first.get(name))}" for name in names[:12]],
            do="fetch or save all ranks of one iteration of one run again",
            details={"files": [path, other], "fields": names},
        )


def _identity(tree: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in the files of all ranks."""
    said = {f"args.{name}": _plain(value) for name, value in args.items() if _is_of_all(name)}
    return {name: _plain(tree.get(name)) for name in ("iteration", "checkpoint_version")} | said


@lru_cache(maxsize=4096)
def _is_of_all(name: str) -> bool:
    if name.endswith("_parallel_rank"):
        return False
    return name in OF_THE_RUN or name in SIZES or bool(OF_THE_LAYOUT.search(name))


def _plain(value: Any) -> Any:
    """Plain values as they are, others as they are shown."""
    return value if isinstance(value, int | float | str | None) else shown(value)
