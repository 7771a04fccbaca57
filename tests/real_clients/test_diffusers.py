"""diffusers as a witness: what it saves goes to rank files and back, loads with nothing missing or new, and computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from convsvc.conversion import convert

diffusers = pytest.importorskip("diffusers")

TEXT = 20
WAN = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "text_dim": TEXT,
    "freq_dim": 16, "ffn_dim": 36, "num_layers": 4, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
}  # fmt: skip
COG = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 12, "text_embed_dim": TEXT,
    "num_layers": 3, "sample_width": 8, "sample_height": 8, "sample_frames": 9, "patch_size": 2, "temporal_compression_ratio": 4,
    "max_text_seq_length": 6, "use_rotary_positional_embeddings": True,
}  # fmt: skip

HUNYUAN = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "num_single_layers": 3,
    "num_refiner_layers": 2, "mlp_ratio": 3.0, "patch_size": 2, "patch_size_t": 1, "text_embed_dim": TEXT, "pooled_projection_dim": 10,
    "rope_axes_dim": (4, 4, 4),
}  # fmt: skip

FAMILIES = {"WanTransformer3DModel": "wan", "CogVideoXTransformer3DModel": "cogvideo", "HunyuanVideoTransformer3DModel": "hunyuan-video"}
"""The family of each class that is tried."""


def wan(model: Any) -> torch.Tensor:
    video, text = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 6, TEXT)
    return model(hidden_states=video, timestep=torch.tensor([3]), encoder_hidden_states=text, return_dict=False)[0]


def cog(model: Any) -> torch.Tensor:
    rotary = torch.randn(3 * 16, 16), torch.randn(3 * 16, 16)
    asked = {"timestep": torch.tensor([3]), "image_rotary_emb": rotary, "return_dict": False}
    return model(torch.randn(1, 3, 4, 8, 8), torch.randn(1, 6, TEXT), **asked)[0]


def hunyuan(model: Any) -> torch.Tensor:
    text = {"encoder_hidden_states": torch.randn(1, 6, TEXT), "encoder_attention_mask": torch.ones(1, 6), "return_dict": False}
    asked = {"timestep": torch.tensor([3]), "pooled_projections": torch.randn(1, 10), "guidance": torch.tensor([6.0])}
    return model(torch.randn(1, 4, 2, 8, 8), **text, **asked)[0]


@pytest.mark.parametrize(
    ("name", "config", "run", "cut"),
    [
        ("WanTransformer3DModel", WAN, wan, {"pp_layers": [[1, 0], [1, 2]]}),
        ("WanTransformer3DModel", {**WAN, "image_dim": 20, "added_kv_proj_dim": 24}, None, {"pp_layers": [3, 1]}),
        ("CogVideoXTransformer3DModel", COG, cog, {"tp_size": 2, "pp_layers": [1, 2]}),
        ("HunyuanVideoTransformer3DModel", HUNYUAN, hunyuan, {"tp_size": 2}),
    ],
)
def test_a_model_of_diffusers_comes_back_the_same(name: str, config: dict[str, Any], run: Any, cut: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(5)
    kind = getattr(diffusers, name)
    model = kind(**config).eval()
    model.save_pretrained(tmp_path / "in")
    ranks = {"format": "mindspeed-mm-sora", "path": str(tmp_path / "ranks")}
    convert({"source": {"format": "diffusers", "path": str(tmp_path / "in")}, "target": {**ranks, **cut}}, engine="inline")
    back = {"format": "diffusers", "path": str(tmp_path / "out"), "form": "hf_diffusers"}
    convert({"source": {**ranks, "config_dir": str(tmp_path / "in")}, "target": back}, engine="inline")
    found, said = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(said[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(each, found.state_dict()[key]) for key, each in model.state_dict().items())
    if run is not None:
        with torch.no_grad():
            torch.manual_seed(6)
            wanted = run(model)
            torch.manual_seed(6)
            assert torch.equal(run(found.eval()), wanted)


def test_the_authors_hunyuan_video_is_diffusers_in_another_order(tmp_path: Path) -> None:
    """What diffusers' own conversion makes of the authors' names is what we read. Of the second blocks it knows one width alone."""
    torch.manual_seed(7)
    model = diffusers.HunyuanVideoTransformer3DModel(**HUNYUAN)
    model.save_pretrained(tmp_path / "in")
    target = {"format": "diffusers", "path": str(tmp_path / "out"), "form": "original", "file_name": "pytorch_model.safetensors"}
    convert(
        {"model_type": "hunyuan-video", "source": {"format": "diffusers", "path": str(tmp_path / "in")}, "target": target}, engine="inline"
    )
    from diffusers.loaders.single_file_utils import convert_hunyuan_video_transformer_to_diffusers

    written = load_file(tmp_path / "out" / "pytorch_model.safetensors")
    back = convert_hunyuan_video_transformer_to_diffusers({name: each for name, each in written.items() if "single_blocks" not in name})
    wanted = {name: each for name, each in model.state_dict().items() if "single_transformer_blocks" not in name}
    assert back.keys() == wanted.keys()
    assert all(torch.equal(back[name], each) for name, each in wanted.items())
