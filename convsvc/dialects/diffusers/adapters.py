"""Adapters that are a checkpoint by themselves: they are its tensors, and not to be set apart from weights that are not there. Pure."""

from __future__ import annotations

import re
from dataclasses import replace

from convsvc.dialects.checkpoint import Checkpoint

SIDE = re.compile(r"\.lora_([AB])\.(?:default\.)?weight$")
HIDDEN = re.compile(r"\.side_([AB])\.weight$")


def keep_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """With names that general code does not take for adapters beside weights, where there is nothing but adapters."""
    if not checkpoint.found or not all(SIDE.search(name) for _, name in checkpoint.found):
        return checkpoint
    found = {(file, SIDE.sub(r".side_\1.weight", name)): each for (file, name), each in checkpoint.found.items()}
    return replace(checkpoint, found=found)


def name_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """With their names again, as training has them."""
    found = {(file, HIDDEN.sub(r".lora_\1.default.weight", name)): each for (file, name), each in checkpoint.found.items()}
    return replace(checkpoint, found=found)
