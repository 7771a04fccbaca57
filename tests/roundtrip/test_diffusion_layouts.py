"""Diffusion models through any two cuts and back: the same tensors, bit for bit, wherever stages are empty."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert

LAYERS, HEADS, HEAD_DIM, WIDTH, HIDDEN, FFN = 5, 4, 3, 6, 7, 8


def stepvideo() -> dict[str, torch.Tensor]:
    """A tiny Step-Video, every axis of a length of its own."""
    inner = HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {"scale_shift_table": (2, HIDDEN), "pos_embed.proj.weight": (HIDDEN, 2, 2, 2)}
    linears = {
        "adaln_single.emb.timestep_embedder.linear_1": (HIDDEN, 9),
        "adaln_single.emb.timestep_embedder.linear_2": (HIDDEN, HIDDEN),
        "adaln_single.linear": (24, HIDDEN),
        "caption_projection.linear_1": (HIDDEN, 10),
        "caption_projection.linear_2": (HIDDEN, HIDDEN),
        "clip_projection": (11, 13),
        "proj_out": (16, HIDDEN),
    }
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes["pos_embed.proj.bias"] = (HIDDEN,)
    for layer in range(LAYERS):
        block = f"transformer_blocks.{layer}."
        shapes |= {
            block + "scale_shift_table": (6, WIDTH),
            block + "attn1.wqkv.weight": (3 * inner, WIDTH),
            block + "attn1.wo.weight": (WIDTH, inner),
            block + "attn2.wq.weight": (inner, WIDTH),
            block + "attn2.wkv.weight": (2 * inner, WIDTH),
            block + "attn2.wo.weight": (WIDTH, inner),
            block + "ff.net.0.proj.weight": (FFN, WIDTH),
            block + "ff.net.2.weight": (WIDTH, FFN),
        }
        shapes |= {f"{block}attn{at}.{each}_norm.weight": (HEAD_DIM,) for at in (1, 2) for each in "qk"}
        shapes |= {f"{block}norm{at}.{each}": (WIDTH,) for at in (1, 2) for each in ("weight", "bias")}
    generator = torch.Generator().manual_seed(11)
    return {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}


@st.composite
def stages(draw: st.DrawFn) -> list[int]:
    """Layers of one to four stages, some of them none."""
    cuts = sorted(draw(st.lists(st.integers(0, LAYERS), max_size=3)))
    return [stop - start for start, stop in zip([0, *cuts], [*cuts, LAYERS], strict=True)]


cut = st.fixed_dictionaries({"tp_size": st.sampled_from([1, 2, 4]), "pp_layers": stages()})


@given(first=cut, second=cut)
@settings(max_examples=6, deadline=None, derandomize=True)
def test_any_cut_holds_the_whole_model(first: dict[str, Any], second: dict[str, Any]) -> None:
    tensors = stepvideo()
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_file(tensors, folder / "whole.safetensors")
        places: list[dict[str, Any]] = [{"format": "diffusers", "path": str(folder / "whole.safetensors")}]
        places += [{"format": "mindspeed-mm-sora", "path": str(folder / f"cut{at}"), **each} for at, each in enumerate((first, second))]
        places.append({"format": "diffusers", "path": str(folder / "out"), "file_name": "back.safetensors"})
        for source, target in pairwise(places):
            convert({"source": source, "target": target}, engine="inline")
        rank = "mp_rank_00_000" if len(first["pp_layers"]) > 1 else "mp_rank_00"
        top = torch.load(folder / "cut0" / "release" / rank / "model_optim_rng.pt", weights_only=True)["model"]
        if first["pp_layers"][0]:
            heads = tensors["transformer_blocks.0.attn1.wqkv.weight"].reshape(HEADS, 3, HEAD_DIM, WIDTH)
            mine = heads[: HEADS // first["tp_size"]].transpose(0, 1).reshape(-1, WIDTH)
            assert torch.equal(top["transformer_blocks.0.attn1.proj_qkv.weight"], mine)
        back = load_file(folder / "out" / "back.safetensors")
        assert back.keys() == tensors.keys()
        assert all(torch.equal(back[each], tensors[each]) for each in tensors)
