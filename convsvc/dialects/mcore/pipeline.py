"""Megatron's ways to say how many layers each pipeline stage has in each chunk, as one table. Pure.

Conventions are Megatron-LM's; those marked MindSpeed are of MindSpeed-LLM (commit c77308a1), as its converter writes them.

After megatron-core 0.16.1: core/transformer/transformer_block.py (get_num_layers_to_build), transformer_layer.py
(get_transformer_layer_offset), transformer_config.py (__post_init__), and training/arguments.py (validate_args).
"""

from __future__ import annotations

from convsvc.dialects.mcore.grid import Parallel
from convsvc.errors import LayoutError
from convsvc.models.placement import Placement, Table, check_noop, place

UNEVEN = "decoder_first_pipeline_num_layers or decoder_last_pipeline_num_layers"
COUNTING = "account_for_embedding_in_pipeline_split or account_for_loss_in_pipeline_split"


def place_layers(num_layers: int, parallel: Parallel, *, beside_layers: bool = False) -> Placement:
    """Spread `num_layers` layers (noop ones not counted) over stages and chunks.

    >>> place_layers(3, Parallel(pp=2, noop=(0,))).layers
    (LayerPlace(stage=0, chunk=None, number=1), LayerPlace(stage=1, chunk=None, number=0), LayerPlace(stage=1, chunk=None, number=1))

    Raises LayoutError, naming the numbers, for anything that does not come out even.
    """
    positions = num_layers + len(parallel.noop)
    check_noop(parallel.noop, positions)
    return place(table_of(positions, parallel), parallel.noop, beside_layers=beside_layers)


def table_of(positions: int, parallel: Parallel) -> Table:
    """The table of `positions` layers, noop ones included.

    >>> table_of(5, Parallel(pp=3, first_layers=1)).counts
    ((1, 2, 2),)
    >>> table_of(6, Parallel(pp=2, virtual_stages=2, embedding_counts=True, output_counts=True)).counts
    ((1, 2), (2, 1))

    Raises LayoutError, naming the numbers, for what does not come out even or cannot be set together.
    """
    if parallel.pattern is not None:
        return _patterned(positions, parallel, parallel.pattern)
    if parallel.dualpipev:
        return _v_shape(positions, parallel)
    totals = _stages(positions, parallel)
    chunks = _chunks(totals, parallel)
    uneven = [f"stage {stage} has {total}" for stage, total in enumerate(totals) if total % chunks]
    if uneven:
        raise LayoutError(f"the layers of a pipeline stage cannot be spread evenly over {chunks} virtual stages: {', '.join(uneven[:4])}")
    counts = [[total // chunks for total in totals] for _ in range(chunks)]
    counts[0][0] -= parallel.embedding_counts
    counts[-1][-1] -= parallel.output_counts
    if min(counts[0][0], counts[-1][-1]) < 0:
        raise LayoutError(f"a virtual stage has no layer that the embedding or the output could count as ({COUNTING})")
    return Table(tuple(map(tuple, counts)))


def _stages(positions: int, parallel: Parallel) -> tuple[int, ...]:
    """The layers of each pipeline stage; an embedding or output that counts as a layer is one of them."""
    if parallel.layer_list is not None:
        return _listed(positions, parallel, parallel.layer_list)
    if parallel.first_layers is not None or parallel.last_layers is not None:
        return _uneven(positions, parallel)
    counted = positions + parallel.embedding_counts + parallel.output_counts
    if counted % parallel.pp:
        extra = f", and {counted - positions} for {COUNTING}," if counted > positions else ""
        raise LayoutError(
            f"{positions} layers (noop layers included){extra} cannot be spread evenly over pipeline_parallel_size {parallel.pp}"
        )
    return (counted // parallel.pp,) * parallel.pp


def _listed(positions: int, parallel: Parallel, given: tuple[int, ...]) -> tuple[int, ...]:
    shown = ",".join(map(str, given))
    others = {
        "num_layers_per_virtual_pipeline_stage": parallel.layers_per_virtual_stage is not None,
        "num_virtual_stages_per_pipeline_rank": (parallel.virtual_stages or 1) > 1,
        UNEVEN: parallel.first_layers is not None or parallel.last_layers is not None,
        COUNTING: parallel.embedding_counts or parallel.output_counts,
        f"noop_layers ({','.join(map(str, parallel.noop))})": bool(parallel.noop),
    }
    for other, is_set in others.items():
        if is_set:
            raise LayoutError(f"num_layer_list ({shown}) and {other} cannot be set together")
    if len(given) != parallel.pp:
        raise LayoutError(f"num_layer_list ({shown}) has {len(given)} numbers for pipeline_parallel_size {parallel.pp}")
    if sum(given) != positions:
        raise LayoutError(f"num_layer_list ({shown}) adds up to {sum(given)} layers, the model has {positions}")
    return given


def _uneven(positions: int, parallel: Parallel) -> tuple[int, ...]:
    """Stated numbers for the first or the last stage, the same for those between."""
    first, last = parallel.first_layers, parallel.last_layers
    said = " and ".join(
        f"decoder_{which}_pipeline_num_layers {count}" for which, count in (("first", first), ("last", last)) if count is not None
    )
    if parallel.embedding_counts or parallel.output_counts:
        raise LayoutError(f"{said} and {COUNTING} cannot be set together")
    if parallel.layers_per_virtual_stage is not None:
        raise LayoutError(
            f"{said} and num_layers_per_virtual_pipeline_stage {parallel.layers_per_virtual_stage} cannot be set together",
            do="state num_virtual_stages_per_pipeline_rank",
        )
    between = parallel.pp - (first is not None) - (last is not None)
    left = positions - (first or 0) - (last or 0)
    if between < 0 or left < 0 or bool(left) != bool(between) or (between and left % between) or 0 in (first, last):
        raise LayoutError(
            f"with {said}, {left} of {positions} layers are left for {max(between, 0)} other pipeline stages, which must have equal numbers"
        )
    middle = (left // between,) * between if between else ()
    return (*(() if first is None else (first,)), *middle, *(() if last is None else (last,)))


def _chunks(totals: tuple[int, ...], parallel: Parallel) -> int:
    size, stated = parallel.layers_per_virtual_stage, parallel.virtual_stages or 1
    if size is not None and totals != (size,):
        if parallel.pp == 1:
            raise LayoutError(
                f"num_layers_per_virtual_pipeline_stage is {size}, but pipeline_parallel_size is 1",
                do="virtual stages interleave two or more pipeline stages",
            )
        if totals[0] % size:
            raise LayoutError(
                f"a pipeline stage has {totals[0]} layers, which num_layers_per_virtual_pipeline_stage {size} does not divide"
            )
    chunks = stated if size is None else totals[0] // size
    if parallel.virtual_stages is not None and chunks != stated:
        raise LayoutError(
            f"num_layers_per_virtual_pipeline_stage {size} makes {chunks} virtual stages of a pipeline stage of {totals[0]} layers; "
            f"virtual_pipeline_model_parallel_size says {stated}"
        )
    if chunks > 1 and parallel.pp == 1:
        raise LayoutError(f"there are {chunks} virtual stages, but pipeline_parallel_size is 1")
    return chunks


def _v_shape(positions: int, parallel: Parallel) -> Table:
    """MindSpeed's dualpipev: chunk 0 goes down the stages, chunk 1 comes back, so stage 0 holds the first and the last layers."""
    others = {
        f"num_layer_list ({','.join(map(str, parallel.layer_list or ()))})": parallel.layer_list is not None,
        UNEVEN: parallel.first_layers is not None or parallel.last_layers is not None,
        COUNTING: parallel.embedding_counts or parallel.output_counts,
    }
    for other, is_set in others.items():
        if is_set:
            raise LayoutError(f"{other} and schedules_method dualpipev cannot be set together")
    if parallel.pp == 1:
        raise LayoutError("schedules_method dualpipev needs two or more pipeline stages; pipeline_parallel_size is 1")
    if positions % parallel.pp:
        raise LayoutError(f"{positions} layers (noop layers included) cannot be spread evenly over pipeline_parallel_size {parallel.pp}")
    per_stage = positions // parallel.pp
    if per_stage % 2:
        raise LayoutError(
            f"schedules_method dualpipev halves every pipeline stage, but {positions} layers over {parallel.pp} stages are {per_stage} each"
        )
    size = per_stage // 2
    stated = parallel.layers_per_virtual_stage
    if stated is not None and stated != size:
        raise LayoutError(f"schedules_method dualpipev makes chunks of {size} layers; num_layers_per_virtual_pipeline_stage says {stated}")
    if parallel.virtual_stages not in (None, 2):
        raise LayoutError(f"schedules_method dualpipev makes 2 virtual stages; {parallel.virtual_stages} are stated")
    return Table(((size,) * parallel.pp,) * 2, returns=True)


def _patterned(positions: int, parallel: Parallel, pattern: tuple[str, ...]) -> Table:
    shown = "|".join(pattern)
    shown = f"pipeline_model_parallel_layout {shown if len(shown) <= 60 else shown[:57] + '...'}"
    others = {
        "num_layer_list": parallel.layer_list is not None,
        "schedules_method dualpipev": parallel.dualpipev,
        "num_layers_per_virtual_pipeline_stage": parallel.layers_per_virtual_stage is not None,
        UNEVEN: parallel.first_layers is not None or parallel.last_layers is not None,
        COUNTING: parallel.embedding_counts or parallel.output_counts,
        "noop_layers": bool(parallel.noop),
    }
    for other, is_set in others.items():
        if is_set:
            raise LayoutError(f"{shown} and {other} cannot be set together")
    chunks, rest = divmod(len(pattern), parallel.pp)
    if rest:
        raise LayoutError(f"{shown} has {len(pattern)} stages, which pipeline_parallel_size {parallel.pp} does not divide")
    if parallel.virtual_stages is not None and parallel.virtual_stages != chunks:
        raise LayoutError(f"{shown} makes {chunks} virtual stages; virtual_pipeline_model_parallel_size says {parallel.virtual_stages}")
    layers = [stage.count("t") for stage in pattern]
    if sum(layers) != positions:
        raise LayoutError(f"{shown} has {sum(layers)} layers, the model {positions}")
    with_mtp = [at for at, stage in enumerate(pattern) if "m" in stage]
    if len(with_mtp) > 1:
        raise LayoutError(f"{shown} spreads MTP layers over {len(with_mtp)} stages; they must be in one")
    counts = tuple(tuple(layers[chunk * parallel.pp : (chunk + 1) * parallel.pp]) for chunk in range(chunks))
    return Table(counts, mtp=(with_mtp[0] % parallel.pp, with_mtp[0] // parallel.pp) if with_mtp else None)
