"""A tower for sound: two convolutions over a spectrogram, layers of plain attention, a projection (Whisper's encoder, as Qwen has it).

Keys have no bias. Facts: transformers, models/qwen2_5_omni (Qwen2_5OmniAudioEncoder). Sizes: mel, the spectrogram's bands; tap, a
convolution's width; input, its channels before; marker, the tokens around a sound; out, the decoder's width.
"""

from __future__ import annotations

from convsvc.blocks.glu import FC1, FC1_BIAS, FC2, FC2_BIAS
from convsvc.blocks.gqa import PROJ, PROJ_BIAS, QKV, QKV_BIAS
from convsvc.blocks.norms import INPUT_NORM, INPUT_NORM_BIAS, PRE_MLP_NORM, PRE_MLP_NORM_BIAS
from convsvc.blocks.vit import attention_sizes
from convsvc.models.facts import Facts
from convsvc.tensors.declare import logical, row

CONV1 = logical("conv1.weight", "hidden mel tap")
CONV1_BIAS = logical("conv1.bias", "hidden")
CONV2 = logical("conv2.weight", "hidden input tap")
CONV2_BIAS = logical("conv2.bias", "hidden")
MARKERS = logical("audio_bos_eos_token.weight", "marker out")
LAST_NORM = logical("ln_post.weight", "hidden")
LAST_NORM_BIAS = logical("ln_post.bias", "hidden")
OUT = logical("proj.weight", "out hidden")
OUT_BIAS = logical("proj.bias", "out")

CONVOLUTIONS = (
    row("conv1.weight", CONV1, "hidden mel tap"),
    row("conv1.bias", CONV1_BIAS, "hidden"),
    row("conv2.weight", CONV2, "hidden input tap"),
    row("conv2.bias", CONV2_BIAS, "hidden"),
)
MARKER_ROWS = (row("audio_bos_eos_token.weight", MARKERS, "marker out"),)
LAYER = (
    row("self_attn_layer_norm.weight", INPUT_NORM, "hidden"),
    row("self_attn_layer_norm.bias", INPUT_NORM_BIAS, "hidden"),
    row("self_attn.q_proj.weight", QKV.at(slot="0:query"), "(group slot head_dim) hidden"),
    row("self_attn.k_proj.weight", QKV.at(slot="query"), "(group head_dim) hidden"),
    row("self_attn.v_proj.weight", QKV.at(slot="query + 1"), "(group head_dim) hidden"),
    row("self_attn.q_proj.bias", QKV_BIAS.at(slot="0:query"), "(group slot head_dim)"),
    row("self_attn.v_proj.bias", QKV_BIAS.at(slot="query + 1"), "(group head_dim)"),
    row("self_attn.out_proj.weight", PROJ, "hidden (group query head_dim)"),
    row("self_attn.out_proj.bias", PROJ_BIAS, "hidden"),
    row("final_layer_norm.weight", PRE_MLP_NORM, "hidden"),
    row("final_layer_norm.bias", PRE_MLP_NORM_BIAS, "hidden"),
    row("fc1.weight", FC1.at(glu="0"), "ffn hidden"),
    row("fc1.bias", FC1_BIAS.at(glu="0"), "ffn"),
    row("fc2.weight", FC2, "hidden ffn"),
    row("fc2.bias", FC2_BIAS, "hidden"),
)
ENDS = (
    row("ln_post.weight", LAST_NORM, "hidden"),
    row("ln_post.bias", LAST_NORM_BIAS, "hidden"),
    row("proj.weight", OUT, "out hidden"),
    row("proj.bias", OUT_BIAS, "out"),
)


def audio_sizes(own: Facts, whole: Facts) -> dict[str, int]:
    """All of the tower's."""
    hidden = own.number("d_model")
    return {
        "hidden": hidden, "input": hidden, "glu": 1, "ffn": own.number("encoder_ffn_dim"), "mel": own.number("num_mel_bins", default=128),
        "tap": 3, "marker": 2, "out": own.number("output_dim", default=whole.number("hidden")),
    } | attention_sizes(own, hidden, "encoder_attention_heads")  # fmt: skip
