"""The layout that saved args state: read, checked against what the job states, and put into words for errors.

Names and defaults are Megatron-LM's (megatron/training/arguments.py, core 0.16) and MindSpeed-LLM's (commit c77308a1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from convsvc.dialects.mcore.grid import Parallel
from convsvc.dialects.mcore.pattern import parse_pattern
from convsvc.dialects.mcore.pipeline import table_of
from convsvc.dialects.mcore.settings import Settings
from convsvc.dialects.mcore.sizes import ParallelSizes
from convsvc.errors import ConvsvcError, JobError, SourceError
from convsvc.formats.base import Inert
from convsvc.models.facts import Facts, parse_numbers, shown
from convsvc.models.model import Model
from convsvc.models.placement import Table
from convsvc.models.words import own_contradictions

# An argument's names: training's, then TransformerConfig's or the converter's.
FIRST = ("decoder_first_pipeline_num_layers", "num_layers_in_first_pipeline_stage")
LAST = ("decoder_last_pipeline_num_layers", "num_layers_in_last_pipeline_stage")
VIRTUAL = ("virtual_pipeline_model_parallel_size", "num_virtual_stages_per_pipeline_rank", "vpp_size")
PER_VIRTUAL = "num_layers_per_virtual_pipeline_stage"
PATTERN = "pipeline_model_parallel_layout"
COUNTING = ("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split")
READ = {
    *FIRST, *LAST, *VIRTUAL, PER_VIRTUAL, PATTERN, *COUNTING, "pipeline_model_parallel_size", "num_layer_list", "noop_layers",
    "schedules_method", "transformer_pipeline_model_parallel_size",
}  # fmt: skip
# Of the pipeline, and not of where layers lie: messages, dtypes, micro-batches.
HARMLESS = re.compile(r"p2p|comm|dtype|microbatch|deallocate|defer|overlap|recompute|offload|flops|profile|log")
# Names of arguments that move layers, of forks and later versions: zero bubble's V schedules, automatic splits, encoders of their own.
MOVES = re.compile(
    r"^(.*_)?(pipeline|virtual|vpp|pp)_(.*_)?(layers?|layout|split|split_rank|schedule|list|order|stages)$"
    r"|schedules?_method|pipeline_schedule|layers?_(list|to_build|per_stage)$|standalone_embedding_stage|dualpipe|zero_bubble_v|1f1b_v$"
    r"|^encoder_pipeline_model_parallel_size$|^automated_pipeline$"
)
SPEAKS = re.compile(r"pipeline|virtual_stage|(^|_)(vpp|pp)(_|$)")
WITHOUT_ARGS = "which has no saved args,"


def parallel_of(facts: Facts) -> Parallel:
    """The parallel sizes that saved args state; Megatron's defaults for what they leave out.

    Raises SourceError for what is no size, for fields that contradict each other, and for a way of cutting the pipeline that is not known.
    """
    _check_known(facts)
    tp, pp = _size(facts, "tensor_model_parallel_size") or 1, _size(facts, "pipeline_model_parallel_size") or 1
    dualpipev = facts.get("schedules_method") == "dualpipev"
    extend_ep = facts.flag("moe_tp_extend_ep") and tp > 1
    experts = facts.get("num_experts", "num_local_experts", "n_routed_experts", "num_moe_experts")
    pattern = _pattern(facts)
    return Parallel(
        tp=tp,
        pp=pp,
        ep=_size(facts, "expert_model_parallel_size") or 1,
        etp=tp if extend_ep or not experts else _size(facts, "expert_tensor_parallel_size") or tp,
        layers_per_virtual_stage=None if dualpipev else _size(facts, PER_VIRTUAL),
        layer_list=parse_numbers(facts.get("num_layer_list"), "num_layer_list", facts.origin),
        noop=tuple(sorted(parse_numbers(facts.get("noop_layers"), "noop_layers", facts.origin) or ())),
        dualpipev=dualpipev,
        extend_ep=extend_ep,
        virtual_stages=None if dualpipev else _virtual_stages(facts),
        first_layers=_size(facts, *FIRST),
        last_layers=_size(facts, *LAST),
        embedding_counts=facts.flag(COUNTING[0]),
        output_counts=facts.flag(COUNTING[1]),
        pattern=pattern,
    )


def _size(facts: Facts, *names: str) -> int | None:
    """The whole number from 1 on under these names, which must agree; None where there is none."""
    stated = {name: value for name in names if (value := facts.get(name)) is not None}
    for name, value in stated.items():
        if type(value) is not int or value < 1:
            raise SourceError(f"{facts.origin}: {name} is {shown(value)}; it must be a whole number from 1 on")
    if len(set(stated.values())) > 1:
        raise SourceError(f"{facts.origin} contradict themselves: {', '.join(f'{name} is {value}' for name, value in stated.items())}")
    return next(iter(stated.values()), None)


def _virtual_stages(facts: Facts) -> int | None:
    """How many virtual stages a pipeline stage has; training makes one of them none, and then leaves the first name unset."""
    return _size(facts, *VIRTUAL)


def _pattern(facts: Facts) -> tuple[str, ...] | None:
    value = facts.get(PATTERN)
    if isinstance(value, Inert):  # Megatron's own object; what it was made of lies in it
        value = value.state.get("input_data") if isinstance(value.state, dict) else value
    if value is None or value == "":
        return None
    try:
        return parse_pattern([[_plain(name) for name in stage] for stage in value] if _is_nested(value) else value)
    except ValueError as error:
        raise SourceError(f"{facts.origin}: {PATTERN} is {shown(value)}; it {error}") from None


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(stage, list | tuple) for stage in value)


def _plain(name: Any) -> Any:
    """A member of Megatron's LayerType, pickled as its number or by its name, as that."""
    if not isinstance(name, Inert):
        return name
    return name.args[0] if len(name.args) == 1 else name.name.rpartition(".")[2]


def _check_known(facts: Facts) -> None:
    """Raises SourceError, naming them, for arguments that are set, are not known, and by their names move layers."""
    pp = facts.get("pipeline_model_parallel_size", default=1)
    moving = [name for name in facts.values if name not in READ and MOVES.search(name) and _is_set(facts.values[name])]
    if facts.get("transformer_pipeline_model_parallel_size", default=pp) != pp:
        moving.append("transformer_pipeline_model_parallel_size")
    if facts.get("schedules_method") not in (None, "", "dualpipev"):
        moving.append("schedules_method")
    moving += [name for name in ("hybrid_layer_pattern", "hybrid_override_pattern") if "|" in str(facts.get(name, default=""))]
    if moving:
        raise SourceError(
            f"{facts.origin} state a way of cutting the pipeline that is not known",
            facts=[f"{name} is {shown(facts.get(name))}" for name in moving],
            do="save the checkpoint from training with one of the layouts of the documentation",
        )


def _is_set(value: Any) -> bool:
    """Whether an argument says anything: None, False, 0, and what is empty are what arguments are without a word."""
    return value is not None and value is not False and value != 0 and value not in ("", [], (), {})


def layers_per_virtual_stage(parallel: Parallel, num_layers: int) -> int | None:
    """How many layers a virtual stage has; None where there are none, or they differ."""
    if parallel.layers_per_virtual_stage is not None or parallel.dualpipev or parallel.virtual_stages is None:
        return parallel.layers_per_virtual_stage
    counts = {count for chunk in table_of(num_layers + len(parallel.noop), parallel).counts for count in chunk}
    return counts.pop() if len(counts) == 1 and parallel.virtual_stages > 1 else None


def check_own_words(facts: Facts) -> None:
    """Raises SourceError if Hugging Face's names in the args and Megatron's say different things about what is computed."""
    faults = list(own_contradictions(facts))
    if faults:
        do = "mend the args: nobody can know with which of the two the weights were trained"
        raise SourceError(f"{facts.origin} contradict themselves", facts=faults, do=do)


def check_stated(stated: ParallelSizes, settings: Settings, model: Model, where: str) -> None:
    """What the job states about a source must be what the checkpoint is.

    Raises JobError with a fact for each field that disagrees.
    """
    parallel = settings.parallel
    actual: Mapping[str, Any] = {
        "tensor_parallel_size": parallel.tp,
        "pipeline_parallel_size": parallel.pp,
        "expert_parallel_size": parallel.ep,
        "expert_tensor_parallel_size": parallel.etp,
        "num_layers_per_virtual_pipeline_stage": layers_per_virtual_stage(parallel, model.num_layers),
        "num_virtual_stages_per_pipeline_rank": len(table_of(model.num_layers + len(parallel.noop), parallel).counts),
        "decoder_first_pipeline_num_layers": parallel.first_layers,
        "decoder_last_pipeline_num_layers": parallel.last_layers,
        "account_for_embedding_in_pipeline_split": parallel.embedding_counts,
        "account_for_loss_in_pipeline_split": parallel.output_counts,
        "num_layer_list": parallel.layer_list,
        "noop_layers": parallel.noop,
        "schedules_method": "dualpipev" if parallel.dualpipev else None,
        "moe_grouped_gemm": settings.grouped_gemm,
        "moe_tp_extend_ep": parallel.extend_ep,
        "mla_mm_split": settings.mla_mm_split,
        "mtp_num_layers": model.num_mtp,
        "transformer_impl": "transformer_engine" if settings.transformer_engine else "local",
    }
    faults = [
        f"source.{field}: stated {_shown(given)}, the checkpoint has {_shown(actual[field])}"
        for field in actual
        if (given := getattr(stated, field)) is not None and _comparable(given) != _comparable(actual[field])
    ]
    if faults:
        raise JobError(f"the job contradicts {where}", facts=faults, do="leave these out: they are read from the checkpoint")


def _comparable(value: Any) -> Any:
    return tuple(sorted(value)) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def describe_layout(facts: Facts, parallel: Parallel) -> tuple[str, ...]:
    """The layout that was assumed and where each number came from, for an error about it; and what was not understood.

    >>> describe_layout(Facts({"tensor_model_parallel_size": 2}, "args"), Parallel(tp=2, etp=2))[0]
    'assumed tp 2 (args.tensor_model_parallel_size), pp 1 (not stated), ep 1 (not stated), etp 2 (not stated)'
    """
    by_folders = facts.origin.endswith(WITHOUT_ARGS)

    def origin(*names: str) -> str:
        said = [f"args.{name}" for name in names if _is_set(facts.values.get(name))]
        return f"({' and '.join(said) or 'not stated'})" if not by_folders else "(the directories' names)"

    sizes = [
        f"tp {parallel.tp} {origin('tensor_model_parallel_size')}",
        f"pp {parallel.pp} {origin('pipeline_model_parallel_size')}",
        f"ep {parallel.ep} {origin('expert_model_parallel_size')}",
        f"etp {parallel.etp} {origin('expert_tensor_parallel_size')}",
        *_describe_pipeline(facts, parallel, origin),
    ]
    unknown = [
        f"args.{name} is {shown(value)}"
        for name, value in facts.values.items()
        if name not in READ and SPEAKS.search(name) and not HARMLESS.search(name) and _is_set(value)
    ]
    return "assumed " + ", ".join(sizes), *([f"not known, and not considered: {', '.join(unknown[:8])}"] if unknown else [])


def _describe_pipeline(facts: Facts, parallel: Parallel, origin: Any) -> Iterator[str]:
    if parallel.pp == 1:
        return
    if parallel.dualpipev:
        yield f"chunks down the stages and back {origin('schedules_method')}"
    elif parallel.virtual_stages or parallel.layers_per_virtual_stage:
        yield f"virtual stages {origin(*VIRTUAL, PER_VIRTUAL, PATTERN)}"
    if facts.get("num_layers", "num_hidden_layers") is not None:
        positions = facts.num_layers + len(parallel.noop)
        ways = [name for name in ("num_layer_list", *FIRST, *LAST, *COUNTING, PATTERN) if _is_set(facts.values.get(name))]
        noop = f", of which {','.join(map(str, parallel.noop))} are noop {origin('noop_layers')}" if parallel.noop else ""
        yield f"{positions} layers {origin('num_layers', 'num_hidden_layers')}{noop}"
        yield f"by stage {_describe_table(positions, parallel)} {origin(*ways) if ways else '(evenly: nothing else is stated)'}"


def _describe_table(positions: int, parallel: Parallel) -> str:
    try:
        table: Table = table_of(positions, parallel)
    except ConvsvcError:
        return "not possible"
    return " | ".join(", ".join(_runs(chunk)) for chunk in table.counts)


def _runs(counts: tuple[int, ...]) -> Iterator[str]:
    for count, same in groupby(counts):
        number = len(list(same))
        yield str(count) if number == 1 else f"{number} x {count}"
