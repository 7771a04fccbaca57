"""HunyuanVideo: blocks with streams of their own for video and text, then blocks in which both are one.

As its authors publish it, in the second kind queries, keys, values and the feed-forward block's first matrix are one tensor (linear1), and
so are the attention's and the feed-forward block's outputs (linear2); diffusers has them apart, and scale before shift at the very end
(diffusers 0.42, loaders/single_file_utils.py). A further stack refines the text (txt_in).
"""

from __future__ import annotations

from collections.abc import Mapping

from convsvc.blocks.dit import Rows, chunks, joined, linear, spelled
from convsvc.models.diffusion import Spelling, StackNames, diffusion
from convsvc.tensors.declare import logical

PATCH_CONV = linear("img_in.conv", "hidden channel frame patch_row patch_column", bias=False)
PATCH_MATRIX = linear("img_in.matrix", "hidden patch", bias=False)
PATCH_BIAS = logical("img_in.bias", "hidden")
TIME_1, TIME_2 = linear("time_in.fc1", "hidden time"), linear("time_in.fc2", "hidden hidden_in")
TEXT_TIME_1, TEXT_TIME_2 = linear("txt_in.time.fc1", "hidden time"), linear("txt_in.time.fc2", "hidden hidden_in")
GUIDANCE_1, GUIDANCE_2 = linear("guidance_in.fc1", "hidden time"), linear("guidance_in.fc2", "hidden hidden_in")
VECTOR_1, VECTOR_2 = linear("vector_in.fc1", "vector vector_in"), linear("vector_in.fc2", "hidden vector")
OUT, OUT_MODULATION = linear("out", "out hidden"), linear("out.modulation", "out_modulation hidden")

STREAMS = ("img", "txt")
MODULATION = {each: linear(f"{each}.modulation", f"{each}_modulation hidden") for each in STREAMS}
QKV = {each: tuple(linear(f"{each}.{what}", "inner hidden") for what in "qkv") for each in STREAMS}
PROJ = {each: linear(f"{each}.proj", "hidden inner") for each in STREAMS}
FC1 = {each: linear(f"{each}.fc1", "ffn hidden") for each in STREAMS}
FC2 = {each: linear(f"{each}.fc2", "hidden ffn") for each in STREAMS}
Q_NORM = {each: linear(f"{each}.q_norm", "head_dim", bias=False) for each in STREAMS}
K_NORM = {each: linear(f"{each}.k_norm", "head_dim", bias=False) for each in STREAMS}

ONE_QKV = tuple(linear(f"attn.{what}", "one_inner one_hidden") for what in "qkv")
ONE_FC1 = linear("fc1", "one_ffn one_hidden")
ONE_OUT = linear("out", "one_hidden one_input")
ONE_MODULATION = linear("modulation", "one_modulation hidden")
ONE_Q_NORM, ONE_K_NORM = linear("q_norm", "head_dim", bias=False), linear("k_norm", "head_dim", bias=False)

TEXT_1, TEXT_2 = linear("txt_in.text.fc1", "hidden text"), linear("txt_in.text.fc2", "hidden hidden_in")
TEXT_IN = linear("txt_in.in", "hidden text")
REFINED_QKV = tuple(linear(f"refined.{what}", "hidden hidden_in") for what in "qkv")
REFINED_NORMS = linear("refined.norm1", "hidden"), linear("refined.norm2", "hidden")
REFINED_OUT = linear("refined.out", "hidden hidden_in")
REFINED_1, REFINED_2 = linear("refined.fc1", "refined_ffn hidden"), linear("refined.fc2", "hidden refined_ffn")
REFINED_MODULATION = linear("refined.modulation", "gates hidden")

REFINER, REFINED = "refiner", "refiner_blocks"
CONV, MATRIX, GUIDANCE, QK_NORM = "patch_conv", "patch_matrix", "guidance", "qk_norm"
NORMS: Mapping[str, Rows] = {
    "double_blocks": spelled(
        *((Q_NORM[each], f"{each}_attn_q_norm") for each in STREAMS), *((K_NORM[each], f"{each}_attn_k_norm") for each in STREAMS)
    ),
    "single_blocks": spelled((ONE_Q_NORM, "q_norm"), (ONE_K_NORM, "k_norm")),
}
PATCHES: Mapping[str, Mapping[str, Rows]] = {
    CONV: {"before": spelled((PATCH_CONV, "img_in.proj"))},
    MATRIX: {"before": spelled((PATCH_MATRIX, "img_in.proj"))},
    QK_NORM: NORMS,
}
# What refines the text: the names are its authors', in training too.
REFINES: Mapping[str, Rows] = {
    "before": spelled((TEXT_1, "txt_in.c_embedder.linear_1"), (TEXT_2, "txt_in.c_embedder.linear_2"), (TEXT_IN, "txt_in.input_embedder")),
    REFINED: (
        *spelled((REFINED_NORMS[0], "norm1"), (REFINED_NORMS[1], "norm2")),
        *joined("self_attn_qkv", *REFINED_QKV),
        *spelled(
            (REFINED_OUT, "self_attn_proj"),
            (REFINED_1, "mlp.fc1"),
            (REFINED_2, "mlp.fc2"),
            (REFINED_MODULATION, "adaLN_modulation.1"),
        ),
    ),
}
REFINER_STACK = StackNames("txt_in.individual_token_refiner.blocks.{layer}.", ())

ORIGINAL = Spelling(
    "original",
    spelled(
        (PATCH_BIAS, "img_in.proj.bias"),
        (TEXT_TIME_1, "txt_in.t_embedder.mlp.0"),
        (TEXT_TIME_2, "txt_in.t_embedder.mlp.2"),
        (TIME_1, "time_in.mlp.0"),
        (TIME_2, "time_in.mlp.2"),
        (VECTOR_1, "vector_in.in_layer"),
        (VECTOR_2, "vector_in.out_layer"),
    ),
    {
        "double_blocks": StackNames(
            "double_blocks.{layer}.",
            tuple(
                row
                for each in STREAMS
                for row in (
                    *spelled((MODULATION[each], f"{each}_mod.linear")),
                    *joined(f"{each}_attn_qkv", *QKV[each]),
                    *spelled((PROJ[each], f"{each}_attn_proj"), (FC1[each], f"{each}_mlp.fc1"), (FC2[each], f"{each}_mlp.fc2")),
                )
            ),
        ),
        "single_blocks": StackNames(
            "single_blocks.{layer}.",
            joined("linear1", *ONE_QKV, ONE_FC1) + spelled((ONE_OUT, "linear2"), (ONE_MODULATION, "modulation.linear")),
        ),
        REFINED: REFINER_STACK,
    },
    spelled((OUT, "final_layer.linear"), (OUT_MODULATION, "final_layer.adaLN_modulation.1")),
    {**PATCHES, GUIDANCE: {"before": spelled((GUIDANCE_1, "guidance_in.mlp.0"), (GUIDANCE_2, "guidance_in.mlp.2"))}, REFINER: REFINES},
)

PARTS = {"img": ("attn.to_{}", "norm1", "to_out.0", "ff"), "txt": ("attn.add_{}_proj", "norm1_context", "to_add_out", "ff_context")}


def _stream(name: str) -> Rows:
    """A stream's rows of a block of the first kind, as diffusers has them."""
    qkv, norm, out, ff = PARTS[name]
    return spelled(
        (MODULATION[name], f"{norm}.linear"),
        *((what, qkv.format(letter)) for what, letter in zip(QKV[name], "qkv", strict=True)),
        (PROJ[name], f"attn.{out}"),
        (FC1[name], f"{ff}.net.0.proj"),
        (FC2[name], f"{ff}.net.2"),
    )


DIFFUSERS = Spelling(
    "hf_diffusers",
    spelled(
        (PATCH_BIAS, "x_embedder.proj.bias"),
        (TEXT_TIME_1, "context_embedder.time_text_embed.timestep_embedder.linear_1"),
        (TEXT_TIME_2, "context_embedder.time_text_embed.timestep_embedder.linear_2"),
        (TIME_1, "time_text_embed.timestep_embedder.linear_1"),
        (TIME_2, "time_text_embed.timestep_embedder.linear_2"),
        (VECTOR_1, "time_text_embed.text_embedder.linear_1"),
        (VECTOR_2, "time_text_embed.text_embedder.linear_2"),
    ),
    {
        "double_blocks": StackNames("transformer_blocks.{layer}.", _stream("img") + _stream("txt")),
        "single_blocks": StackNames(
            "single_transformer_blocks.{layer}.",
            spelled(
                *((what, f"attn.to_{letter}") for what, letter in zip(ONE_QKV, "qkv", strict=True)),
                (ONE_FC1, "proj_mlp"),
                (ONE_OUT, "proj_out"),
                (ONE_MODULATION, "norm.linear"),
            ),
        ),
        REFINED: StackNames("context_embedder.token_refiner.refiner_blocks.{layer}.", ()),
    },
    (*spelled((OUT, "proj_out")), *chunks("norm_out.linear", OUT_MODULATION, "out_modulation", "hidden", (1, 0), 1)),
    {
        CONV: {"before": spelled((PATCH_CONV, "x_embedder.proj"))},
        MATRIX: {"before": spelled((PATCH_MATRIX, "x_embedder.proj"))},
        QK_NORM: {
            "double_blocks": spelled(
                (Q_NORM["img"], "attn.norm_q"),
                (K_NORM["img"], "attn.norm_k"),
                (Q_NORM["txt"], "attn.norm_added_q"),
                (K_NORM["txt"], "attn.norm_added_k"),
            ),
            "single_blocks": spelled((ONE_Q_NORM, "attn.norm_q"), (ONE_K_NORM, "attn.norm_k")),
        },
        GUIDANCE: {
            "before": spelled(
                (GUIDANCE_1, "time_text_embed.guidance_embedder.linear_1"), (GUIDANCE_2, "time_text_embed.guidance_embedder.linear_2")
            )
        },
        REFINER: {
            "before": spelled(
                (TEXT_1, "context_embedder.time_text_embed.text_embedder.linear_1"),
                (TEXT_2, "context_embedder.time_text_embed.text_embedder.linear_2"),
                (TEXT_IN, "context_embedder.proj_in"),
            ),
            REFINED: spelled(
                (REFINED_NORMS[0], "norm1"),
                (REFINED_NORMS[1], "norm2"),
                *((what, f"attn.to_{letter}") for what, letter in zip(REFINED_QKV, "qkv", strict=True)),
                (REFINED_OUT, "attn.to_out.0"),
                (REFINED_1, "ff.net.0.proj"),
                (REFINED_2, "ff.net.2"),
                (REFINED_MODULATION, "norm_out.linear"),
            ),
        },
    },
)

FAMILY = diffusion(
    "hunyuan-video",
    "HunyuanVideo",
    forms=(ORIGINAL, DIFFUSERS),
    class_names=("HunyuanVideoTransformer3DModel",),
    derived={"out_modulation": "2 * hidden"},
    sums={"one_input": ("one_inner", "one_ffn")},
    one_of=((CONV, MATRIX),),
    passing=(r"txt_in\.(?!t_embedder\.).*",),
)
