"""Lumina-mGPT 2: a decoder of tokens of text and image. Training has the names that it is published under, so whatever else lies in a layer
is kept as it is."""

from __future__ import annotations

from convsvc.blocks.dit import linear, spelled
from convsvc.models.diffusion import Spelling, StackNames, diffusion

EMBEDDING, OUTPUT = linear("tok_embeddings", "vocab hidden", bias=False), linear("output", "vocab_out hidden", bias=False)
NORM, ATTENTION_NORM = linear("norm", "hidden", bias=False), linear("attention_norm", "hidden", bias=False)
QKV, PROJ = linear("attention.qkv", "qkv hidden", bias=False), linear("attention.out", "hidden inner", bias=False)
UP = linear("feed_forward.w1", "ffn hidden", bias=False)

ORIGINAL = Spelling(
    "original",
    spelled((EMBEDDING, "tok_embeddings")),
    {
        "layers": StackNames(
            "layers.{layer}.",
            spelled((ATTENTION_NORM, "attention_norm"), (QKV, "attention.wqkv"), (PROJ, "attention.wo"), (UP, "feed_forward.w1")),
        )
    },
    spelled((NORM, "norm"), (OUTPUT, "output")),
)

FAMILY = diffusion("lumina", "Lumina-mGPT 2", forms=(ORIGINAL,), passing=(r".*",))
