"""BAGEL: a decoder with a second set of weights for tokens that it generates (`_moe_gen`), and a tower for images.

Between it and a latent space of images lie two matrices, a time embedding and positions.
"""

from __future__ import annotations

from convsvc.blocks.dit import Rows, linear, spelled
from convsvc.models.diffusion import Spelling, StackNames, diffusion
from convsvc.tensors.declare import logical

CONNECTOR_1, CONNECTOR_2 = linear("connector.fc1", "hidden image"), linear("connector.fc2", "hidden hidden_in")
EMBEDDING, HEAD = linear("embed_tokens", "vocab hidden", bias=False), linear("lm_head", "vocab hidden", bias=False)
NORM, NORM_GEN = linear("norm", "hidden", bias=False), linear("norm_moe_gen", "hidden", bias=False)
LATENT_POSITIONS, IMAGE_POSITIONS = logical("latent_pos_embed", "latent hidden"), logical("vit_pos_embed", "patches hidden")
FROM_LATENT, TO_LATENT = linear("vae2llm", "hidden latent_channel"), linear("llm2vae", "latent_channel hidden")
TIME_1, TIME_2 = linear("time_embedder.fc1", "hidden time"), linear("time_embedder.fc2", "hidden hidden_in")
PATCH, PATCH_POSITIONS = linear("vit.patch", "image pixel"), linear("vit.positions", "patch_position image", bias=False)
IMAGE_NORM = linear("vit.norm", "image")

SETS = ("", "_moe_gen")
INPUT_NORM = {each: linear(f"input_layernorm{each}", "hidden", bias=False) for each in SETS}
POST_NORM = {each: linear(f"post_attention_layernorm{each}", "hidden", bias=False) for each in SETS}
GATE, UP = ({each: linear(f"mlp{each}.{what}", "ffn hidden", bias=False) for each in SETS} for what in ("gate", "up"))
DOWN = {each: linear(f"mlp{each}.down", "hidden ffn", bias=False) for each in SETS}
Q = {each: linear(f"self_attn.q{each}", "inner hidden") for each in SETS}
K, V = ({each: linear(f"self_attn.{what}{each}", "key_value hidden") for each in SETS} for what in "kv")
OUT = {each: linear(f"self_attn.o{each}", "hidden inner", bias=False) for each in SETS}
Q_NORM, K_NORM = ({each: linear(f"self_attn.{what}_norm{each}", "head_dim", bias=False) for each in SETS} for what in "qk")

VIT_NORM_1, VIT_NORM_2 = linear("norm1", "image"), linear("norm2", "image")
VIT_1, VIT_2 = linear("mlp.fc1", "image_ffn image"), linear("mlp.fc2", "image image_ffn")
VIT_Q, VIT_K, VIT_V = (linear(f"attn.{each}", "image_inner image") for each in "qkv")
VIT_OUT = linear("attn.out", "image image_inner")

# Training calls a layer's tensors as they are published.
LAYER: Rows = tuple(
    row
    for each in SETS
    for row in spelled(
        (INPUT_NORM[each], f"input_layernorm{each}"),
        (POST_NORM[each], f"post_attention_layernorm{each}"),
        (GATE[each], f"mlp{each}.gate_proj"),
        (UP[each], f"mlp{each}.up_proj"),
        (DOWN[each], f"mlp{each}.down_proj"),
        (Q[each], f"self_attn.q_proj{each}"),
        (K[each], f"self_attn.k_proj{each}"),
        (V[each], f"self_attn.v_proj{each}"),
        (OUT[each], f"self_attn.o_proj{each}"),
        (Q_NORM[each], f"self_attn.q_norm{each}"),
        (K_NORM[each], f"self_attn.k_norm{each}"),
    )
)

ORIGINAL = Spelling(
    "original",
    spelled(
        (CONNECTOR_1, "connector.fc1"),
        (CONNECTOR_2, "connector.fc2"),
        (EMBEDDING, "language_model.model.embed_tokens"),
        (LATENT_POSITIONS, "latent_pos_embed.pos_embed"),
        (IMAGE_POSITIONS, "vit_pos_embed.pos_embed"),
        (FROM_LATENT, "vae2llm"),
        (TO_LATENT, "llm2vae"),
        (TIME_1, "time_embedder.mlp.0"),
        (TIME_2, "time_embedder.mlp.2"),
        (PATCH, "vit_model.vision_model.embeddings.patch_embedding"),
        (PATCH_POSITIONS, "vit_model.vision_model.embeddings.position_embedding"),
        (IMAGE_NORM, "vit_model.vision_model.post_layernorm"),
    ),
    {
        "layers": StackNames("language_model.model.layers.{layer}.", LAYER),
        "vit_layers": StackNames(
            "vit_model.vision_model.encoder.layers.{layer}.",
            spelled(
                (VIT_NORM_1, "layer_norm1"),
                (VIT_NORM_2, "layer_norm2"),
                (VIT_1, "mlp.fc1"),
                (VIT_2, "mlp.fc2"),
                (VIT_Q, "self_attn.q_proj"),
                (VIT_K, "self_attn.k_proj"),
                (VIT_V, "self_attn.v_proj"),
                (VIT_OUT, "self_attn.out_proj"),
            ),
        ),
    },
    spelled((NORM, "language_model.model.norm"), (NORM_GEN, "language_model.model.norm_moe_gen"), (HEAD, "language_model.lm_head")),
    file="ema",
)

FAMILY = diffusion("bagel", "BAGEL", forms=(ORIGINAL,), class_names=("Bagel",))
