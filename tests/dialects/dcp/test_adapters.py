"""LoRA adapters that were saved as a torch distributed checkpoint, in one piece or over ranks, are merged into their Hugging Face base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from convsvc.conversion import convert
from convsvc.errors import JobError, SourceError
from tests.dialects.dcp.made import Tensors, fsdp2, whole, write_dcp
from tests.plan.test_adapters import LAYOUTS, R, all_layers, base_model, same, weights
from tests.plan.test_adapters import whole as numbers

STORED = "model.base_model.model.model."


def adapters(base: Path, modules: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A and B of each module by the names of MindSpeed-MM's training, and their products by the base's."""
    saved, products = {}, {}
    for name in all_layers(*modules):
        rows, columns = weights(base)[f"{name}.weight"].shape
        a, b = numbers(R, columns), numbers(rows, R)
        saved |= {f"{STORED}{name}.lora_A.default.weight": a, f"{STORED}{name}.lora_B.default.weight": b}
        products[f"{name}.weight"] = b @ a
    return saved, products


def merge(base: Path, saved: Path, target: dict[str, Any], **lora: Any) -> None:
    said = {"path": str(saved), "names": {"": STORED}, **({"scale": 2.0} | lora)}
    convert({"source": {"format": "huggingface", "path": str(base), "lora": said}, "target": target}, engine="inline")


@pytest.mark.parametrize("cut", [whole, fsdp2(2), fsdp2(3)], ids=["whole", "over 2 ranks", "over 3 ranks"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_adapters_are_merged_into_their_base_however_they_are_cut(cut: Any, layout: str, tmp_path: Path) -> None:
    base, to = base_model(tmp_path / "base"), {"format": "huggingface", "config_dir": str(tmp_path / "base"), "path": str(tmp_path / "out")}
    saved, products = adapters(base, ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"))
    write_dcp(tmp_path / "saved", saved, cut)
    ranks = {"format": "mindspeed-llm", "path": str(tmp_path / "ranks"), **LAYOUTS[layout]}
    merge(base, tmp_path / "saved", ranks if LAYOUTS[layout] else to)
    if LAYOUTS[layout]:
        convert({"source": {"format": "mindspeed-llm", "path": ranks["path"]}, "target": to}, engine="inline")
    want = {name: tensor + 2 * products.get(name, torch.zeros(1)) for name, tensor in weights(base).items()}
    assert same(weights(tmp_path / "out"), want)


def refusal(tmp_path: Path, more: Tensors | None = None, **lora: Any) -> None:
    base = base_model(tmp_path / "base")
    saved, _ = adapters(base, ("self_attn.q_proj",))
    write_dcp(tmp_path / "saved", saved | dict(more or {}))
    merge(base, tmp_path / "saved", {"format": "huggingface", "config_dir": str(base), "path": str(tmp_path / "out")}, **lora)


def test_a_scale_and_an_alpha_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"source\.lora\.scale: the scale follows from alpha already"):
        refusal(tmp_path, alpha=8)


def test_what_was_trained_whole_beside_adapters_is_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"1 tensor\(s\) beside the adapters, e\.g\. norm"):
        refusal(tmp_path, {f"{STORED}norm.weight": torch.ones(8)})


def test_names_that_are_not_the_bases_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="LoRA adapters are for modules the model does not have"):
        refusal(tmp_path, names={"": "model.base_model.model."})
