"""Sizes that the tensors show better than the saved args do, or where there are none. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from convsvc.dialects.base import Found
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


def see_layout(found: Mapping[tuple[str, str], Found]) -> Mapping[str, Any]:
    """The args that rank files without args show: the parallel sizes by their directories, a tied head by its absence.

    MindSpeed-LLM's converter saves Mamba-2 without args (convert_ckpt_mamba2.py); there are no experts, so a second number is a stage.
    """
    folders = {PurePath(file).parent.name for file, _ in found}
    numbers = [[int(each) for each in re.findall(r"\d+", folder)] for folder in folders]
    return {
        "tensor_model_parallel_size": max((each[0] for each in numbers), default=0) + 1,
        "pipeline_model_parallel_size": max((each[1] for each in numbers if len(each) > 1), default=0) + 1,
        "tie_word_embeddings": not any(name.endswith("/output_layer.weight") for _, name in found),
    }
