"""Which file of a rank is meant, and how tensors are spread over the parts of a unified checkpoint. Pure.

Both as mindspore/parallel/transform_safetensors.py has them (_find_most_matching_file, _split_weight_dict), but where it would guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace
from posixpath import basename

from convsvc.errors import SourceError

PART_BYTES = 3 << 30
_ENDING = ".safetensors"
# A suffix is (task-)epoch_step or the step alone; a file is named PREFIX_rank_R[_TASK]-EPOCH_STEP. Which sign goes before a suffix's form:
_FORMS = (
    (re.compile(r"_?\d+-\d+_\d+"), "_"),
    (re.compile(r"-?\d+_\d+"), "-"),
    (re.compile(r"_?\d+"), "_"),
)
_STEP = re.compile(r"(?:^|\D)(\d+)_(\d+)\.safetensors$")
_DO = "set the file suffix to the longest that the files of all ranks have in common, as 1000_1 or 2-1000_1"


def choose_file(names: Sequence[str], suffix: str | None = None) -> str:
    """The one of a rank's safetensors files that is meant: with that suffix, or the newest (by its last two numbers, epoch and step).

    >>> choose_file(["q_rank_0-9_2.safetensors", "q_rank_0-10_1.safetensors"]), choose_file(["q_rank_0-10_1.safetensors"], "10_1")
    ('q_rank_0-10_1.safetensors', 'q_rank_0-10_1.safetensors')

    Raises SourceError, with the names, if none is, or several are with equal right.
    """
    names = sorted(name for name in names if name.endswith((suffix or "") + _ENDING))
    if not names:
        raise SourceError(f"no safetensors file ends with {suffix!r}" if suffix else "there is no safetensors file", do=_DO)
    return _newest(names) if not suffix else _with_suffix(names, suffix)


def _newest(names: list[str]) -> str:
    numbers = {name: _last_two(name) for name in names}
    newest = max(numbers.values())
    return _only([name for name in names if numbers[name] == newest], names, "is the newest")


def _last_two(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", basename(name))[-2:]]


def _with_suffix(names: list[str], suffix: str) -> str:
    sign = next((sign for form, sign in _FORMS if form.fullmatch(suffix)), None)
    if len(names) == 1:
        # The source tool takes 110_1 for 10_1 where it is the only file; a number that is cut is another number.
        before = basename(names[0]).removesuffix(suffix + _ENDING)[-1:]
        if suffix[0].isdigit() and before.isdigit():
            raise SourceError(f"no safetensors file ends with {suffix!r} as whole numbers", facts=names, do=_DO)
        return names[0]
    if sign is None:
        return _only(names, names, f"ends with {suffix!r}")
    anchored = suffix if suffix.startswith(sign) else sign + suffix
    # rank_0-10_1 is epoch 10 of rank 0, not of a task 0.
    exact = [
        name
        for name in names
        if name.endswith(anchored + _ENDING) and not (_has_task(suffix) and name.endswith("rank" + anchored + _ENDING))
    ]
    shortest = min((len(basename(name)) for name in exact), default=0)
    return _only([name for name in exact if len(basename(name)) == shortest], names, f"ends with {suffix!r}")


def _has_task(suffix: str) -> bool:
    return bool(_FORMS[0][0].fullmatch(suffix))


def _only(meant: list[str], names: list[str], which: str) -> str:
    if len(meant) == 1:
        return meant[0]
    some = "more than one file" if meant else "none of several files"
    raise SourceError(f"{some} {which}", facts=(meant or names)[:20], do=_DO)


def check_one_step(chosen: Mapping[int, str]) -> None:
    """Raises SourceError, naming steps and ranks, if the files chosen for the ranks are not of one epoch and step.

    >>> check_one_step({0: "rank_0/q_rank_0-10_1.safetensors", 1: "rank_1/q_rank_1-10_1.safetensors"})
    """
    ranks: dict[str, list[int]] = {}
    for rank, name in chosen.items():
        step = _STEP.search(name)
        ranks.setdefault(f"epoch {int(step[1])}, step {int(step[2])}" if step else "no step in its name", []).append(rank)
    if len(ranks) > 1:
        raise SourceError(
            "the files of the ranks are of different steps of training",
            facts=[f"{step}: {_some_ranks(held)}" for step, held in sorted(ranks.items(), key=lambda item: -len(item[1]))],
            do="state source.file_suffix, e.g. 1000_1, for a step that every rank saved; or fetch what is missing of the newest",
        )


def _some_ranks(ranks: Sequence[int]) -> str:
    """
    >>> _some_ranks([0, 1, 2, 3, 5])
    'rank_0, rank_1, rank_2, rank_3 and 1 more'
    """
    return ", ".join(f"rank_{rank}" for rank in ranks[:4]) + (f" and {len(ranks) - 4} more" if len(ranks) > 4 else "")


def part_count(sizes: Mapping[str, int], part_bytes: int = PART_BYTES) -> int:
    """Into how many files tensors of these sizes (bytes) go: 3 GiB a file, at most a file a tensor.

    >>> part_count({"a": 3 << 30, "b": 1}), part_count({"a": 7 << 30})
    (2, 1)
    """
    return max(1, min(-(-sum(sizes.values()) // part_bytes), len(sizes)))


def spread_over_parts(sizes: Mapping[str, int], parts: int) -> list[list[str]]:
    """The names of every part: the largest tensor first, each into the part that is lightest so far, the first of equals.

    >>> spread_over_parts({"a": 7, "b": 6, "c": 5, "d": 4, "e": 3}, 3)
    [['a'], ['b', 'e'], ['c', 'd']]
    """
    names: list[list[str]] = [[] for _ in range(parts)]
    lightest = [(0, part) for part in range(parts)]
    heapify(lightest)
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        weight, part = lightest[0]
        names[part].append(name)
        heapreplace(lightest, (weight + size, part))
    return names
