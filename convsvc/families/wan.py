"""Wan 2.1 and 2.2 (text and image to video): one stack of blocks, each with self attention, attention to the text (and an image), and a
feed-forward block, all shifted and scaled by the time.

Published as a component of a diffusers pipeline, and by its authors under names of their own. An image embedder and the keys and values for
it are there in the image-to-video models of 2.1; a position embedding for its tokens in those of first and last frame.
"""

from __future__ import annotations

from collections.abc import Mapping

from convsvc.blocks.dit import Rows, linear, spelled
from convsvc.models.diffusion import Spelling, StackNames, diffusion
from convsvc.tensors.declare import logical

PATCH = linear("patch_embedding", "hidden channel frame patch_row patch_column")
TEXT_1, TEXT_2 = linear("text_embedding.0", "hidden text"), linear("text_embedding.2", "hidden text_hidden")
TIME_1, TIME_2 = linear("time_embedding.0", "hidden time"), linear("time_embedding.2", "hidden time_hidden")
TIME_PROJECTION = linear("time_projection", "modulation hidden")
HEAD, HEAD_MODULATION = linear("head", "out hidden"), logical("head.modulation", "one shift_scale hidden")
IMAGE_NORM_1, IMAGE_NORM_2 = linear("image_embedding.norm1", "image"), linear("image_embedding.norm2", "hidden")
IMAGE_1, IMAGE_2 = linear("image_embedding.fc1", "image_hidden image"), linear("image_embedding.fc2", "hidden image_hidden")
IMAGE_POSITIONS = logical("image_embedding.positions", "one image_tokens image")

MODULATION = logical("modulation", "one six hidden")
SELF_Q, SELF_K, SELF_V = (linear(f"self_attn.{each}", "inner hidden") for each in "qkv")
CROSS_Q, CROSS_K, CROSS_V = (linear(f"cross_attn.{each}", "inner hidden") for each in "qkv")
SELF_OUT, CROSS_OUT = linear("self_attn.out", "hidden inner"), linear("cross_attn.out", "hidden inner")
SELF_Q_NORM, SELF_K_NORM = (linear(f"self_attn.{each}_norm", "inner", bias=False) for each in "qk")
CROSS_Q_NORM, CROSS_K_NORM = (linear(f"cross_attn.{each}_norm", "inner", bias=False) for each in "qk")
CROSS_NORM = linear("cross_attn.norm", "hidden")
FFN_1, FFN_2 = linear("ffn.fc1", "ffn hidden"), linear("ffn.fc2", "hidden ffn")
IMAGE_K, IMAGE_V = (linear(f"cross_attn.{each}_image", "inner hidden") for each in "kv")
IMAGE_K_NORM = linear("cross_attn.k_norm_image", "inner", bias=False)

IMAGE, POSITIONS = "image", "image_positions"

DIFFUSERS_BLOCK = spelled(
    (MODULATION, "scale_shift_table"),
    (SELF_Q, "attn1.to_q"),
    (SELF_K, "attn1.to_k"),
    (SELF_V, "attn1.to_v"),
    (SELF_OUT, "attn1.to_out.0"),
    (SELF_Q_NORM, "attn1.norm_q"),
    (SELF_K_NORM, "attn1.norm_k"),
    (CROSS_NORM, "norm2"),
    (CROSS_Q, "attn2.to_q"),
    (CROSS_K, "attn2.to_k"),
    (CROSS_V, "attn2.to_v"),
    (CROSS_OUT, "attn2.to_out.0"),
    (CROSS_Q_NORM, "attn2.norm_q"),
    (CROSS_K_NORM, "attn2.norm_k"),
    (FFN_1, "ffn.net.0.proj"),
    (FFN_2, "ffn.net.2"),
)
DIFFUSERS_IMAGE_BLOCK = spelled((IMAGE_K, "attn2.add_k_proj"), (IMAGE_V, "attn2.add_v_proj"), (IMAGE_K_NORM, "attn2.norm_added_k"))
DIFFUSERS_BEFORE = spelled(
    (PATCH, "patch_embedding"),
    (TEXT_1, "condition_embedder.text_embedder.linear_1"),
    (TEXT_2, "condition_embedder.text_embedder.linear_2"),
    (TIME_1, "condition_embedder.time_embedder.linear_1"),
    (TIME_2, "condition_embedder.time_embedder.linear_2"),
    (TIME_PROJECTION, "condition_embedder.time_proj"),
)
DIFFUSERS_IMAGE = spelled(
    (IMAGE_NORM_1, "condition_embedder.image_embedder.norm1"),
    (IMAGE_1, "condition_embedder.image_embedder.ff.net.0.proj"),
    (IMAGE_2, "condition_embedder.image_embedder.ff.net.2"),
    (IMAGE_NORM_2, "condition_embedder.image_embedder.norm2"),
)
DIFFUSERS_POSITIONS = spelled((IMAGE_POSITIONS, "condition_embedder.image_embedder.pos_embed"))
DIFFUSERS_AFTER = spelled((HEAD_MODULATION, "scale_shift_table"), (HEAD, "proj_out"))

ORIGINAL_BLOCK = spelled(
    (MODULATION, "modulation"),
    (SELF_Q, "self_attn.q"),
    (SELF_K, "self_attn.k"),
    (SELF_V, "self_attn.v"),
    (SELF_OUT, "self_attn.o"),
    (SELF_Q_NORM, "self_attn.norm_q"),
    (SELF_K_NORM, "self_attn.norm_k"),
    (CROSS_NORM, "norm3"),
    (CROSS_Q, "cross_attn.q"),
    (CROSS_K, "cross_attn.k"),
    (CROSS_V, "cross_attn.v"),
    (CROSS_OUT, "cross_attn.o"),
    (CROSS_Q_NORM, "cross_attn.norm_q"),
    (CROSS_K_NORM, "cross_attn.norm_k"),
    (FFN_1, "ffn.0"),
    (FFN_2, "ffn.2"),
)
ORIGINAL_IMAGE_BLOCK = spelled((IMAGE_K, "cross_attn.k_img"), (IMAGE_V, "cross_attn.v_img"), (IMAGE_K_NORM, "cross_attn.norm_k_img"))
ORIGINAL_BEFORE = spelled(
    (PATCH, "patch_embedding"),
    (TEXT_1, "text_embedding.0"),
    (TEXT_2, "text_embedding.2"),
    (TIME_1, "time_embedding.0"),
    (TIME_2, "time_embedding.2"),
    (TIME_PROJECTION, "time_projection.1"),
)
ORIGINAL_IMAGE = spelled(
    (IMAGE_NORM_1, "img_emb.proj.0"), (IMAGE_1, "img_emb.proj.1"), (IMAGE_2, "img_emb.proj.3"), (IMAGE_NORM_2, "img_emb.proj.4")
)
ORIGINAL_POSITIONS = spelled((IMAGE_POSITIONS, "img_emb.emb_pos"))
ORIGINAL_AFTER = spelled((HEAD_MODULATION, "head.modulation"), (HEAD, "head.head"))


def groups(image: Rows, positions: Rows, block: Rows) -> Mapping[str, Mapping[str, Rows]]:
    """What the image-to-video models have beside."""
    return {IMAGE: {"before": image, "blocks": block}, POSITIONS: {"before": positions}}


DIFFUSERS = Spelling(
    "hf_diffusers",
    DIFFUSERS_BEFORE,
    {"blocks": StackNames("blocks.{layer}.", DIFFUSERS_BLOCK)},
    DIFFUSERS_AFTER,
    groups(DIFFUSERS_IMAGE, DIFFUSERS_POSITIONS, DIFFUSERS_IMAGE_BLOCK),
)
ORIGINAL = Spelling(
    "original",
    ORIGINAL_BEFORE,
    {"blocks": StackNames("blocks.{layer}.", ORIGINAL_BLOCK)},
    ORIGINAL_AFTER,
    groups(ORIGINAL_IMAGE, ORIGINAL_POSITIONS, ORIGINAL_IMAGE_BLOCK),
)

FAMILY = diffusion(
    "wan",
    "Wan",
    forms=(DIFFUSERS, ORIGINAL),
    class_names=("WanTransformer3DModel", "WanModel"),
    counts={"blocks": "num_layers"},
)
