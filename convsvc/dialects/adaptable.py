"""What of a model can have LoRA adapters, whatever format they are kept in. Pure."""

from __future__ import annotations

from convsvc.blocks.embeddings import EMBEDDING
from convsvc.tensors.blocks import Laid


def no_linear_layer(laid: Laid) -> str | None:
    """Why a stored tensor cannot have an A and a B: words that go behind its name; None where it is a linear layer's matrix."""
    if any(block.tensor.name.endswith(EMBEDDING.name) for block in laid.blocks):
        return ": an embedding"
    if len(laid.shape) != 2:
        return f" {list(laid.shape)}: no matrix of a linear layer (a norm, a bias, a convolution)"
    return None
