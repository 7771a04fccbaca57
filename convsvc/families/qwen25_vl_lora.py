"""LoRA adapters of Qwen2.5-VL by themselves: of the text decoder's matrices, the vision tower's and its projector's, whatever have them.

Names are a matrix's with `.lora_A.default.weight` or `.lora_B.default.weight`; PEFT saves them without `default`. transformers 4.52 moved
both parts under `model.` (its conversion_mapping.py). Facts: MindSpeed-MM, checkpoint/vlm_model/converters/qwen2_5vl.py, lora_hf_to_mm.
"""

from __future__ import annotations

from collections.abc import Mapping

from convsvc.blocks.dit import Rows
from convsvc.models.diffusion import Spelling, StackNames, behind, diffusion
from convsvc.tensors.declare import logical, row

# A matrix by stack: its axes, and the one that ranks cut.
MATRICES: Mapping[str, Mapping[str, tuple[str, str, str]]] = {
    "text": {
        "q_proj": ("query", "hidden", "query"),
        "k_proj": ("key", "hidden", "key"),
        "v_proj": ("key", "hidden", "key"),
        "o_proj": ("hidden", "query", "query"),
        "gate_proj": ("ffn", "hidden", "ffn"),
        "up_proj": ("ffn", "hidden", "ffn"),
        "down_proj": ("hidden", "ffn", "ffn"),
    },
    "vision": {
        "qkv": ("seen_qkv", "seen_hidden", "seen_qkv"),
        "proj": ("seen_hidden", "seen_heads", "seen_heads"),
        "gate_proj": ("seen_ffn", "seen_hidden", "seen_ffn"),
        "up_proj": ("seen_ffn", "seen_hidden", "seen_ffn"),
        "down_proj": ("seen_hidden", "seen_ffn", "seen_ffn"),
    },
}
# The projector's, which lies behind the tower: `visual.merger`, between the layers' names and these.
PROJECTOR: Mapping[str, tuple[str, str, str]] = {
    "mlp.0": ("merged_ffn", "merged", "merged_ffn"),
    "mlp.2": ("hidden", "merged_ffn", "merged_ffn"),
}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv", "proj")
INSIDE = {"text": "self_attn", "vision": "attn"}


def published(stack: str, matrix: str) -> str:
    """A matrix's module within its layer, by transformers."""
    return f"{INSIDE[stack] if matrix in ATTENTION else 'mlp'}.{matrix}"


def _sides(name: str, axes: tuple[str, str, str], module: str, cut: bool) -> Rows:
    out, into, over = axes
    first, second = logical(f"{name}.lora_A.weight", f"rank {into}"), logical(f"{name}.lora_B.weight", f"{out} rank")
    return (
        row(f"{module}.lora_A.default.weight", first, f"rank {into}", tp=into if cut and over == into else None),
        row(f"{module}.lora_B.default.weight", second, f"{out} rank", tp=out if cut and over == out else None),
    )


def form(name: str, prefixes: Mapping[str, str], modules: Mapping[tuple[str, str], str], *, cut: bool = False) -> Spelling:
    """A form of the adapters: what goes before a layer's names by stack, and modules' names where they are not transformers'."""
    groups = {
        f"{stack}_{matrix}": {stack: _sides(f"{stack}_{matrix}", axes, modules.get((stack, matrix), published(stack, matrix)), cut)}
        for stack, matrices in MATRICES.items()
        for matrix, axes in matrices.items()
    }
    merger = prefixes["vision"].partition("blocks.")[0] + "merger."
    for matrix, axes in PROJECTOR.items():
        module = modules.get(("projector", matrix), merger + matrix)
        groups[f"projector_{matrix}"] = {behind("vision"): _sides(f"projector_{matrix}", axes, module, cut)}
    stacks = {stack: StackNames(prefix, ()) for stack, prefix in prefixes.items()}
    return Spelling(name, (), stacks, (), groups, file="adapter_model", unstored="" if cut else ".default")


FAMILY = diffusion(
    "qwen2.5-vl-lora",
    "Qwen2.5-VL (LoRA adapters)",
    forms=(
        form("original", {"text": "model.layers.{layer}.", "vision": "visual.blocks.{layer}."}, {}),
        form("language_model", {"text": "model.language_model.layers.{layer}.", "vision": "model.visual.blocks.{layer}."}, {}),
    ),
)
