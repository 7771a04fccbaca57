"""How megatron.core spreads layers over a pipeline; a part of the program `megatron_rank.py`, as importing Megatron takes seconds.

A pipeline is {"layers", "pp", "vpp", ...} with fields of TransformerConfig; its table is [chunk][stage] of lists of layer numbers, or a
text where Megatron refuses it.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset


def table(layers: int, pp: int, vpp: int | None = None, mtp: int | None = None, **fields: Any) -> list[list[list[int]]] | str:
    try:
        config = TransformerConfig(
            num_layers=layers, hidden_size=8, num_attention_heads=2, pipeline_model_parallel_size=pp, pipeline_dtype=torch.float32,
            virtual_pipeline_model_parallel_size=vpp, mtp_num_layers=mtp, **fields,
        )  # fmt: skip
        chunks = config.virtual_pipeline_model_parallel_size or 1
        parallel_state.set_virtual_pipeline_model_parallel_world_size(chunks if chunks > 1 else None)
        return [[held(config, stage, chunk if chunks > 1 else None) for stage in range(pp)] for chunk in range(chunks)]
    except (AssertionError, ValueError, ZeroDivisionError) as error:
        return f"{type(error).__name__}: {error}"


def held(config: TransformerConfig, stage: int, chunk: int | None) -> list[int]:
    layout = config.pipeline_model_parallel_layout
    if layout is not None:
        return list(layout.get_layer_id_list(LayerType.decoder, vp_stage=chunk, pp_rank=stage))
    first = get_transformer_layer_offset(config, vp_stage=chunk, pp_rank=stage)
    return list(range(first, first + get_num_layers_to_build(config, vp_stage=chunk, pp_rank=stage)))
