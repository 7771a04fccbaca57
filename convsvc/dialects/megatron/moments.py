"""An optimizer's state by the keys of the weights it is of: the main weights, the moments, each under a key of its own. Pure.

    optimizer.state.exp_avg.decoder.layers.0.mlp.linear_fc2.weight

has the shape of decoder.layers.0.mlp.linear_fc2.weight and is laid as it is (megatron/core/optimizer/distrib_optimizer.py, 0.16.1,
sharded_param_state_fully_reshardable), so that whatever is known of a weight's key is known of its state's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import product
from math import prod
from typing import NamedTuple

from convsvc.errors import SourceError
from convsvc.tensors.blocks import Laid, LogicalTensor
from convsvc.tensors.boxes import Box
from convsvc.tensors.runs import cut_run

STORED = re.compile(r"(?:chained_\d+\.)?optimizer\.state\.([^.]+)\.(.+)")
LOGICAL = re.compile(r"optimizer\.([^.]+)\.(.+)")
SHOWN = 12


class State(NamedTuple):
    """A kind of state (exp_avg) of what has this name."""

    kind: str
    of: str

    @property
    def stored(self) -> str:
        """Its key, `of` being that of the weight."""
        return f"optimizer.state.{self.kind}.{self.of}"

    @property
    def logical(self) -> str:
        """Its logical tensor's name, `of` being that of the weight's.

        >>> State("exp_avg", "output_layer.weight").logical
        'optimizer.exp_avg.output_layer.weight'
        """
        return f"optimizer.{self.kind}.{self.of}"


def parse_stored(name: str) -> State | None:
    """What an entry's name says; None for one that is no state of a weight.

    >>> parse_stored("chained_0.optimizer.state.exp_avg.output_layer.weight")
    State(kind='exp_avg', of='output_layer.weight')
    """
    match = STORED.fullmatch(name)
    return State(*match.groups()) if match else None


def logical_states(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Of logical tensors those that are state: by kind, the names of the weights' logical tensors."""
    found: dict[str, set[str]] = {}
    for name in names:
        if match := LOGICAL.fullmatch(name):
            found.setdefault(match[1], set()).add(match[2])
    return {kind: frozenset(of) for kind, of in sorted(found.items())}


def of_state(laid: Laid, kind: str) -> Laid:
    """What is known of a weight's stored tensor, said of its state's."""
    blocks = tuple([each._replace(tensor=_of_state(each.tensor, kind)) for each in laid.blocks])
    also = tuple([State(kind, name).stored for name in laid.also])
    return laid._replace(name=State(kind, laid.name).stored, also=also, blocks=blocks, optional=False)


def _of_state(tensor: LogicalTensor, kind: str) -> LogicalTensor:
    return LogicalTensor(State(kind, tensor.name).logical, tensor.axes, tensor.sizes)


def check_kinds(folder: str, states: Collection[State]) -> None:
    """Raises SourceError for a weight of which there is less state than of others: an optimizer keeps the same of all that it moves."""
    kinds: dict[str, set[str]] = {}
    for state in states:
        kinds.setdefault(state.of, set()).add(state.kind)
    sets = {frozenset(each) for each in kinds.values()}
    lacking = {of: sorted(max(more, key=len) - each) for of, each in kinds.items() if (more := [other for other in sets if other > each])}
    if lacking:
        raise SourceError(
            f"{folder}: {len(lacking)} of {len(kinds)} weights have a part of the optimizer's state only",
            facts=[f"{of}: without {', '.join(missing)}" for of, missing in sorted(lacking.items())[:SHOWN]],
            do="save or fetch the checkpoint again; or leave options.state out to convert the weights alone",
        )


def fragments_of(whole: tuple[int, ...], stored: tuple[int, ...]) -> tuple[int, ...] | None:
    """In how many fragments each dimension lies of a tensor that is stored flat within them; None where it is not stored so.

    Core before 0.15 saves [X, Y] of ranks' parts [x, y] as [X / x, Y / y, x * y], the last cut anywhere between ranks that share a part
    (dist_checkpointing/strategies/torch.py, 0.13.1, sharded_tensor_to_torch_sharded_tensor).

    >>> fragments_of((8, 6), (2, 1, 24)), fragments_of((8, 6), (3, 1, 16))
    ((2, 1), None)
    """
    *counts, flat = stored or (0,)
    if len(counts) != len(whole) or any(not count or size % count for size, count in zip(whole, counts, strict=True)):
        return None
    return tuple(counts) if flat * prod(counts) == prod(whole) else None


def part_boxes(whole: tuple[int, ...], fragments: tuple[int, ...], box: Box) -> list[Box]:
    """The boxes of the whole tensor that the fragments in a chunk's box are, in its order."""
    sizes = [size // count for size, count in zip(whole, fragments, strict=True)]
    found = []
    for index in product(*map(range, box.starts[:-1], box.stops[:-1])):
        starts = tuple([at * size for at, size in zip(index, sizes, strict=True)])
        found.append(Box(starts, tuple([start + size for start, size in zip(starts, sizes, strict=True)])))
    return found


def flat_chunk(parts: list[Laid], box: Box) -> Laid:
    """A chunk of a tensor that is stored flat, `parts` being the whole fragments that it has something of."""
    start, stop = box.starts[-1], box.stops[-1]
    shape = tuple([b - a for a, b in zip(*box, strict=True)])
    blocks, padding = [], []
    for number, part in enumerate(parts):
        cut, first = cut_run(part, start, stop), number * (stop - start)
        blocks += [each._replace(offset=each.offset + first) for each in cut.blocks]
        padding += [(offset + first, count) for offset, count in cut.padding]
    if padding and not blocks:  # one of padding alone says by an empty block whose
        block = parts[0].blocks[0]
        blocks = [block._replace(starts=block.stops, offset=0)]
    return parts[0]._replace(shape=shape, blocks=tuple(blocks), padding=tuple(padding))


def held_of(of: Mapping[str, frozenset[str]], kind: str, parts: Iterable[Laid]) -> tuple[list[str], list[str]]:
    """Which logical tensors of a weight's key have a kind of state, and which have not."""
    names = list(dict.fromkeys(block.tensor.name for laid in parts for block in laid.blocks))
    held = of.get(kind, frozenset())
    return [name for name in names if name in held], [name for name in names if name not in held]
