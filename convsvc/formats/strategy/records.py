"""What a strategy file says, as plain values.

The schema is mindspore.straspb.ParallelStrategyMap (node_strategy.proto, in wheels as mindspore/train/node_strategy_pb2.py), with its
JSON twin in strategy_checkpoint_info.cc.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod

from convsvc.errors import FormatError

# merge_pipeline_strategys puts the stage before a parameter's name.
_MERGED = re.compile(r"(\d{1,9})-(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParameterLayout:
    """How one parameter lies on the ranks of its stage.

    `dev_matrix` is the mesh, outermost axis first. `tensor_map` has, for every dimension of the tensor, the mesh axes which cut it, the
    major first and counted from the right (0 is the innermost); () is not cut. Optimizer shards cut dimension 0 of what is left once
    more: `opt_weight_shard_size` is into how many (-1: as many as there are replicas, 0: not at all), `opt_weight_shard_step` how far
    apart the ranks of a group are. `param_split_shape` and `indices_offset` are of embeddings that are cut unevenly by hand, `field` of
    those cut by field; `tensor_shape` only JSON has.
    """

    name: str
    dev_matrix: tuple[int, ...]
    tensor_map: tuple[tuple[int, ...], ...]
    opt_weight_shard_step: int = 0
    opt_weight_shard_size: int = 0
    param_split_shape: tuple[int, ...] = ()
    indices_offset: tuple[int, ...] = ()
    field: int = 0
    tensor_shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of the graph, its pipeline stage, and into how many every dimension of its inputs is cut."""

    name: str
    stage: int
    cuts: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Strategy:
    """A strategy file. `current_stage` counts how often the file was written and is no stage; the stage is the operators'."""

    layouts: tuple[ParameterLayout, ...]
    operators: tuple[Operator, ...]
    current_stage: int = field(default=1)

    @property
    def stage(self) -> int:
        """The pipeline stage, as MindSpore reads it: the first operator's (_parallel_serialization.py, _merge_protobuf_strategy)."""
        return self.operators[0].stage


def stage_strategy(stage: int, layouts: Iterable[ParameterLayout]) -> Strategy:
    """The strategy of a stage with these layouts. MindSpore looks for an operator's stage, so every parameter gets a plain operator.

    >>> stage_strategy(1, [ParameterLayout("w", (2, 4), ((0,), ()))]).operators
    (Operator(name='w', stage=1, cuts=((4, 1),)),)
    """
    layouts = tuple(layouts)
    operators = [Operator(each.name, stage, (tuple(prod(_axis_sizes(each, axes)) for axes in each.tensor_map),)) for each in layouts]
    return Strategy(layouts, tuple(operators))


def layouts_by_stage(strategy: Strategy) -> dict[int, dict[str, ParameterLayout]]:
    """The layouts of every stage by the parameters' own names, of one stage's file as of a merged one.

    >>> one, two = ParameterLayout("0-w", (2,), ((0,),)), ParameterLayout("1-v", (2,), ((),))
    >>> {stage: list(named) for stage, named in layouts_by_stage(Strategy((one, two), (Operator("op", 0),))).items()}
    {0: ['w'], 1: ['v']}
    """
    parts = [_MERGED.fullmatch(each.name) for each in strategy.layouts]
    stages: dict[int, dict[str, ParameterLayout]] = {}
    if not all(parts):
        return {strategy.stage: {each.name: each for each in strategy.layouts}}
    for part, layout in zip(parts, strategy.layouts, strict=True):
        assert part is not None
        stages.setdefault(int(part[1]), {})[part[2]] = replace(layout, name=part[2])
    return stages


def checked(strategy: Strategy, path: str) -> Strategy:
    """The strategy, if it can be one: `path` is the file, for the error.

    Raises FormatError that names the parameters whose layouts contradict themselves, or says what is missing altogether.
    """
    if not strategy.layouts or not strategy.operators:
        missing = "parameters' layouts" if strategy.operators else "operators, whose stage is the file's"
        raise FormatError(f"{path} has no {missing}", do=_AGAIN, details={"file": path})
    names: set[str] = set()
    faults = []
    for layout in strategy.layouts:
        fault = _fault(layout) or ("has two layouts" if layout.name in names else None)
        names.add(layout.name)
        if fault:
            faults.append(f"{layout.name[:200]} {fault}")
    if faults:
        more = [f"and {len(faults) - 10} more"] if len(faults) > 10 else []
        raise FormatError(f"{path} has layouts that cannot be", facts=[*faults[:10], *more], do=_AGAIN, details={"file": path})
    return strategy


_AGAIN = "take the strategy file that the training wrote beside this checkpoint, and copy it again"


def _fault(layout: ParameterLayout) -> str | None:
    axes = [axis for each in layout.tensor_map for axis in each]
    mesh = layout.dev_matrix
    if any(size < 1 for size in mesh):
        return f"lies on a mesh {mesh} with an empty axis"
    if any(not 0 <= axis < len(mesh) for axis in axes) or len(set(axes)) != len(axes):
        return f"is cut by axes {layout.tensor_map}; the mesh {mesh} has axes 0 to {len(mesh) - 1}, and every one cuts once"
    if layout.opt_weight_shard_size < -1 or layout.opt_weight_shard_step < 0:
        return f"has an optimizer shard size of {layout.opt_weight_shard_size} and step of {layout.opt_weight_shard_step}"
    return None


def _axis_sizes(layout: ParameterLayout, axes: tuple[int, ...]) -> list[int]:
    return [layout.dev_matrix[len(layout.dev_matrix) - 1 - axis] for axis in axes]
