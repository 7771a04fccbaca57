"""A tensor that lies in two of the files that an index names is not chosen between, whether or not the copies are alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from convsvc.errors import SourceError
from convsvc.plan.planner import make_plan
from tests.tiny_checkpoints import write_llama

NAME = "model.norm.weight"


@pytest.mark.parametrize("added", [0, 1])
def test_a_tensor_in_two_files_is_an_error_that_names_both(added: int, tmp_path: Path) -> None:
    source = write_llama(tmp_path / "hf")
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").rename(source / "model-00001-of-00002.safetensors")
    save_file({NAME: tensors[NAME] + added}, source / "model-00002-of-00002.safetensors")
    index = {**dict.fromkeys(tensors, "model-00001-of-00002.safetensors"), NAME: "model-00002-of-00002.safetensors"}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    target = {"format": "huggingface", "path": str(tmp_path / "to")}
    with pytest.raises(SourceError, match=f"{NAME} is in two files .*model-00001-of-00002.*model-00002-of-00002") as caught:
        make_plan({"source": {"format": "huggingface", "path": str(source)}, "target": target})
    assert "keep one" in str(caught.value.do)
