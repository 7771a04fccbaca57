"""What saved args say of the model: under Megatron's names and under Hugging Face's. What is a block's, the block says."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import convsvc.blocks
from convsvc.models.facts import NAMES, Facts
from convsvc.models.model import Model
from convsvc.models.rope import rope_base
from convsvc.models.words import EPSILON


def architecture_args(model: Model, facts: Facts) -> dict[str, Any]:
    """The args that follow from the model; what the configuration is silent about is left out."""
    args = _decoder(model, facts)
    for of_block in _blocks():
        args |= of_block(model, facts)
    return {name: value for name, value in args.items() if value is not None}


def _decoder(model: Model, facts: Facts) -> dict[str, Any]:
    """What every decoder has, and Megatron's switches as most families set them: a block or a family says where it is otherwise."""
    epsilon = EPSILON.said(facts)
    return {
        "model_type_hf": model.family.name,
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.sizes["hidden"],
        "num_attention_heads": facts.get(*NAMES["heads"]),
        "vocab_size": model.sizes["vocab"],
        "tie_word_embeddings": model.tied,
        "untie_embeddings_and_output_weights": not model.tied,
        "max_position_embeddings": facts.get("max_position_embeddings"),
        "norm_epsilon": None if epsilon is None else epsilon.value,
        "normalization": "RMSNorm",
        "swiglu": True,
        "add_bias_linear": False,
        "position_embedding_type": "rope",
        "use_rotary_position_embeddings": True,
        "rotary_base": rope_base(facts),
    }


@cache
def _blocks() -> tuple[Callable[[Model, Facts], dict[str, Any]], ...]:
    """Of every module of `blocks`, what it says of saved args."""
    modules = [import_module(f"{convsvc.blocks.__name__}.{info.name}") for info in pkgutil.iter_modules(convsvc.blocks.__path__)]
    return tuple(module.saved_args for module in modules if hasattr(module, "saved_args"))
