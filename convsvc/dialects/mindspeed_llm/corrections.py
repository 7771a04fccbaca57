"""Where the source tool's saved args are wrong, and the tensors right. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convsvc.dialects.checkpoint import Found
from convsvc.notes import Note


def see_value_dim(args: Mapping[str, Any], found: Mapping[tuple[str, str], Found]) -> tuple[Mapping[str, Any], tuple[Note, ...]]:
    """The args with v_head_dim as latent attention's linear_proj has it, and a note if that is another.

    MindSpeed-LLM's converter saves PLM's table value, 128, whatever the model's is (configs/checkpoint/model_cfg.json, plm).
    """
    stated, heads, tp = args.get("v_head_dim"), args.get("num_attention_heads"), args.get("tensor_model_parallel_size")
    width = next((each.tensor.shape[-1] for (_, name), each in found.items() if name.endswith(".linear_proj.weight")), None)
    if not (isinstance(stated, int) and isinstance(heads, int) and isinstance(tp, int) and heads > 0) or width is None:
        return args, ()
    seen, rest = divmod(width * tp, heads)
    if rest or seen == stated or not args.get("kv_lora_rank"):
        return args, ()
    return {**args, "v_head_dim": seen}, (Note("changed", f"the saved args say v_head_dim {stated}; linear_proj has {seen} for each head"),)
