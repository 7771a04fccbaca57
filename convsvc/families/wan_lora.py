"""LoRA adapters of Wan's blocks, by themselves: whatever matrices of a block have them, in every block alike.

Their names are a matrix's with `.lora_A.default.weight` or `.lora_B.default.weight`; PEFT saves them without `default`.
"""

from __future__ import annotations

from collections.abc import Mapping

from convsvc.blocks.dit import Rows
from convsvc.families import wan
from convsvc.models.diffusion import Spelling, StackNames, diffusion
from convsvc.tensors.declare import Row, logical, row


def adapters_of(block: Rows) -> Mapping[str, Mapping[str, Rows]]:
    """The two factors of each matrix of a block, a group each, by the matrix's logical name."""
    matrices = [each for each in block if each.stored.endswith(".weight") and len(each.parts[0].logical.axes) == 2]
    return {each.parts[0].logical.name: {"blocks": _sides(each)} for each in matrices}


def _sides(matrix: Row) -> Rows:
    weight = matrix.parts[0].logical
    out, into = weight.axes
    module, name = matrix.stored.removesuffix(".weight"), weight.name.removesuffix(".weight")
    first, second = logical(f"{name}.lora_A.weight", f"rank {into}"), logical(f"{name}.lora_B.weight", f"{out} rank")
    return (
        row(f"{module}.lora_A.default.weight", first, f"rank {into}"),
        row(f"{module}.lora_B.default.weight", second, f"{out} rank"),
    )


def form(name: str, block: Rows) -> Spelling:
    """A form of the adapters, from the rows that a form has of a block."""
    return Spelling(name, (), {"blocks": StackNames("blocks.{layer}.", ())}, (), adapters_of(block), file="adapter_model")


FAMILY = diffusion(
    "wan-lora",
    "Wan (LoRA adapters)",
    forms=(
        form("original", wan.ORIGINAL_BLOCK + wan.ORIGINAL_IMAGE_BLOCK),
        form("hf_diffusers", wan.DIFFUSERS_BLOCK + wan.DIFFUSERS_IMAGE_BLOCK),
    ),
)
