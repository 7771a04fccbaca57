"""What MindSpeed-LLM's args say of a layout beside Megatron's, and what training must be told of it.

Names are those of commit c77308a1 (mindspeed_llm/training/arguments.py, and features_manager).
"""

from __future__ import annotations

from typing import Any

from convsvc.blocks.linear_attention import DELTA_OUT
from convsvc.dialects.checkpoint import AdapterFacts
from convsvc.dialects.mcore.pipeline import place_layers
from convsvc.dialects.mcore.settings import Settings
from convsvc.errors import SourceError
from convsvc.models.facts import Facts, shown
from convsvc.models.model import Model
from convsvc.notes import Note


def layout_args(model: Model, settings: Settings) -> dict[str, Any]:
    """The args beside Megatron's that a layout needs."""
    parallel = settings.parallel
    args: dict[str, Any] = {
        "moe_tp_extend_ep": parallel.extend_ep,
        "mla_mm_split": settings.mla_mm_split,
        "vpp_size": place_layers(model.num_layers, parallel).chunks,
        "num_layer_list": None if parallel.layer_list is None else ",".join(map(str, parallel.layer_list)),
        "noop_layers": ",".join(map(str, parallel.noop)) or None,
        "schedules_method": "dualpipev" if parallel.dualpipev else None,
    }
    return {name: value for name, value in args.items() if value is not None}


def saved_lora(facts: Facts) -> AdapterFacts:
    """What the args say of adapters: they are there without adapters, too."""
    return AdapterFacts(facts.origin, _number(facts, "lora_r"), _number(facts, "lora_alpha"), facts.get("use_rslora"))


def layout_notes(model: Model, settings: Settings) -> tuple[Note, ...]:
    """A word where training itself does not load what Megatron would."""
    if settings.parallel.tp == 1 or not model.layers_have(DELTA_OUT):
        return ()
    # mindspeed_llm/tasks/models/transformer/qwen3_next_gated_deltanet_attention.py, commit 0bba5c97: sizes are not divided by tp.
    advice = (
        "linear attention is cut by key heads, as Megatron core's is; MindSpeed-LLM's own holds all heads on every rank and loads it "
        "at tensor_parallel_size 1 only"
    )
    return (Note("advice", advice),)


def _number(facts: Facts, name: str) -> Any:
    value = facts.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise SourceError(f"{facts.origin}: {name} is {shown(value)}; it must be a number above 0")
    return value
