"""Any layout to any other and back to Hugging Face is the identity, bit for bit, through real files."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from convsvc.conversion import convert
from tests.families.text_families import TEXT_FAMILIES
from tests.golden.outputs import load_rank_file
from tests.roundtrip.any_family import CONFIGS, HUGGING_FACE_ONLY, SIBLINGS, any_family
from tests.roundtrip.any_layout import Drawn, layouts, models

# Payloads that a copy through floating-point arithmetic would not survive: quiet and signalling NaN, both infinities, -0.0, a denormal.
# Sizes are drawn; transformers' classes refuse most of them (heads that do not fill the hidden size, ratios that no kernel has).
pytestmark = pytest.mark.not_for_transformers
SPECIAL_BF16 = (0x7FC1, 0x7F81, 0xFF81, 0x7F80, 0xFF80, 0x8000, 0x0001)
FLOAT32 = ("e_score_correction_bias", "expert_bias", "gate.bias", "A_log", "mixer.D", "dt_bias", "_scale", "_base", "attn_sink")
INTEGER = "tid2eid"


def write_model(model: Drawn, directory: Path) -> dict[str, torch.Tensor]:
    """Write random bits as bf16, NaN payloads included; returns them."""
    directory.mkdir()
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in model.shapes.items():
        bits = torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=generator)
        special = torch.tensor(SPECIAL_BF16, dtype=torch.int32).to(torch.int16)[: bits.numel()]
        bits.view(-1)[: special.numel()] = special
        tensors[name] = as_stored(name, bits)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(model.config))
    return tensors


def as_stored(name: str, bits: torch.Tensor) -> torch.Tensor:
    """In the dtype that published checkpoints store it in: some small tensors are float32, tables of experts are integers."""
    if name.endswith(INTEGER):
        return bits.to(torch.int64)
    wide = bits.to(torch.int32) * 65537 if name.endswith(FLOAT32) else None
    return bits.view(torch.bfloat16) if wide is None else wide.view(torch.float32)


def to_megatron(source: Path, source_format: str, target: Path, layout: dict[str, Any], **options: Any) -> None:
    convert(
        {
            "source": {"format": source_format, "path": str(source)},
            "target": {"format": "mindspeed-llm", "path": str(target), **layout},
            "options": options,
        },
        engine="inline",
    )


def to_huggingface(source: Path, target: Path, **options: Any) -> dict[str, torch.Tensor]:
    convert(
        {
            "source": {"format": "mindspeed-llm", "path": str(source)},
            "target": {"format": "huggingface", "path": str(target)},
            "options": options,
        },
        engine="inline",
    )
    return {name: tensor for file in sorted(target.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def different(want: dict[str, torch.Tensor], have: dict[str, torch.Tensor]) -> list[str]:
    """Names whose bytes differ. Compared as integers: NaN is not equal to itself."""
    assert set(want) == set(have)
    return [
        name
        for name, tensor in want.items()
        if (tensor.dtype, tensor.shape) != (have[name].dtype, have[name].shape)
        or not torch.equal(tensor.view(torch.uint8), have[name].view(torch.uint8))
    ]


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_there_through_two_layouts_and_back_is_the_identity(data: st.DataObject) -> None:
    model = data.draw(models())
    first, second = data.draw(layouts(model)), data.draw(layouts(model))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tensors = write_model(model, root / "hf")
        to_megatron(root / "hf", "huggingface", root / "first", first, verify="roundtrip")
        to_megatron(root / "first", "mindspeed-llm", root / "second", second, verify="roundtrip")
        have = to_huggingface(root / "second", root / "back", verify="roundtrip")
        assert not different(tensors, have)


@pytest.mark.parametrize("family", sorted(CONFIGS))
@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_family_comes_back_from_any_layout_and_through_another(family: str, data: st.DataObject) -> None:
    check_there_and_back(family, data)


@pytest.mark.parametrize("family", sorted(SIBLINGS))
@settings(max_examples=1, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_sibling_comes_back_from_a_layout(family: str, data: st.DataObject) -> None:
    check_there_and_back(family, data)


def test_every_family_is_drawn() -> None:
    assert {*CONFIGS, *SIBLINGS, *HUGGING_FACE_ONLY} == set(TEXT_FAMILIES)


def check_there_and_back(family: str, data: st.DataObject) -> None:
    model = data.draw(any_family(family))
    first = data.draw(layouts(model))
    second = data.draw(st.none() | layouts(model, holds_mtp=bool(first.get("mtp_num_layers"))))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tensors = write_model(model, root / "hf")
        to_megatron(root / "hf", "huggingface", root / "first", first, verify="roundtrip")
        if second is not None:
            to_megatron(root / "first", "mindspeed-llm", root / "second", second, verify="roundtrip")
        have = to_huggingface(root / ("first" if second is None else "second"), root / "back")
        assert not different(tensors, have)


@pytest.mark.parametrize("family", ["HYV3", "deepseek3"])
@settings(max_examples=1, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_mtp_layer_has_its_experts_though_all_layers_before_are_dense(family: str, data: st.DataObject) -> None:
    sizes = {"first_k_dense_replace": 1, "num_nextn_predict_layers": 1}
    model = data.draw(any_family(family, layers=1, fixed=sizes))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tensors = write_model(model, root / "hf")
        assert any(name.startswith("model.layers.1.mlp.experts.") for name in tensors)
        # Converted, and carried along as they are.
        for name, layout in (("converted", {"mtp_num_layers": 1}), ("carried", {})):
            to_megatron(root / "hf", "huggingface", root / name, layout, verify="roundtrip")
            assert not different(tensors, to_huggingface(root / name, root / f"{name}-back"))


@settings(max_examples=2, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_carried_mtp_layer_has_its_entry_in_the_lists_of_a_derived_configuration(data: st.DataObject) -> None:
    model = data.draw(any_family("deepseek4", layers=2, fixed={"num_nextn_predict_layers": 1, "compress_ratios": [8, 0, 4]}))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tensors = write_model(model, root / "hf")
        assert any(name.startswith("mtp.0.attn.compressor.") for name in tensors)
        to_megatron(root / "hf", "huggingface", root / "mcore", {})
        assert not different(tensors, to_huggingface(root / "mcore", root / "back"))
        assert json.loads((root / "back" / "config.json").read_text())["compress_ratios"] == [8, 0, 4]


FIXED = Drawn(
    "llama2",
    {
        "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 4, "intermediate_size": 12, "vocab_size": 22, "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
    },
    {},
    layers=2,
)  # fmt: skip


@pytest.fixture
def fixed() -> Drawn:
    from tests.roundtrip.any_layout import shapes_of

    return replace(FIXED, shapes=dict(shapes_of(FIXED.family, FIXED.config)))


def test_nan_payloads_infinities_and_signed_zeros_stay_as_they_are(fixed: Drawn, tmp_path: Path) -> None:
    tensors = write_model(fixed, tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mcore", {"tensor_parallel_size": 2}, verify="digest")
    stored = load_rank_file(tmp_path / "mcore" / "iter_0000001" / "mp_rank_00" / "model_optim_rng.pt")["model"]
    norm = stored["decoder.layers.0.input_layernorm.weight"].view(torch.int16)
    assert [int(bits) & 0xFFFF for bits in norm[: len(SPECIAL_BF16)]] == list(SPECIAL_BF16)
    assert not different(tensors, to_huggingface(tmp_path / "mcore", tmp_path / "back"))


@pytest.mark.parametrize(("divisible_by", "tp", "padded"), [(16, 2, 32), (11, 2, 22), (1, 1, 22), (128, 1, 128)])
def test_a_vocabulary_is_padded_with_zero_rows_only_where_asked_and_comes_back_whole(
    fixed: Drawn, tmp_path: Path, divisible_by: int, tp: int, padded: int
) -> None:
    tensors = write_model(fixed, tmp_path / "hf")
    layout = {"tensor_parallel_size": tp, "make_vocab_size_divisible_by": divisible_by}
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "mcore", layout, verify="roundtrip")
    ranks = [load_rank_file(file)["model"] for file in sorted(tmp_path.glob("mcore/iter_0000001/*/model_optim_rng.pt"))]
    for stored, name in (("embedding.word_embeddings.weight", "model.embed_tokens.weight"), ("output_layer.weight", "lm_head.weight")):
        rows = torch.cat([rank[stored] for rank in ranks])
        assert rows.shape == (padded, 8)
        assert not different({name: tensors[name]}, {name: rows[:22]})
        assert not rows[22:].view(torch.int16).any()
    assert not different(tensors, to_huggingface(tmp_path / "mcore", tmp_path / "back"))


def test_another_padding_is_given_without_going_through_huggingface(fixed: Drawn, tmp_path: Path) -> None:
    tensors = write_model(fixed, tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "wide", {"make_vocab_size_divisible_by": 64})
    to_megatron(tmp_path / "wide", "mindspeed-llm", tmp_path / "narrow", {"tensor_parallel_size": 2})
    ranks = [load_rank_file(file)["model"] for file in sorted(tmp_path.glob("narrow/iter_0000001/*/model_optim_rng.pt"))]
    assert [tuple(rank["embedding.word_embeddings.weight"].shape) for rank in ranks] == [(11, 8), (11, 8)]
    assert not different(tensors, to_huggingface(tmp_path / "narrow", tmp_path / "back"))


@pytest.mark.parametrize(
    "first",
    [
        {"pipeline_parallel_size": 2, "noop_layers": [0, 3]},
        {"pipeline_parallel_size": 2, "num_layer_list": [1, 1]},
        {"pipeline_parallel_size": 2, "schedules_method": "dualpipev", "noop_layers": [0, 1]},
        {"pipeline_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 1, "noop_layers": [1, 2]},
    ],
    ids=" ".join,
)
def test_a_checkpoint_says_nothing_of_the_layout_it_was_made_from(fixed: Drawn, tmp_path: Path, first: dict[str, Any]) -> None:
    write_model(fixed, tmp_path / "hf")
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "first", first)
    to_megatron(tmp_path / "first", "mindspeed-llm", tmp_path / "second", {})
    to_megatron(tmp_path / "hf", "huggingface", tmp_path / "direct", {})
    name = "iter_0000001/mp_rank_00/model_optim_rng.pt"
    assert vars(load_rank_file(tmp_path / "second" / name)["args"]) == vars(load_rank_file(tmp_path / "direct" / name)["args"])
