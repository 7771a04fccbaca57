"""What lies in a file of MindSpore's beside the model's weights, told by its name. Pure."""

from __future__ import annotations

import re

# The optimizer's moments, and its gradients and buffers, which a callback leaves out of newer checkpoints (mindformers, core/callback).
OPTIMIZER = ("adam_m.", "adam_v.", "adam_", "moments.", "moment1.", "moment2.", "beta1_power", "beta2_power", "muon_m.")
BUFFERS = (
    "accu_grads", "fi_parameter", "zeros_k_pe", "zeros_k_nope", "zeros_value_states", "_cache", "_device_local_norm",
    "_device_local_loss", "expert_load", "max_logits_val",
)  # fmt: skip
HYPER = frozenset({
    "epoch_num", "step_num", "global_step", "loss_scale", "current_iterator_step", "last_overflow_iterator_step", "learning_rate",
})  # fmt: skip
HYPER_FILE = "hyper_param.safetensors"


def why_ignored(name: str) -> str | None:
    """What a tensor is that is no weight; None for what may be one.

    >>> why_ignored("adam_m.decoder.final_layernorm.weight"), why_ignored("decoder.final_layernorm.weight")
    ('optimizer state, not a weight', None)
    """
    if name.startswith(OPTIMIZER):
        return "optimizer state, not a weight"
    if name in HYPER:
        return "a counter or a scale of training, not a weight"
    if is_buffer(name) or name.startswith("accu_grads"):
        return "a buffer of training, not a weight"
    return None


def is_counter(name: str) -> bool:
    """Whether it is no tensor that is cut: a counter, a scale, a gradient that is being summed up."""
    return name in HYPER or name.startswith("accu_grads")


def is_buffer(name: str) -> bool:
    """Whether training leaves it out of newer checkpoints itself.

    >>> is_buffer("decoder.layers.0.self_attention.key_cache"), is_buffer("decoder.layers.0.self_attention.linear_qkv.weight")
    (True, False)
    """
    return any(each in name for each in BUFFERS) or bool(re.search(r"(^|\.)dropout(\.|$)", name))
