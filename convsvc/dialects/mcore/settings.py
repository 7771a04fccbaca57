"""How a checkpoint of rank files is laid out, and what a job's target asks of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from convsvc.blocks.mla import Q_UP, Q_WHOLE
from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.pattern import parse_pattern
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.seen_sizes import pad_vocab
from convsvc.dialects.mcore.sizes import ParallelSizes
from convsvc.errors import LayoutError
from convsvc.models.model import Model


@dataclass(frozen=True, slots=True)
class Settings:
    """How a checkpoint is laid out. `padded_vocab` is the number of embedding rows over all tensor ranks; `folder` the iteration's.

    `every_pair`: with expert_tensor_parallel_size 1 there are files, too, for pairs of tensor and expert rank that no process has.
    MindSpeed-LLM's converter writes them for DeepSeek-V4; training does not read them, and we do not write them. `vocab_divisor` is what
    training pads the vocabulary by, times tp (make_vocab_size_divisible_by), where that is stated. `parallel` is the grid of ranks, and how
    a model is cut that has one module; of several, `modules` says it for those that are cut in another way, over the same stages: a rank
    holds the part `t % tp` of a module with fewer tensor parts than there are ranks.
    """

    parallel: Parallel
    padded_vocab: int
    grouped_gemm: bool = False
    transformer_engine: bool = False
    mla_mm_split: bool = False
    folder: str = "iter_0000001"
    every_pair: bool = False
    vocab_divisor: int | None = None
    modules: Mapping[str, Parallel] = field(default_factory=dict)

    def of(self, module: str) -> Parallel:
        """How a module is cut."""
        return self.modules.get(module, self.parallel)


def settings_for(target: ParallelSizes, model: Model) -> Settings:
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
