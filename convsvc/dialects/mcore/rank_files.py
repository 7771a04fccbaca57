"""Which stored tensor lies in which rank file: `tables` over the rank grid of `parallel.py`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from convsvc.blocks.embeddings import EMBEDDING
from convsvc.blocks.mla import Q_UP, Q_WHOLE
from convsvc.blocks.mtp import MTP_EMBEDDING
from convsvc.dialects.base import Entry, Layout
from convsvc.dialects.mcore.carried import carried_file, lay_carried
from convsvc.dialects.mcore.grid import Parallel, Rank, check_sizes, ranks, slice_evenly
from convsvc.dialects.mcore.pattern import parse_pattern
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.seen_sizes import pad_vocab
from convsvc.dialects.mcore.sizes import ParallelSizes
from convsvc.dialects.mcore.tables import Layers, Tables
from convsvc.dialects.templates import Templates, Windows
from convsvc.errors import LayoutError
from convsvc.models.model import Model
from convsvc.models.placement import Placement
from convsvc.models.scope import Scope
from convsvc.tensors.blocks import Window
from convsvc.tensors.declare import Row

FILE = "model_optim_rng.pt"

AXES = {
    "group": "num_key_value_heads",
    "ffn": "intermediate_size",
    "expert_ffn": "moe_intermediate_size",
    "shared_ffn": "the shared experts' intermediate size",
    "head": "num_attention_heads",
    "key_head": "linear_num_key_heads",
    "o_group": "o_groups",
    "mamba_group": "n_groups",
    "vocab": "the vocabulary",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a checkpoint is laid out. `padded_vocab` is the number of embedding rows over all tensor ranks; `folder` the iteration's.

    `every_pair`: with expert_tensor_parallel_size 1 there are files, too, for pairs of tensor and expert rank that no process has.
    MindSpeed-LLM's converter writes them for DeepSeek-V4; training does not read them, and we do not write them. `vocab_divisor` is what
    training pads the vocabulary by, times tp (make_vocab_size_divisible_by), where that is stated.
    """

    parallel: Parallel
    padded_vocab: int
    grouped_gemm: bool = False
    transformer_engine: bool = False
    mla_mm_split: bool = False
    folder: str = "iter_0000001"
    every_pair: bool = False
    vocab_divisor: int | None = None


def layout(model: Model, settings: Settings, tables: Tables) -> Layout:
    """Every stored tensor of every rank, and what is carried beside them."""
    check_sizes(settings.parallel, model.num_experts)
    placement = place_layers(model.num_layers, settings.parallel)
    _check_mtp(model, settings.parallel)
    templates = Templates()
    stages = [_Stage(model, settings, tables, placement, stage, templates) for stage in range(settings.parallel.pp)]
    entries: list[Entry] = []
    for rank in ranks(settings.parallel, settings.every_pair):
        entries += stages[rank.p].entries(rank)
    file, placed = carried_file(settings.folder), frozenset(name for stage in stages for name in stage.mtp_tensors())
    for laid, unit in lay_carried(model, placed):
        entries += [Entry(file, kind, unit) for kind in templates.add([laid])]
    return Layout(tuple(templates.kinds), tuple(entries))


def _check_mtp(model: Model, parallel: Parallel) -> None:
    if parallel.pattern is not None and (stated := sum(stage.count("m") for stage in parallel.pattern)) != model.num_mtp:
        raise LayoutError(f"pipeline_model_parallel_layout has {stated} MTP layers, {model.num_mtp} are converted")


def rank_folder(rank: Rank, parallel: Parallel) -> str:
    """A rank's directory: mp_rank_TT, with _PPP where there are stages, with _EEE where experts are spread.

    >>> rank_folder(Rank(1, 2, 3), Parallel(tp=2, pp=4, ep=8))
    'mp_rank_01_002_003'
    """
    stage = f"_{rank.p:03d}" if parallel.pp > 1 else ""
    expert = f"_{rank.e:03d}" if parallel.ep > 1 else ""
    return f"mp_rank_{rank.t:02d}{stage}{expert}"


def rank_file(rank: Rank, settings: Settings) -> str:
    """The rank's file, relative to the checkpoint."""
    path = f"{rank_folder(rank, settings.parallel)}/{FILE}"
    return f"{settings.folder}/{path}" if settings.folder else path


def chunk_name(chunk: int | None) -> str:
    """The key of a model chunk at the top of a rank file."""
    return "model" if chunk is None else f"model{chunk}"


_Cut = tuple[tuple[str, int] | None, ...]


class _Stage:
    """The rows of a pipeline stage, and what they are for the windows met so far.

    Ranks that hold the same windows of a row (all expert ranks of an attention's, say) have equal tensors: they are laid once.
    """

    def __init__(self, model: Model, settings: Settings, tables: Tables, placement: Placement, stage: int, templates: Templates) -> None:
        self._settings = settings
        self._templates = templates
        self._rows = [
            template
            for scope, chunk, prefix in _scopes_of(model, placement, stage)
            for template in templates.of(scope, rows_of(scope, model, settings, tables), f"{chunk_name(chunk)}/{prefix}")
        ]
        # Rows that are cut along the same axes have the same windows on a rank: the first stands for them all.
        cuts = [_cut_axes(each.row, each.scope) for each in self._rows]
        firsts = list(dict.fromkeys(cuts))
        self._cuts = [self._rows[cuts.index(cut)] for cut in firsts]
        self._cut_of = [firsts.index(cut) for cut in cuts]
        self._units = [each.unit for each in self._rows]
        self._kinds: dict[tuple[int, Windows], dict[int, range]] = {}

    def entries(self, rank: Rank) -> list[Entry]:
        """What lies in the file of a rank of this stage."""
        file = rank_file(rank, self._settings)
        kinds = [self._kinds_of(cut, _windows(each.row, each.scope, self._settings, rank)) for cut, each in enumerate(self._cuts)]
        rows = zip(self._cut_of, self._units, strict=True)
        return [Entry(file, kind, unit) for number, (cut, unit) in enumerate(rows) for kind in kinds[cut][number]]

    def _kinds_of(self, cut: int, windows: dict[str, Window]) -> dict[int, range]:
        """The kinds that each of the rows of one cut is in these windows, by the row's number."""
        key = frozenset(windows.items())
        found = self._kinds.get((cut, key))
        if found is None:
            rows = [number for number, its in enumerate(self._cut_of) if its == cut]
            found = self._kinds[cut, key] = {number: self._templates.lay(self._rows[number], windows, key) for number in rows}
        return found

    def mtp_tensors(self) -> Iterator[str]:
        """The full names of the MTP layers' logical tensors here."""
        return (each.scope.logical + logical.name for each in self._rows if each.unit.startswith("mtp.") for logical in each.row.logicals)


def _cut_axes(each: Row, scope: Scope) -> _Cut:
    """The axes that tp, ep and etp slice in a row, with their sizes: rows with the same have the same windows on a rank."""
    return tuple((axis, scope.sizes.get(axis, 0)) if axis else None for axis in (each.tp, each.ep, each.etp))


def _scopes_of(model: Model, placement: Placement, stage: int) -> Iterator[tuple[Scope, int | None, str]]:
    """What lies in a stage: each scope with its chunk and the prefix of its names there."""
    for scope in model.scopes:
        if scope.kind == "embedding" and placement.first[0] == stage:
            yield scope, placement.first[1], ""
        elif scope.kind == "layer":
            slot = placement.layers[scope.number]
            if slot.stage == stage:
                yield scope, slot.chunk, prefix_of(scope, slot.number)
        elif scope.kind == "mtp_block" and placement.mtp[0] == stage:
            yield scope, placement.mtp[1], prefix_of(scope)
        elif scope.kind == "mtp" and placement.mtp[0] == stage:
            yield scope, placement.mtp[1], ""
        elif scope.kind == "output" and placement.last[0] == stage:
            yield scope, placement.last[1], ""
    if model.num_mtp and placement.stages > 1 and placement.mtp[0] == stage:
        yield _last_embedding(model), placement.mtp[1], ""


def prefix_of(scope: Scope, number: int = 0) -> str:
    """What goes before the names of a scope's rows; `number` counts a layer within its chunk."""
    if scope.kind == "layer":
        return f"decoder.layers.{number}."
    return scope.logical if scope.kind == "mtp_block" else ""


def _last_embedding(model: Model) -> Scope:
    """The embedding that the last stage needs for its MTP layers: their own where they have one, else the model's."""
    own = next(scope for scope in model.scopes if scope.kind == "mtp")
    source = own if MTP_EMBEDDING.name in own.logicals else model.scopes[0]
    return replace(source, kind="last_embedding")


def rows_of(scope: Scope, model: Model, settings: Settings, tables: Tables) -> tuple[Row, ...]:
    """The rows that hold a scope's logical tensors.

    Raises LayoutError if one has no place in this dialect.
    """
    table = _table(scope, model, settings, tables)
    absent = frozenset(each.name for candidate in table for each in candidate.logicals) - scope.logicals
    rows = tuple(_as_optional(kept, scope, model) for candidate in table if (kept := candidate.without(absent)) is not None)
    placed = {each.name for kept in rows for each in kept.logicals}
    homeless = {name for name in scope.logicals - placed if scope.logical + name not in model.same_as}
    if homeless and scope.kind != "last_embedding" and not (scope.kind == "output" and model.tied):
        raise LayoutError(f"{tables.format} has no place for {', '.join(sorted(homeless))} of {model.family.name}")
    return rows


def _as_optional(each: Row, scope: Scope, model: Model) -> Row:
    """The row, optional where the family says that a checkpoint may do without all it holds; copies have rows of their own."""
    names = {name for name in scope.optionals if scope.logical + name not in model.same_as and name != EMBEDDING.name}
    return replace(each, optional=True) if all(part.name in names for part in each.logicals) else each


def _table(scope: Scope, model: Model, settings: Settings, tables: Tables) -> tuple[Row, ...]:
    if scope.kind == "embedding":
        return tables.embedding
    if scope.kind == "output":
        norms = tables.norms_after_mtp if model.num_mtp else tables.norms
        if model.tied:
            return norms + tables.output_biases + (tables.tied if settings.parallel.pp > 1 else ())
        return norms + tables.outputs + tables.output_biases
    if scope.kind == "mtp":
        return tuple(replace(each, stored=each.stored.format(mtp=scope.number)) for each in tables.mtp)
    if scope.kind == "last_embedding":
        return tables.last_embedding
    return _layer_table(settings, tables.te if settings.transformer_engine else tables.local, scope.dense)


def _layer_table(settings: Settings, layers: Layers, dense: bool) -> tuple[Row, ...]:
    up, experts = layers.split if settings.mla_mm_split else layers.up, layers.grouped if settings.grouped_gemm else layers.experts
    return (layers.dense if dense else layers.sparse) + up + experts


def _windows(each: Row, scope: Scope, settings: Settings, rank: Rank) -> dict[str, Window]:
    """What of each axis this rank holds."""
    parallel, windows = settings.parallel, {}
    if each.tp:
        size = settings.padded_vocab if each.tp == "vocab" else scope.sizes[each.tp]
        windows[each.tp] = _cut(each, each.tp, size, parallel.tp, rank.t, "tensor_parallel_size")
    if each.ep:
        parts, index = (parallel.ep * parallel.tp, rank.e * parallel.tp + rank.t) if parallel.extend_ep else (parallel.ep, rank.e)
        windows[each.ep] = _cut(each, each.ep, scope.sizes[each.ep], parts, index, "expert_parallel_size")
    if each.etp and not parallel.extend_ep and parallel.etp > 1:
        windows[each.etp] = _cut(each, each.etp, scope.sizes[each.etp], parallel.etp, rank.t, "expert_tensor_parallel_size")
    return windows


def _cut(each: Row, axis: str, size: int, parts: int, index: int, why: str) -> Window:
    try:
        return Window(*slice_evenly(AXES.get(axis, axis), size, parts, index, why))
    except LayoutError as error:
        do = "state make_vocab_size_divisible_by to pad it with zero rows" if axis == "vocab" else f"choose a {why} that divides {size}"
        raise LayoutError(f"{each.stored}: {error.message}", do=do, details=error.details) from None


def write_settings(target: ParallelSizes, model: Model) -> Settings:
    """The settings a job's target asks for; what it leaves out is Megatron's default."""
    tp = target.tensor_parallel_size or 1
    _check_schedule(target, model)
    parallel = Parallel(
        tp=tp,
        pp=target.pipeline_parallel_size or 1,
        ep=target.expert_parallel_size or 1,
        etp=_expert_tp(target, model, tp),
        layers_per_virtual_stage=target.num_layers_per_virtual_pipeline_stage,
        layer_list=target.num_layer_list,
        noop=target.noop_layers or (),
        dualpipev=target.schedules_method == "dualpipev",
        extend_ep=bool(target.moe_tp_extend_ep) and tp > 1,
        virtual_stages=target.num_virtual_stages_per_pipeline_rank,
        first_layers=target.decoder_first_pipeline_num_layers,
        last_layers=target.decoder_last_pipeline_num_layers,
        embedding_counts=bool(target.account_for_embedding_in_pipeline_split),
        output_counts=bool(target.account_for_loss_in_pipeline_split),
        pattern=_pattern(target),
    )
    parallel = _settled(target, parallel, model)
    return Settings(
        parallel,
        padded_vocab=pad_vocab(model.sizes["vocab"], target.make_vocab_size_divisible_by, tp),
        grouped_gemm=bool(target.moe_grouped_gemm) and model.num_experts > 0,
        transformer_engine=_transformer_engine(target, model),
        mla_mm_split=_mla_mm_split(target, model),
        vocab_divisor=target.make_vocab_size_divisible_by,
    )


def _expert_tp(target: ParallelSizes, model: Model, tp: int) -> int:
    """Over how many ranks one expert's matrices are cut; where there are no experts, 1 says nothing, and is not kept."""
    stated = target.expert_tensor_parallel_size or tp
    return tp if stated == 1 and not model.num_experts else stated


def _pattern(target: ParallelSizes) -> tuple[str, ...] | None:
    if target.pipeline_model_parallel_layout is None:
        return None
    try:
        return parse_pattern(target.pipeline_model_parallel_layout)
    except ValueError as error:
        raise LayoutError(f"pipeline_model_parallel_layout {target.pipeline_model_parallel_layout[:80]!r} {error}") from None


def _settled(target: ParallelSizes, parallel: Parallel, model: Model) -> Parallel:
    """The sizes with the number of virtual stages, which args state however the job did; none where there is one.

    Raises LayoutError for a virtual stage as long as its pipeline stage: training looks for "model" where the converter writes "model0".
    """
    if parallel.dualpipev:
        return parallel
    chunks, stated = place_layers(model.num_layers, parallel).chunks, target.num_layers_per_virtual_pipeline_stage
    if stated is not None and chunks is None:
        raise LayoutError(
            f"num_layers_per_virtual_pipeline_stage is {stated}, and a pipeline stage has no more layers: that is one virtual stage",
            do="leave it out, or state a smaller number",
        )
    return replace(parallel, virtual_stages=chunks)


def _check_schedule(target: ParallelSizes, model: Model) -> None:
    stated = target.num_layers_per_virtual_pipeline_stage
    if model.family.one_schedule and target.schedules_method == "dualpipev" and stated is not None:
        raise LayoutError(
            f"schedules_method dualpipev and num_layers_per_virtual_pipeline_stage {stated} cannot be set together for {model.family.name}",
            do="leave one of them out",
        )


def _transformer_engine(target: ParallelSizes, model: Model) -> bool:
    if target.transformer_impl != "transformer_engine":
        return False
    if model.num_mtp:
        raise LayoutError(
            f"transformer_impl is transformer_engine and mtp_num_layers {model.num_mtp}: how MTP layers are named there is not known",
            do="leave one of them out",
        )
    return True


def _mla_mm_split(target: ParallelSizes, model: Model) -> bool:
    """Whether there is something to split: queries and keys that come up from a low rank."""
    names = frozenset().union(*(scope.logicals for scope in model.layers()))
    if target.mla_mm_split and Q_WHOLE.name in names:
        raise LayoutError(
            f"mla_mm_split splits the queries' up projection, and this {model.family.name} has none (q_lora_rank is not set)",
            do="leave mla_mm_split out",
        )
    return bool(target.mla_mm_split) and Q_UP.name in names
