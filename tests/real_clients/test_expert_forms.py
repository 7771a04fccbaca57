"""Experts as a job asks for them: transformers loads either form, and computes with it what it did."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convsvc.conversion import convert
from convsvc.families import FAMILIES
from tests.real_clients.test_added_families import MODELS as ADDED
from tests.real_clients.test_hugging_face_only import MODELS as HUGGING_FACE_ONLY
from tests.real_clients.tiny_models import MODELS, Tiny, load, logits, save_random

pytestmark = pytest.mark.real_client
APART = re.compile(r"experts\.\d+\.")
# Of a family that stacks them, and of which transformers 5.23 loads nothing else.
ONLY_FUSED = {"gpt-oss", "llama4", "granitemoe", "granitemoeshared", "granite4", "gemma4", "mistral4", "jetmoe"}
# Whose experts are rows of an embedding.
NONE = {"doge"}


def has_experts(tiny: Tiny) -> bool:
    return bool({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"} & set(tiny.extra))


# One for each pair of tables, of a family that has both.
BY_TABLES = {
    (FAMILIES[tiny.family].experts, FAMILIES[tiny.family].packed): tiny
    for tiny in (*HUGGING_FACE_ONLY, *MODELS, *ADDED)
    if has_experts(tiny) and tiny.family not in ONLY_FUSED | NONE
}
CASES = {tiny.family: tiny for tiny in BY_TABLES.values()}


def names_of(directory: Path) -> set[str]:
    return {name for file in directory.glob("*.safetensors") for name in load_file(file)}


def repacked(source: Path, to: Path, experts: str | None) -> Path:
    target = {"format": "huggingface", "path": str(to)} | ({} if experts is None else {"experts": experts})
    convert({"source": {"format": "huggingface", "path": str(source)}, "target": target}, engine="inline")
    return to


@pytest.mark.parametrize("family", sorted(CASES))
def test_either_form_is_written_and_transformers_computes_the_same_with_it(family: str, tmp_path: Path) -> None:
    source = tmp_path / "hf"
    save_random(CASES[family], source, dtype=torch.bfloat16, tied=False)
    want = logits(load(source)[0])
    fused = repacked(source, tmp_path / "fused", "fused")
    apart = repacked(fused, tmp_path / "apart", "per-expert")
    same = repacked(fused, tmp_path / "same", None)
    assert not any(APART.search(name) for name in names_of(fused))
    assert any(APART.search(name) for name in names_of(apart))
    assert names_of(same) == names_of(fused)
    for directory in (fused, apart):
        again, info = load(directory)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        assert torch.equal(want, logits(again))
