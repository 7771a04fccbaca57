"""VACE: Wan with a second, shorter stack of blocks for the video that is given; what they compute is added to Wan's own.

The first block of the second stack takes the given video in (`before`), each gives something out (`after`).
"""

from __future__ import annotations

from convsvc.blocks.dit import linear, spelled
from convsvc.families import wan
from convsvc.models.diffusion import Spelling, StackNames, diffusion

VACE_PATCH = linear("vace_patch_embedding", "hidden vace_channel frame patch_row patch_column")
TAKEN, GIVEN = linear("before", "hidden hidden_in"), linear("after", "hidden hidden_in")

DIFFUSERS = Spelling(
    "hf_diffusers",
    wan.DIFFUSERS_BEFORE + spelled((VACE_PATCH, "vace_patch_embedding")),
    {
        "blocks": StackNames("blocks.{layer}.", wan.DIFFUSERS_BLOCK),
        "vace_blocks": StackNames("vace_blocks.{layer}.", wan.DIFFUSERS_BLOCK + spelled((GIVEN, "proj_out")), spelled((TAKEN, "proj_in"))),
    },
    wan.DIFFUSERS_AFTER,
    wan.groups(wan.DIFFUSERS_IMAGE, wan.DIFFUSERS_POSITIONS, wan.DIFFUSERS_IMAGE_BLOCK),
)
ORIGINAL = Spelling(
    "original",
    wan.ORIGINAL_BEFORE + spelled((VACE_PATCH, "vace_patch_embedding")),
    {
        "blocks": StackNames("blocks.{layer}.", wan.ORIGINAL_BLOCK),
        "vace_blocks": StackNames(
            "vace_blocks.{layer}.", wan.ORIGINAL_BLOCK + spelled((GIVEN, "after_proj")), spelled((TAKEN, "before_proj"))
        ),
    },
    wan.ORIGINAL_AFTER,
    wan.groups(wan.ORIGINAL_IMAGE, wan.ORIGINAL_POSITIONS, wan.ORIGINAL_IMAGE_BLOCK),
)

FAMILY = diffusion(
    "vace",
    "VACE",
    forms=(DIFFUSERS, ORIGINAL),
    class_names=("WanVACETransformer3DModel", "VaceWanModel"),
    counts={"blocks": "num_layers"},
)
