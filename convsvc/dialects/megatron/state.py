"""What training keeps beside the weights in a distributed checkpoint of Megatron core, told by the names of its entries."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from convsvc.formats.regular_file import open_regular
from convsvc.notes import Note
from convsvc.roots import RootedPath

SHOWN = 12
# Not of hybrid models, whose MTP layers have several inside and go by this name (core/transformer/multi_token_prediction.py).
RENAMED = re.compile(r"(mtp\.layers\.\d+\.)mtp_model_layer\.(?!layers\.)")
# megatron/training/checkpointing.py, generate_state_dict; core's optimizers and their chains. Megatron-FSDP's state is saved flattened:
# of a dict or list every value has a name that begins so.
TRAINING = re.compile(
    r"(optimizer|chained_\d+|opt_param_scheduler|rng_state|rerun_state_machine(_state)?|common_state|loss_scaler)(_\d+)?\b"
)
EXTRA = re.compile(r"\._extra_state(/|$)")
# The halves of a gated linear_fc1, which Megatron-FSDP alone saves as keys of their own (core/transformer/fsdp_dtensor_checkpoint.py,
# handle_swiglu_in_state_dict).
FSDP_HALF = re.compile(r".*\blinear_fc1\.(weight|bias)\d*_[wv]")
# Experts one by one, which torch_dist stacks but for singleton_local_shards; that is not Megatron-FSDP's.
SINGLE_EXPERT = re.compile(r".*\bmlp\.experts\.experts\.\d+\.linear_fc\d\.weight(_[wv])?")
FSDP_EXPERT = re.compile(r".*\bmlp\.experts\.(linear_fc\d\.weight\d+|local_experts\.\d+\.linear_fc\d\.weight)")
# A state dict's model, wrapped; where virtual pipeline stages are models of their own they have numbers.
FSDP_KEY = re.compile(r"model(\d*)\.(module\.)+")

# Both spellings of the norm behind the layers: that of models of transformer layers, and of mixers.
FSDP_NORM = re.compile(rb"model\d*\.(module\.)+decoder\.final_(layer)?norm\.")
STEP, OVERLAP = 1 << 22, 1 << 8


class Form(NamedTuple):
    """A form of optimizer state: how its entries' names begin, and what it is, in words that follow the count of entries."""

    names: re.Pattern[str]
    what: str


# megatron/core/optimizer/distrib_optimizer.py (0.16.1), sharded_state_dict; optimizer.py, Float16OptimizerWithFloat16Params, whose entries
# are named as those of fully_sharded_model_space. Moments are named alike in all, so that the main weights' name tells the form.
_STATE = r"(chained_\d+\.)?optimizer\."
RESHARDABLE = Form(re.compile(_STATE + r"state\.param\."), "optimizer state, fully_reshardable, which Megatron loads at any layout")
MODEL_SPACE = Form(
    re.compile(_STATE + r"state\.fp32_param\."),
    "optimizer state, fully_sharded_model_space of core before 0.16, or of an optimizer that is not distributed",
)
BUCKETS = Form(
    re.compile(_STATE + r"distributed\."),
    "optimizer state in buckets of one layout (dp_reshardable), which no other tensor or pipeline parallel sizes load: to change them, "
    "load it at its own sizes and save it with --dist-ckpt-optim-fully-reshardable",
)
OF_FSDP = Form(
    re.compile(r"optimizer\.(state|param_to_group_meta)\.(module\.)+"),
    "optimizer state of Megatron-FSDP, which training with --use-megatron-fsdp loads at any layout",
)
MOMENTS = re.compile(_STATE + r"state\.")
FORMS = (OF_FSDP, RESHARDABLE, MODEL_SPACE, BUCKETS)
# What a flat state dict has for its own sake (generate_state_dict); of args it is read.
WORDS_OF_STATE = frozenset({"args", "checkpoint_version", "iteration"})


def is_state(name: str) -> bool:
    """Whether an entry is no weight.

    >>> is_state("optimizer.state.exp_avg.output_layer.weight"), is_state("rng_state/shard_0_1"), is_state("output_layer.weight")
    (True, True, False)
    """
    return TRAINING.match(name) is not None or EXTRA.search(name) is not None


def is_of_fsdp(names: Iterable[str]) -> bool:
    """Whether weights are named as `--ckpt-format fsdp_dtensor` names them: under a state dict's "model", gates or experts apart.

    >>> is_of_fsdp(["model.module.decoder.final_layernorm.weight"]), is_of_fsdp(["module.decoder.final_layernorm.weight"])
    (True, False)
    """
    return any(FSDP_KEY.match(name) or FSDP_HALF.fullmatch(name) or FSDP_EXPERT.fullmatch(name) for name in names)


def by_old_name(name: str) -> str:
    """A name with an MTP layer's inner layer as it was called before core 0.19.

    >>> by_old_name("mtp.layers.0.mtp_model_layer.mlp.router.weight")
    'mtp.layers.0.transformer_layer.mlp.router.weight'
    """
    return RENAMED.sub(r"\1transformer_layer.", name)


def has_state_of_fsdp(names: Iterable[str]) -> bool:
    """Whether there is optimizer state as Megatron-FSDP names it.

    >>> has_state_of_fsdp(["optimizer.state.module.module.output_layer.weight.exp_avg"]), has_state_of_fsdp(["optimizer.state.exp_avg.x"])
    (True, False)
    """
    return any(OF_FSDP.names.match(name) for name in names)


def is_single(names: Iterable[str]) -> bool:
    """Whether a torch_dist has experts or halves of gates as keys of their own, as it is saved with singleton_local_shards.

    >>> is_single(["decoder.layers.0.mlp.experts.experts.7.linear_fc2.weight"]), is_single(["decoder.layers.0.mlp.linear_fc1.weight_w"])
    (True, True)
    """
    return any(FSDP_HALF.fullmatch(name) or SINGLE_EXPERT.fullmatch(name) for name in names)


def is_of_fsdp_files(metadata: RootedPath) -> bool:
    """Whether a `.metadata` has the name of a decoder's last norm as Megatron-FSDP saves it: Hugging Face has none of that name.

    Only looked for, in the bytes: what is recognised is opened, and read, afterwards.
    """
    with open_regular(metadata, may_be_empty=True) as file:
        for start in range(0, file.size_bytes, STEP):
            stop = min(file.size_bytes, start + STEP + OVERLAP)
            if FSDP_NORM.search(file.read(start, stop - start, "names of tensors")):
                return True
    return False


def is_halved(names: Iterable[str]) -> bool:
    """Whether gates are keys of their own.

    >>> is_halved(["decoder.layers.0.mlp.linear_fc1.weight_w"]), is_halved(["decoder.layers.0.mlp.linear_fc1.weight"])
    (True, False)
    """
    return any(FSDP_HALF.fullmatch(name) for name in names)


def describe(names: Iterable[str], origin: str) -> list[Note]:
    """Notes on entries that are no weights and are left out, by their kinds. `names` have no prefix before them; those of objects, too.

    >>> print(*describe(["optimizer.state.param.output_layer.weight", "optimizer.state.exp_avg.output_layer.weight"], ".metadata"))
    ignored: 2 entries of .metadata: optimizer state, fully_reshardable, which Megatron loads at any layout: training state, not weights
    """
    left = Counter(_kinds(list(names)))
    notes = [Note("ignored", f"{count} entries of {origin}: {kind}") for kind, count in sorted(left.items())[:SHOWN]]
    if len(left) > SHOWN:
        notes.append(Note("ignored", f"and {len(left) - SHOWN} further kinds of objects"))
    return notes


def _kinds(names: list[str]) -> Iterator[str]:
    forms = [form for form in FORMS if any(form.names.match(name) for name in names)]
    moments = forms[0].what if forms and forms[0] is not BUCKETS else "optimizer state"
    for name in names:
        if name in WORDS_OF_STATE:
            continue
        training = TRAINING.match(name)
        if EXTRA.search(name) and not training:
            yield "Transformer Engine's extra states, not weights"
        elif training is None:
            yield f"{name.partition('/')[0][:100]}: an object, no tensor"
        elif own := next((form for form in (BUCKETS, OF_FSDP) if form.names.match(name)), None):
            yield f"{own.what}: training state, not weights"
        elif MOMENTS.match(name):
            yield f"{moments}: training state, not weights"
        else:
            yield f"{training[0]}: training state, not weights"
