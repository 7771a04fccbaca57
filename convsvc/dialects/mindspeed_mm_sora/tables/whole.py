"""Models that MindSpeed-MM trains from one rank file: Lumina-mGPT 2, BAGEL, Open-Sora 2. Facts: what their converters write."""

from __future__ import annotations

from dataclasses import replace

from convsvc.blocks.dit import spelled
from convsvc.dialects.mindspeed_mm_sora.form import Form
from convsvc.families import bagel, lumina, opensora
from convsvc.models.diffusion import Spelling, StackNames

LUMINA = replace(lumina.ORIGINAL, name="mindspeed-mm")
BAGEL = Spelling(
    "mindspeed-mm",
    spelled(
        (bagel.CONNECTOR_1, "image_encoder.projector.linear_fc1"),
        (bagel.CONNECTOR_2, "image_encoder.projector.linear_fc2"),
        (bagel.EMBEDDING, "mllm.decoder.embed_tokens"),
        (bagel.LATENT_POSITIONS, "latent_pos_embed.pos_embed"),
        (bagel.IMAGE_POSITIONS, "mllm.vit_pos_embed.pos_embed"),
        (bagel.FROM_LATENT, "mllm.vae2llm"),
        (bagel.TO_LATENT, "mllm.llm2vae"),
        (bagel.TIME_1, "mllm.time_embedder.time_embed.0"),
        (bagel.TIME_2, "mllm.time_embedder.time_embed.2"),
        (bagel.PATCH, "image_encoder.encoder.patch_embed.patch_embedding"),
        (bagel.PATCH_POSITIONS, "image_encoder.encoder.patch_embed.position_embedding"),
        (bagel.IMAGE_NORM, "image_encoder.encoder.norm"),
    ),
    {
        "layers": StackNames("mllm.decoder.layers.{layer}.", bagel.LAYER),
        "vit_layers": StackNames(
            "image_encoder.encoder.blocks.{layer}.",
            spelled(
                (bagel.VIT_NORM_1, "norm1"),
                (bagel.VIT_NORM_2, "norm2"),
                (bagel.VIT_1, "mlp.fc1"),
                (bagel.VIT_2, "mlp.fc2"),
                (bagel.VIT_Q, "attn.q_proj"),
                (bagel.VIT_K, "attn.k_proj"),
                (bagel.VIT_V, "attn.v_proj"),
                (bagel.VIT_OUT, "attn.out_proj"),
            ),
        ),
    },
    spelled((bagel.NORM, "mllm.decoder.norm"), (bagel.NORM_GEN, "mllm.decoder.norm_moe_gen"), (bagel.HEAD, "mllm.lm_head")),
)
OPENSORA = Spelling(
    "mindspeed-mm",
    spelled(
        (opensora.TIME_1, "time_in.mlp.0"),
        (opensora.TIME_2, "time_in.mlp.2"),
        (opensora.VECTOR_1, "vector_in.fc1"),
        (opensora.VECTOR_2, "vector_in.fc2"),
    ),
    {
        "double_blocks": StackNames(
            "double_blocks.{layer}.",
            tuple(
                row
                for each in opensora.STREAMS
                for row in spelled(
                    (opensora.MODULATION[each], f"{each}_mod.linear"),
                    *((opensora.QKV[each][what], f"{each}_attn.proj_{what}") for what in "qkv"),
                    (opensora.PROJ[each], f"{each}_attn.proj_out"),
                    (opensora.Q_NORM[each], f"{each}_attn.q_norm.weight"),
                    (opensora.K_NORM[each], f"{each}_attn.k_norm.weight"),
                    (opensora.FC1[each], f"{each}_mlp.fc1"),
                    (opensora.FC2[each], f"{each}_mlp.fc2"),
                )
            ),
        ),
        "single_blocks": StackNames(
            "single_blocks.{layer}.",
            spelled(
                (opensora.ONE_Q_NORM, "q_norm.weight"),
                (opensora.ONE_K_NORM, "k_norm.weight"),
                (opensora.ONE_MODULATION, "modulation.linear"),
                (opensora.ONE_OUT, "linear2"),
            ),
        ),
    },
    (),
)
FORMS = {"lumina": Form(LUMINA), "bagel": Form(BAGEL), "opensora": Form(OPENSORA)}
