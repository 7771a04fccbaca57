"""Names in a torch distributed checkpoint: what stands before the weights' own, and what is no weight. Pure."""

from __future__ import annotations

import re

# What training frameworks call the parts of a state beside the model: torch's get_state_dict (optim), accelerate (optimizer), torchtitan
# (lr_scheduler, dataloader, train_state), Megatron-FSDP (optimizer, rerun_state_machine), and an optimizer's state saved by itself (state).
_PARTS = "optim|optimizers?|optim(izer)?_state(_dict)?|(lr_)?schedulers?|dataloader|train_state|rng(_state)?|extra_state|scaler|sampler"
_TRAINING = re.compile(rf"(\w+\.)?({_PARTS})(_\d+)?(\.|$)|(state|param_groups)\.")
_STATE = re.compile(r".*[./](exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer|_extra_state)(/.*)?")


def is_training_state(name: str) -> bool:
    """Whether a name is that of something which training keeps beside the weights.

    >>> is_training_state("optim.state.model.norm.weight.exp_avg"), is_training_state("model.norm.weight")
    (True, False)
    """
    return _TRAINING.match(name) is not None or _STATE.fullmatch(name) is not None


def with_dot(prefix: str) -> str:
    """A prefix as it stands before names.

    >>> with_dot("model"), with_dot("model."), with_dot("")
    ('model.', 'model.', '')
    """
    return prefix if not prefix or prefix.endswith(".") else prefix + "."


def first_parts(names: list[str]) -> list[str]:
    """What names begin with, for who has given another prefix.

    >>> first_parts(["model.a", "model.b", "c"])
    ['c', 'model.']
    """
    return sorted({name.split(".")[0] + ("." if "." in name else "") for name in names})
