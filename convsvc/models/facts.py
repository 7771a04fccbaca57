"""What a model's configuration says, whichever tool wrote it: config.json or a checkpoint's saved args. Pure.

The same number has several names: Hugging Face's, Megatron's, and older ones. A checkpoint written by MindSpeed-LLM's converter
holds Hugging Face's names beside Megatron's; one saved by training only Megatron's. Hugging Face's come first, since Megatron's
defaults (num_query_groups 1, ffn_hidden_size) may stand in args without being meant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import Repr
from typing import Any

from convsvc.errors import JobError, SourceError

NAMES: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers"),
    "hidden": ("hidden_size", "d_model", "n_embd", "n_embed"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "attention_heads"),
    "vocab": ("vocab_size", "padded_vocab_size"),
    "ffn": ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts", "num_moe_experts", "moe_num_experts"),
    "expert_ffn": ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size"),
    "head_dim": ("head_dim", "kv_channels"),
    "state": ("mamba_state_dim", "state_size"),
    "mamba_groups": ("mamba_num_groups", "n_groups"),
    "mamba_dim": ("mamba_head_dim", "head_dim"),
    "mamba_heads": ("mamba_num_heads", "num_heads"),
}
# The largest whole number that every JSON reader takes for itself; no size of a model is near it.
LARGEST = 2**53
# Texts that were meant for true, false or nothing. Other texts say more than yes (a kind of gate).
QUOTED = frozenset({"true", "false", "yes", "no", "on", "off", "none", "null", "0", "1", ""})
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 3, 80, 80, 80


@dataclass(frozen=True, slots=True)
class Facts:
    """A configuration, and where it came from (for errors).

    >>> Facts({"num_attention_heads": 8}, "config.json").number("heads")
    8
    """

    values: Mapping[str, Any]
    origin: str

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of these fields that is there and not null."""
        for name in names:
            value = self.values.get(name)
            if value is not None:
                return value
        return default

    def stating(self, stated: Mapping[str, Any]) -> Facts:
        """The facts with those that the job states.

        Raises JobError for those that say otherwise here, under any of their names.
        """
        aliases = {name: names for names in NAMES.values() for name in names}
        actual = {name: self.get(name, *aliases.get(name, ())) for name in stated}
        faults = [
            f"source.architecture.{name}: stated {stated[name]}, {self.origin} says {shown(value)}"
            for name, value in actual.items()
            if value is not None and value != stated[name]
        ]
        if faults:
            raise JobError(f"the job contradicts {self.origin}", facts=faults, do="leave these out: they are read from there")
        return Facts({**self.values, **stated}, self.origin) if stated else self

    def flag(self, *names: str, default: bool = False) -> bool:
        """Whether the first of these fields that is there is true. Raises SourceError for a word in quotes, of which every one would be."""
        value = self.get(*names, default=default)
        if isinstance(value, str) and value.strip().lower() in QUOTED:
            name = next(name for name in names if self.get(name) is not None)
            raise SourceError(
                f"{self.origin}: {name} is the text {shown(value)}; it must be true or false", do="write it without quotes, as JSON has it"
            )
        return bool(value)

    def number(self, what: str, default: int | None = None) -> int:
        """The number known under `what` (a key of NAMES, or a field's name).

        Raises SourceError if it is not there, or not a number.
        """
        names = NAMES.get(what, (what,))
        value = self.get(*names, default=default)
        if value is None:
            raise SourceError(f"{self.origin} does not say {' or '.join(names)}", do="complete it: the model cannot be built without")
        if not is_count(value):
            raise SourceError(f"{self.origin}: {' or '.join(names)} is {shown(value)}; it must be a whole number from 0 to {LARGEST}")
        return int(value)

    def items(self, name: str, kind: type) -> tuple[Any, ...] | None:
        """A field that is a list of whole numbers (`kind` int) or of texts (str); None where it is not there.

        Raises SourceError if it is anything else.
        """
        value = self.get(name)
        if value is None:
            return None
        fits = is_count if kind is int else lambda item: isinstance(item, str)
        if not isinstance(value, list | tuple) or not all(map(fits, value)):
            what = "whole numbers" if kind is int else "texts"
            raise SourceError(f"{self.origin}: {name} is {shown(value)}; it must be a list of {what}")
        return tuple(int(item) for item in value) if kind is int else tuple(value)

    @property
    def num_layers(self) -> int:
        """Layers that hold weights. Megatron's `num_layers` counts noop layers too, and is right where a reduced model was saved."""
        if self.get("num_layers") is None:
            listed = self.get("layers_block_type", "layer_types")
            return self.number("layers", default=len(listed) if isinstance(listed, list | tuple) else None)
        noop = parse_numbers(self.get("noop_layers"), "noop_layers", self.origin) or ()
        if len(noop) > self.number("num_layers"):
            raise SourceError(f"{self.origin}: num_layers is {self.number('num_layers')}, and noop_layers names {len(noop)} of them")
        return self.number("num_layers") - len(noop)

    @property
    def num_groups(self) -> int:
        """Key-value heads; without any number, as many as heads.

        ChatGLM has a name of its own. Megatron's number counts only where group_query_attention is on.
        """
        if self.get("num_key_value_heads") is not None:
            return self.number("num_key_value_heads")
        if self.get("multi_query_group_num") is not None and self.flag("multi_query_attention", default=True):
            return self.number("multi_query_group_num")
        if self.flag("group_query_attention"):
            return self.number("num_query_groups")
        return self.number("heads")

    def tied(self, default: bool = False) -> bool:
        """Whether the output layer is the word embedding; `default` is the architecture's, for a configuration that does not say."""
        if self.get("tie_word_embeddings", "tie_embeddings") is not None:
            return self.flag("tie_word_embeddings", "tie_embeddings")
        return not self.flag("untie_embeddings_and_output_weights", default=not default)

    def first_number(self, names: tuple[str, ...], default: int = 0) -> int:
        """The first of these fields that is there, as a whole number."""
        stated = next((name for name in names if self.get(name) is not None), None)
        return default if stated is None else self.number(stated)


def shown(value: Any) -> str:
    """A value for an error's text: a configuration may hold a megabyte, or a thousand lists in each other, where a number should be.

    >>> shown([[[[1]]]]), shown(10**100)[:10]
    ('[[[...]]]', '1000000000')
    """
    return _SHORT.repr(value)


def is_count(value: Any) -> bool:
    """Whether this is a whole number that a size, an index or how often something is there can be; 4.0 is 4.

    >>> is_count(4.0), is_count(True), is_count(float("inf")), is_count(10**18)
    (True, False, False, False)
    """
    if isinstance(value, float):
        return math.isfinite(value) and value.is_integer() and 0 <= value <= LARGEST
    return type(value) is int and 0 <= value <= LARGEST


def parse_numbers(value: Any, name: str, origin: str) -> tuple[int, ...] | None:
    """Numbers written as "0,7", [0, 7], {0, 7} or 7; None for none.

    >>> parse_numbers("0,7", "noop_layers", "args")
    (0, 7)
    """
    if value is None or value == "":
        return None
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple | set | frozenset) else [value]
    numbers = [int(item) if isinstance(item, str) and re.fullmatch(r"\s*[0-9]{1,15}\s*", item) else item for item in items]
    if not all(map(is_count, numbers)):
        raise SourceError(f"{origin}: {name} is {shown(value)}; it must be numbers separated by commas")
    return tuple(map(int, numbers))
