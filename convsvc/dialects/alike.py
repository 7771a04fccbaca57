"""New files that are alike: ranks of a stage that hold as much have equal files, which are planned once. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from convsvc.formats.base import Skeleton, TensorSpec


def plan_alike(
    files: Iterable[Sequence[int]], specs: Sequence[TensorSpec], plan: Callable[[list[TensorSpec]], Skeleton]
) -> tuple[tuple[Skeleton, ...], list[int]]:
    """The skeletons of files, each given as the kinds of its tensors, and the number of each file's; `specs` are what the kinds are.

    Files are alike if the kinds in them have equal specs in one order, which is seen without looking into every tensor of every file.
    """
    firsts: dict[TensorSpec, int] = {}
    equal = [firsts.setdefault(spec, kind) for kind, spec in enumerate(specs)]
    numbers: dict[tuple[int, ...], int] = {}
    chosen = [numbers.setdefault(tuple([equal[kind] for kind in kinds]), len(numbers)) for kinds in files]
    return tuple([plan([specs[kind] for kind in kinds]) for kinds in numbers]), chosen
