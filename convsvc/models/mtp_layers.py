"""Where Hugging Face keeps multi-token-prediction layers, and which of a checkpoint's layers are such. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from itertools import repeat

from convsvc.blocks.mtp import E_NORM, EH_PROJ, H_NORM
from convsvc.models.facts import Facts
from convsvc.tensors.declare import Row


@dataclass(frozen=True, slots=True)
class Mtp:
    """Where Hugging Face keeps MTP layers. `{layer}` counts on after the hidden layers, `{mtp}` from 0.

    `rows` lie under `prefix`, the rows of its transformer layer under `block_prefix` (the same unless given). `counts` are the
    configuration's fields that say how many there are.
    """

    rows: tuple[Row, ...]
    prefix: str = "model.layers.{layer}."
    block_prefix: str | None = None
    counts: tuple[str, ...] = ("num_nextn_predict_layers",)

    def counted(self, facts: Facts) -> int | None:
        """How many the configuration counts; None where it is silent."""
        return facts.first_number(self.counts) if facts.get(*self.counts) is not None else None

    def stored(self, names: Collection[str], hidden_layers: int, counted: int | None, first: int = 0) -> int:
        """How many of them a checkpoint with these names has, if it is known to have those before `first`.

        Of what the configuration counts, all or (transformers saves none) nothing. Where it is silent a layer is one by the tensors
        that only MTP layers have, eh_proj and its norms: a hidden layer that the configuration forgot may bear the same number.
        """
        if counted is None:
            number = first
            while (number == 0 or "{" in self.prefix) and all(name in names for name in self._own(number, hidden_layers)):
                number += 1
            return number
        prefixes = {
            each.format(layer=hidden_layers + number, mtp=number)
            for number in range(first, min(counted, first + len(names)))  # a count beyond belief is refused later, by its number
            for each in (self.prefix, self.block_prefix or self.prefix)
        }
        return counted if prefixes and any(map(str.startswith, names, repeat(tuple(prefixes)))) else first

    def number_of(self, stored: str, hidden_layers: int) -> int | None:
        """The MTP layer that a name would belong to if there were so many; None for the main model's."""
        # The longer prefix first: Qwen3-Next's "mtp." would take every number for its own layer's.
        for prefix in dict.fromkeys((self.block_prefix or self.prefix, self.prefix)):
            number = _mtp_number(prefix, stored, hidden_layers)
            if number is not None:
                return number
        return None

    def _own(self, number: int, hidden_layers: int) -> tuple[str, ...]:
        """The names that the number-th layer has and no hidden layer."""
        prefix = self.prefix.format(layer=hidden_layers + number, mtp=number)
        return tuple(prefix + row.stored for row in self.rows if {E_NORM, H_NORM, EH_PROJ}.intersection(row.logicals))


def numbered(prefix: str, placeholder: str, stored: str) -> int | None:
    """The number that stands in a stored name at the prefix's placeholder.

    >>> numbered("model.layers.{layer}.", "{layer}", "model.layers.3.mlp.up_proj.weight")
    3
    """
    match = _pattern(prefix, placeholder).match(stored)
    return int(match[1]) if match and match.groups() else None


@cache
def _pattern(prefix: str, placeholder: str) -> re.Pattern[str]:
    return re.compile(re.escape(prefix).replace(re.escape(placeholder), r"(\d+)"))


def _mtp_number(prefix: str, stored: str, hidden_layers: int) -> int | None:
    """An MTP layer's number; they count on after the hidden layers, or from 0; where the prefix has no number, it is layer 0's."""
    if "{mtp}" in prefix:
        return numbered(prefix, "{mtp}", stored)
    if "{layer}" not in prefix:
        return 0 if stored.startswith(prefix) else None
    layer = numbered(prefix, "{layer}", stored)
    return None if layer is None or layer < hidden_layers else layer - hidden_layers


__all__ = ["Mtp", "numbered"]
