"""Every element that a checkpoint stores is in the result or was compared: no changed bit of any copy on any rank is without effect."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from convsvc.errors import SourceError
from convsvc.formats import FORMATS
from convsvc.formats.base import StoredTensor
from convsvc.tensors.dtypes import size_of
from tests.roundtrip.any_family import CONFIGS, any_family
from tests.roundtrip.any_layout import layouts
from tests.roundtrip.test_any_layout import different, to_huggingface, to_megatron, write_model

CHANGES = 5
# Sizes are drawn: transformers' classes refuse most of them.
pytestmark = pytest.mark.not_for_transformers


def stored(root: Path) -> list[tuple[Path, StoredTensor]]:
    """Every tensor of every file."""
    kinds = {".safetensors": "safetensors", ".pt": "torch_zip"}
    files = sorted(path for path in root.rglob("*") if path.suffix in kinds)
    return [(path, each) for path in files for each in FORMATS[kinds[path.suffix]].read_index(path).tensors if each.size_bytes]


def flip(path: Path, tensor: StoredTensor, drawn: random.Random) -> str:
    """Flips a bit of one of the tensor's elements; answers which."""
    at = tensor.file_offset + drawn.randrange(tensor.size_bytes // size_of(tensor.dtype)) * size_of(tensor.dtype)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    return f"{path}: {tensor.name} at byte {at}"


@pytest.mark.parametrize("family", sorted(CONFIGS))
@settings(max_examples=1, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_changed_bit_on_any_rank_is_found_or_comes_out(family: str, data: st.DataObject) -> None:
    model = data.draw(any_family(family, layers=2))
    # A single example is the simplest: what is drawn otherwise is drawn by the family's name, and the layout has as many ranks as it can.
    layout = data.draw(layouts(model).filter(lambda each: each["tensor_parallel_size"] == max(model.tps)))
    drawn = random.Random(family)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tensors = write_model(model, root / "hf")
        to_megatron(root / "hf", "huggingface", root / "mcore", layout, verify="none")
        for number, (path, tensor) in enumerate(drawn.sample(stored(root / "mcore"), CHANGES)):
            kept = path.read_bytes()
            changed = flip(path, tensor, drawn)
            assert is_noticed(root, number, tensors), changed
            path.write_bytes(kept)


def is_noticed(root: Path, number: int, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether converting back is refused, or gives something else than the tensors."""
    try:
        have = to_huggingface(root / "mcore", root / f"back{number}", verify="none")
    except SourceError as error:
        return "the copies differ" in error.message or "dropped as padding" in error.message
    return bool(different(tensors, have))
