"""A quantised release comes back as it was published, from training's layout, too: the same codes, scales and words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import JobError
from tests.encodings.test_writing import assert_same, ranks, to_huggingface, written_in
from tests.plan.test_quantised import FORMS, LAYOUT, QUANTISATION, Tensors, save, twins


MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8"}


def there_and_back(hf: Path, root: Path, target: dict[str, Any] | None = None, **options: Any) -> Path:
    """The release as training has it, and from there as it was published."""
    job = {
        "source": {"format": "huggingface", "path": str(hf)},
        "target": {"path": str(root / "there"), **(target or {"format": "mindspeed-llm", **LAYOUT})},
        "options": options,
    }
    convert(job, engine="inline")
    kept = {name: value for name, value in job["target"].items() if name in ("format", "storage")}
    back = to_huggingface({**kept, "path": str(root / "there")}, root / "back", config_dir=str(hf), quantization="like-source")
    convert({**back, "options": {"dtype": "bf16"}} if options else back, engine="inline")
    return root / "back"


def config_of(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "config.json").read_text()))


@pytest.mark.not_for_transformers  # its class reads no scales under these names
@pytest.mark.parametrize("form", FORMS)
def test_float8_comes_back_from_ranks_as_it_was_published(form: str, tmp_path: Path) -> None:
    quantised, _ = twins(form)
    hf = save(tmp_path / "fp8", quantised, QUANTISATION if form == "blocks" else MODELOPT)
    back = there_and_back(hf, tmp_path)
    assert_same(written_in(back), quantised)
    assert config_of(back) == config_of(hf)


@pytest.mark.parametrize("options", [{}, {"dtype": "fp32"}, {"dtype": "fp16"}])
@pytest.mark.parametrize(
    "target",
    [
        {"format": "dcp"},
        {"format": "dcp", "shards": 2},
        {"format": "megatron", "storage": "torch_dist"},
        {"format": "megatron", "storage": "torch", "tensor_parallel_size": 2},
        {"format": "mindspeed-llm", "tensor_parallel_size": 4, "pipeline_parallel_size": 1, "expert_parallel_size": 1},
    ],
    ids=lambda each: "-".join(map(str, each.values())),
)
def test_float8_comes_back_from_every_format_that_trains_in_whatever_it_was_trained_in(
    target: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    quantised, _ = twins()
    hf = save(tmp_path / "fp8", quantised, QUANTISATION)
    back = written_in(there_and_back(hf, tmp_path, target, **options))
    assert back.keys() == quantised.keys()
    scaled = {name: tensor for name, tensor in quantised.items() if "_proj." in name}
    assert_same({name: back[name] for name in scaled}, scaled)


def test_float8_comes_back_from_another_directory_as_it_was_published(tmp_path: Path) -> None:
    quantised, _ = twins()
    hf = save(tmp_path / "fp8", quantised, QUANTISATION)
    job = to_huggingface({"format": "huggingface", "path": str(hf)}, tmp_path / "again", quantization="like-source")
    convert({**job, "options": {"verify": "full", "max_shard_size": "100KB"}}, engine="inline")
    assert_same(written_in(tmp_path / "again"), quantised)
    assert (tmp_path / "again" / "config.json").read_bytes() == (hf / "config.json").read_bytes()


def test_the_conversion_to_training_is_verified_by_the_way_back_to_the_bytes_that_were_published(tmp_path: Path) -> None:
    quantised, _ = twins()
    hf = save(tmp_path / "fp8", quantised, QUANTISATION)
    target = {"format": "mindspeed-llm", "path": str(tmp_path / "ranks"), **LAYOUT}
    job = {"source": {"format": "huggingface", "path": str(hf)}, "target": target, "options": {"verify": "full"}}
    convert(job, engine="inline")
    without = {**job, "target": {**target, "path": str(tmp_path / "other")}}
    with pytest.raises(JobError, match="F8_E4M3 to BF16"):
        convert({**without, "options": {"verify": "full", "carry_scales": False}}, engine="inline")
