"""compressed-tensors and transformers dequantise what is written to the same bits, and what they write is read so.

gptqmodel and autoawq are no clients here: neither is written, and both need a GPU's kernels to be built.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from tests.encodings.weights import Stored, decoded
from tests.real_clients.tiny_models import MODELS, SIZES, Tiny, foreign, load, logits, save_random, transformers

pytestmark = pytest.mark.real_client

Tensors = dict[str, torch.Tensor]
BF16 = torch.bfloat16
# With whole blocks of 128 where transformers wants them, and groups of 32 everywhere.
WIDE = {
    **SIZES, "hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_attention_heads": 8, "num_key_value_heads": 4,
    "num_hidden_layers": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
MLA = {
    **next(dict(tiny.extra) for tiny in MODELS if tiny.family == "deepseek3"), "moe_intermediate_size": 128, "q_lora_rank": 128,
    "kv_lora_rank": 96, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32, "head_dim": 32, "num_key_value_heads": 8,
}  # fmt: skip
CASES = {
    "dense": Tiny("qwen3", "Qwen3Config", WIDE, {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}),
    "experts": Tiny(
        "qwen3-moe", "Qwen3MoeConfig", {**WIDE, **EXPERTS},
        {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "expert_parallel_size": 2, "moe_grouped_gemm": True},
    ),
    "latent attention": Tiny(
        "deepseek3", "DeepseekV3Config", {**WIDE, **MLA}, {"tensor_parallel_size": 2, "expert_parallel_size": 4, "moe_grouped_gemm": True}
    ),
}  # fmt: skip


def compressors() -> Any:
    return foreign(pytest.importorskip, "compressed_tensors.compressors", reason="compressed-tensors is not installed")


def tensors_of(directory: Path) -> Tensors:
    return {name: each for file in sorted(directory.glob("*.safetensors")) for name, each in load_file(file).items()}


def config_of(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "config.json").read_text()))


def trained(case: str, root: Path) -> tuple[Path, dict[str, Any]]:
    """A model in bf16 that transformers has saved, and its rank files."""
    tiny, hf = CASES[case], root / "bf16"
    save_random(tiny, hf, dtype=BF16, tied=False)
    ranks = {"format": "mindspeed-llm", "path": str(root / "ranks"), **tiny.layout}
    convert({"source": {"format": "huggingface", "path": str(hf)}, "target": ranks}, engine="inline")
    return hf, {"format": "mindspeed-llm", "path": str(root / "ranks")}


def exported(case: str, quantization: str, root: Path) -> tuple[Path, Path]:
    """The rank files as a quantised directory in one job; and that dequantised again by a job."""
    hf, ranks = trained(case, root)
    there, plain = root / quantization, root / "plain"
    target = {"format": "huggingface", "path": str(there), "config_dir": str(hf), "quantization": quantization, "experts": "per-expert"}
    convert(
        {"source": ranks, "target": target if case != "dense" else {k: v for k, v in target.items() if k != "experts"}}, engine="inline"
    )
    read = {"source": {"format": "huggingface", "path": str(there)}, "target": {"format": "huggingface", "path": str(plain)}}
    convert(read, engine="inline")
    return there, plain


@pytest.mark.parametrize("quantization", ["fp8-block", "mxfp4", "int4"])
@pytest.mark.parametrize("case", CASES)
def test_transformers_dequantises_what_is_written_to_the_same_bits(case: str, quantization: str, tmp_path: Path) -> None:
    if quantization != "fp8-block":
        compressors()
    there, plain = exported(case, quantization, tmp_path)
    library = transformers()
    config = library.FineGrainedFP8Config if quantization == "fp8-block" else library.CompressedTensorsConfig
    how = {"dtype": BF16, "quantization_config": config(dequantize=True), "output_loading_info": True}
    model, info = foreign(library.AutoModelForCausalLM.from_pretrained, there, **how)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    want, _ = load(plain)
    have = dict(model.named_parameters())
    for name, parameter in want.named_parameters():
        assert torch.equal(have[name].view(torch.int16), parameter.view(torch.int16)), name
    assert torch.equal(logits(model.eval()), logits(want))


def scheme_of(words: dict[str, Any]) -> Any:
    """The only group of a quantization_config, checked by compressed-tensors' own model of it: it forbids fields that it does not know."""
    from compressed_tensors.quantization import QuantizationConfig

    said = foreign(QuantizationConfig.model_validate, words)
    (scheme,) = said.config_groups.values()
    return said, scheme


@pytest.mark.parametrize("quantization", ["mxfp4", "int4"])
@pytest.mark.parametrize("case", CASES)
def test_compressed_tensors_finds_the_modules_that_are_quantised_and_decompresses_them_to_the_same_bits(
    case: str, quantization: str, tmp_path: Path
) -> None:
    library = compressors()
    from compressed_tensors.utils import match_named_modules

    there, plain = exported(case, quantization, tmp_path)
    config, scheme = scheme_of(config_of(there)["quantization_config"])
    stored, want = tensors_of(there), tensors_of(plain)
    compressor = library.BaseCompressor.get_value_from_registry(scheme.format or config.format)
    quantised = {name.removesuffix("_packed") for name in stored if name.endswith("_packed")}
    assert quantised
    for weight in quantised:
        module = weight.removesuffix(".weight")
        leaves = {name.removeprefix(module + "."): each for name, each in stored.items() if name.rpartition(".")[0] == module}
        made = foreign(compressor.decompress, leaves, scheme)["weight"].to(BF16)
        assert torch.equal(made.view(torch.int16), want[weight].view(torch.int16)), weight
    if case == "dense":  # transformers 5 has experts as no modules
        model = transformers().AutoModelForCausalLM.from_config(transformers().AutoConfig.from_pretrained(plain))
        matched = {f"{name}.weight" for name, _ in match_named_modules(model, scheme.targets, config.ignore)}
        assert matched == quantised


def test_what_is_written_as_modelopt_does_is_its_numbers_of_compressed_tensors_codes(tmp_path: Path) -> None:
    """transformers and compressed-tensors load no NVFP4 under ModelOpt's names; codes and the product are compared (see PROVENANCE.md of
    tests/golden/quantised for ModelOpt's own)."""
    compressors()
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

    there, plain = exported("experts", "nvfp4", tmp_path)
    stored, want = tensors_of(there), tensors_of(plain)
    quantised = [name.removesuffix("_scale_2") for name in stored if name.endswith("_scale_2")]
    assert len(quantised) == 2 * 4 * 3
    for name in quantised:
        codes = unpack_fp4_from_uint8(stored[name], want[name].shape[0], want[name].shape[1]).float()
        scales = (stored[name + "_scale"].float() * stored[name + "_scale_2"]).repeat_interleave(16, 1)
        assert torch.equal((codes * scales).bfloat16() + 0.0, want[name] + 0.0), name


# Of compressed-tensors: the format, what is said of weights, whether there are zero points, and a global scale.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "int4 in groups": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}),
    "int4 in groups with zero points": (
        "pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False},
    ),
    "int4 in rows": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "channel"}),
    "int8 in groups": ("pack-quantized", {"num_bits": 8, "type": "int", "strategy": "group", "group_size": 64}),
    "float8 in rows": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "float8, one scale": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "float8 in blocks": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [64, 64]}),
    "NVFP4": ("nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
    "MXFP4": ("mxfp4-pack-quantized", {
        "num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}),
    "MXFP8": ("mxfp8-quantized", {
        "num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}),
}  # fmt: skip


def quantised_by_it(weight: torch.Tensor, kind: str) -> tuple[Tensors, Any, dict[str, Any], Any]:
    """A weight as compressed-tensors stores it, with its scheme, and the words of a configuration."""
    library = compressors()
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    name, said = FORMATS[kind]
    arguments = QuantizationArgs(**said)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments, format=name)
    shared = {"tensor": weight.numel(), "channel": weight.shape[1]}.get(said["strategy"], said.get("group_size", 0))
    if said["strategy"] == "block":
        parts = weight.reshape(weight.shape[0] // 64, 64, weight.shape[1] // 64, 64).transpose(1, 2).flatten(2)
    elif said["strategy"] == "tensor":
        parts = weight.reshape(1, -1)
    else:
        parts = weight.reshape(weight.shape[0], -1, shared)
    least, most = parts.amin(-1), parts.amax(-1)
    whole = generate_gparam(weight.min(), weight.max()) if kind == "NVFP4" else None
    scale, zero = calculate_qparams(least, most, arguments, global_scale=whole)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    if whole is not None:
        state["weight_global_scale"] = whole
    compressor = library.BaseCompressor.get_value_from_registry(name)
    stored = {name: each.contiguous() for name, each in foreign(compressor.compress, state, scheme).items() if each is not None}
    if said.get("symmetric", True):
        stored.pop("weight_zero_point", None)
    return (
        stored,
        scheme,
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": said}},
            "ignore": ["lm_head"],
        },
        compressor,
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_what_compressed_tensors_writes_is_read_as_it_reads_it(kind: str) -> None:
    torch.manual_seed(3)
    weight = (torch.randn(128, 256) * 0.05).to(BF16)
    stored, scheme, words, compressor = quantised_by_it(weight, kind)
    want = foreign(compressor.decompress, {name: each.clone() for name, each in stored.items()}, scheme)["weight"].to(BF16)
    have = decoded(Stored.of({f"m.{name}": each for name, each in stored.items()}), "m.weight", "BF16", words)
    assert have.shape == want.shape
    assert torch.equal(have.view(torch.int16), want.view(torch.int16))
    assert (have.float() - weight.float()).abs().max() < 0.05


# transformers 5.23 makes no place for packed zero points: it loads such a release from nobody.
NOT_LOADED = [pytest.mark.not_for_transformers]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=NOT_LOADED if "zero points" in kind else []) for kind in FORMATS])
def test_a_release_by_compressed_tensors_comes_back_from_ranks_as_it_was(kind: str, tmp_path: Path) -> None:
    tiny, hf = CASES["dense"], tmp_path / "hf"
    save_random(tiny, hf, dtype=BF16, tied=False)
    release: Tensors = {}
    for name, tensor in tensors_of(hf).items():
        if "_proj." not in name:
            release[name] = tensor
            continue
        stored, _, words, _ = quantised_by_it(tensor, kind)
        release |= {f"{name.removesuffix('weight')}{leaf}": each for leaf, each in stored.items()}
    for file in hf.glob("*.safetensors"):
        file.unlink()
    save_file(release, hf / "model.safetensors", {"format": "pt"})
    config = config_of(hf)
    (hf / "config.json").write_text(
        json.dumps({**config, "quantization_config": words | {"format": FORMATS[kind][0], "quantization_status": "compressed"}})
    )
    ranks = {"format": "mindspeed-llm", "path": str(tmp_path / "ranks")}
    job = {"source": {"format": "huggingface", "path": str(hf)}, "target": {**ranks, **tiny.layout}}
    convert({**job, "options": {"verify": "roundtrip"}}, engine="inline")
    back = {"format": "huggingface", "path": str(tmp_path / "back"), "config_dir": str(hf), "quantization": "like-source"}
    convert({"source": ranks, "target": back}, engine="inline")
    have = tensors_of(tmp_path / "back")
    assert have.keys() == release.keys()
    for name, tensor in release.items():
        assert have[name].dtype == tensor.dtype
        assert torch.equal(have[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name
