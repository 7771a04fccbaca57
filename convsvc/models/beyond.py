"""What a configuration makes a model compute beyond its weights, which training must be told or computes another model. Pure.

Weights convert without it: it lies in config.json alone. Each function gives a sentence for the user, or None.
"""

from __future__ import annotations

from convsvc.models.facts import Facts, shown

# Factors, and the value that changes nothing. attention_multiplier stands for 1 / sqrt(head_dim), so that no value of it is neutral.
MULTIPLIERS = {
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": None,
    "logits_scaling": 1.0,
    "scale_emb": 1.0,
    "scale_depth": None,
    "dim_model_base": None,
}


def multipliers(facts: Facts) -> str | None:
    """Granite's and MiniCPM's factors on embeddings, residuals, attention and logits."""
    have = [
        f"{name} {shown(value)}" for name, neutral in MULTIPLIERS.items() if (value := facts.get(name)) is not None and value != neutral
    ]
    if not have:
        return None
    return f"the configuration multiplies what the model computes ({', '.join(have)}): training must be told, or computes another model"


def layers_without_positions(facts: Facts) -> str | None:
    """Layers whose attention has no rotary position (transformers SmolLM3Config: 0 in no_rope_layers)."""
    stated = facts.items("no_rope_layers", int)
    interval = facts.number("no_rope_layer_interval", default=4)
    with_rope = stated if stated is not None else tuple(int((at + 1) % max(interval, 1) != 0) for at in range(facts.num_layers))
    without = [at for at, has in enumerate(with_rope) if not has]
    if not without:
        return None
    first = ", ".join(map(str, without[:4])) + (f" and {len(without) - 4} more" if len(without) > 4 else "")
    return f"{len(without)} layers ({first}) have no rotary positions: training must be told, or computes another model"


def windows(facts: Facts) -> str | None:
    """Layers that see only the nearest tokens."""
    kinds = facts.items("layer_types", str)
    pattern, size = facts.get("sliding_window_pattern"), facts.get("sliding_window")
    if size is None or (kinds is not None and "sliding_attention" not in kinds):
        return None
    which = "layers" if pattern is None else f"all layers but every {shown(pattern)}th"
    which = f"{kinds.count('sliding_attention')} layers" if kinds else which
    return f"{which} see a window of {shown(size)} tokens only: training must be told, or computes another model"


def local_positions(facts: Facts) -> str | None:
    """Rotary positions of another base in layers with a window (Gemma 3)."""
    ropes = facts.get("rope_parameters")
    nested = isinstance(ropes, dict) and any(isinstance(value, dict) for value in ropes.values())
    if facts.get("rope_local_base_freq") is None and not nested:
        return None
    return "layers with a window have rotary positions of another base: training must be told, or computes another model"


def growing_queries(facts: Facts) -> str | None:
    """Queries that are scaled by how far in the text they are (Ministral 3, as Llama 4)."""
    ropes = facts.get("rope_parameters")
    beta = ropes.get("llama_4_scaling_beta") if isinstance(ropes, dict) else None
    if not beta:
        return None
    return f"queries grow with their position (llama_4_scaling_beta {shown(beta)}): training must be told, or computes another model"


__all__ = ["growing_queries", "layers_without_positions", "local_positions", "multipliers", "windows"]
