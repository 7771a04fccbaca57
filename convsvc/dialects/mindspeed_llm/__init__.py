"""MindSpeed-LLM: Megatron-mcore rank files, `iter_*/mp_rank_*/model_optim_rng.pt`."""

from __future__ import annotations

import re

from convsvc.dialects.base import Checkpoint
from convsvc.dialects.mindspeed_llm.checkpoint import assumed, open, read_settings
from convsvc.dialects.mindspeed_llm.new_files import output
from convsvc.dialects.mindspeed_llm.rank_files import layout, write_settings
from convsvc.models.model import Family, Model

name = "mindspeed-llm"


def by_family_names(checkpoint: Checkpoint, family: Family) -> Checkpoint:
    """As it is: Megatron's names are the same for all families."""
    return checkpoint


def ignores(key: tuple[str, str], model: Model) -> str | None:
    """Buffers that are no weights: Transformer Engine's `_extra_state`, rotary frequencies."""
    if key[1].endswith("._extra_state"):
        return "Transformer Engine's extra state, not a weight"
    if re.search(r"(^|\.)(rotary_pos_emb|rotary_emb)\.inv_freq$", key[1]):
        return "a buffer that is computed, not a weight"
    return None


__all__ = ["assumed", "by_family_names", "ignores", "layout", "name", "open", "output", "read_settings", "write_settings"]
