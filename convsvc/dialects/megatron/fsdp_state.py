"""What Megatron-FSDP keeps of an optimizer: moments under every weight's name, and the words of its group beside them. Pure.

    model.module.decoder.layers.0.mlp.linear_fc2.weight                                     the main weight, in the weight's place
    optimizer.state.module.module.module.decoder.layers.0.mlp.linear_fc2.weight.exp_avg     a moment, cut and named as the weight is
    optimizer.param_to_group_meta.module.module.module.decoder.layers.0...weight.wd_mult    an object: a field of the weight's group

Facts: megatron-core 0.16.1, core/optimizer/distrib_optimizer.py: sharded_param_state_fsdp_dtensor, _param_name (a weight's name in the
wrapped model, which has one module more where training is in bf16 or fp16: Float16Module). Its loader asks for the fields that the groups
of its own optimizer have. torch's Adam keeps the step as a tensor of each weight's, Transformer Engine's with the groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convsvc.errors import JobError, SourceError

MAIN, MOMENTS, STEP = "param", ("exp_avg", "exp_avg_sq"), "step"
WRAPPED, HALF = "module.module.", "module.module.module."
STATE, GROUP = ("optimizer", "state"), ("optimizer", "param_to_group_meta")
# Which weights are in the group, by numbers.
NO_WORDS = frozenset({"params"})
# Which weights may have a learning rate of their own (core/models/common/language_module/language_module.py).
ENDS = frozenset({"embedding.word_embeddings.weight", "output_layer.weight"})
QK_NORMS = ("q_layernorm.", "k_layernorm.")
# By which torch_dist's loader knows a group (param_group_identifier_keys).
IDENTIFIERS = ("wd_mult", "lr_mult", "is_expert_parallel", "is_decoupled_lr")
SHOWN = 12

Group = Mapping[str, Any]


def moment_name(wrappers: str, kind: str, key: str) -> str:
    """A moment's name, `key` being the weight's without what stands before it among weights.

    >>> moment_name("module.module.", "exp_avg", "output_layer.weight")
    'optimizer.state.module.module.output_layer.weight.exp_avg'
    """
    return ".".join((*STATE, f"{wrappers}{key}", kind))


def check_kinds_of_fsdp(state: Mapping[str, frozenset[str]]) -> None:
    """Raises JobError for state that Megatron-FSDP has no place for: it has Adam's, of main weights."""
    others = sorted(set(state) - {MAIN, *MOMENTS})
    lacking = sorted({MAIN, *MOMENTS} - set(state))
    if others or lacking:
        raise JobError(
            f"Megatron-FSDP keeps main weights and Adam's moments, and the source has {', '.join(sorted(state))}",
            facts=[f"without a place: {', '.join(others) or 'none'}; missing: {', '.join(lacking) or 'none'}"],
            do="go on training from a target with storage torch_dist; or leave options.state out to convert the weights alone",
        )


class Groups:
    """An optimizer's groups, which torch_dist has in a list, without the names of the weights that are in them.

    Which one a weight is in follows from megatron core's own rules (0.16.1, core/optimizer/__init__.py, _get_param_groups and
    get_standard_config_overrides): experts that are spread are apart; both ends may have a learning rate of their own; what has one
    dimension does not decay. `decayed_norms`: norms of queries and keys do (apply_wd_to_qk_layernorm). `known`: the numbers of their
    groups, of weights by their keys, where the source says them.
    """

    def __init__(self, groups: Iterable[Group], known: Mapping[str, int], *, decayed_norms: bool) -> None:
        self._groups = [{name: value for name, value in group.items() if name not in NO_WORDS} for group in groups]
        self._known, self._decayed_norms = known, decayed_norms

    def of(self, key: str, shape: tuple[int, ...]) -> Group:
        """The group that the weight of a key is in. Raises SourceError where the rules leave several that differ."""
        if key in self._known:
            return self._groups[self._known[key]]
        decays = (len(shape) > 1 and not key.endswith(".bias")) or (self._decayed_norms and any(norm in key for norm in QK_NORMS))
        left = self._groups
        for told, wanted in ((_is_of_experts, ".experts." in key), (_has_own_rate, key in ENDS), (_decays, decays)):
            fitting = [group for group in left if told(group) is wanted]
            left = fitting if len(fitting) < len(left) and fitting else left
        if not left or any(other != left[0] for other in left[1:]):
            raise SourceError(
                f"{key} may be in {len(left)} groups of the optimizer, which differ",
                facts=[", ".join(f"{name} {value}" for name, value in group.items()) for group in left[:SHOWN]],
                do="go on training from a target with storage torch_dist, whose groups name no weights; or leave options.state out to "
                "convert the weights alone",
            )
        return left[0]


def _is_of_experts(group: Group) -> bool:
    return group.get("is_expert_parallel") is True


def _has_own_rate(group: Group) -> bool:
    return group.get("is_decoupled_lr") is True or group.get("default_config") is False


def _decays(group: Group) -> bool:
    return bool(group.get("wd_mult", group.get("pre_wd_mult", 1.0)))


def check_apart(groups: Iterable[Group]) -> None:
    """Raises SourceError for groups that torch_dist's loader would take for one another (core/optimizer/optimizer.py, 0.16.1)."""
    found: dict[tuple[Any, ...], Group] = {}
    for group in groups:
        names = tuple([group.get(name, group.get(f"pre_{name}")) for name in IDENTIFIERS])
        if found.setdefault(names, group) != group:
            raise SourceError(
                "two groups of the optimizer differ, and in none of " + ", ".join(IDENTIFIERS),
                facts=[", ".join(f"{name} {value}" for name, value in each.items()) for each in (found[names], group)],
                do="go on training from a target with storage fsdp_dtensor, which has groups by weights; or leave options.state out to "
                "convert the weights alone",
            )


def is_of_torch(group: Group) -> bool:
    """Whether it is torch's Adam that has the group: its step is a tensor of every weight's."""
    return {"amsgrad", "foreach"} <= set(group)


def optimizers_of(words: Mapping[Any, Any]) -> list[Mapping[str, Any]]:
    """The words of each optimizer of a chain; of one alone its own."""
    return list(words.values()) if words and all(type(key) is int for key in words) else [words]


def groups_of(words: Mapping[Any, Any]) -> list[Group]:
    """The groups of all optimizers of a chain, in one list. Raises SourceError for words that have none."""
    found: list[Group] = []
    for each in filter(None, optimizers_of(words)):
        inner = each.get("optimizer")
        groups = inner.get("param_groups") if isinstance(inner, Mapping) else None
        if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
            raise SourceError(
                "the optimizer's words have no param_groups: its learning rates and steps",
                facts=[f"they have {', '.join(map(str, list(each)[:SHOWN]))}"],
                do="give a checkpoint that training saved with its optimizer; or leave options.state out to convert the weights alone",
            )
        found += groups
    return found
