"""Models with another head than a language model's: repacked, and through torch's format, they judge as they did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convsvc.conversion import convert
from convsvc.errors import LayoutError
from convsvc.plan.planner import make_plan
from tests.real_clients.tiny_models import EXPERTS, SIZES, TOKENS, foreign, transformers

pytestmark = pytest.mark.real_client
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "Qwen2ForSequenceClassification": ("Qwen2Config", {}),
    "LlamaForTokenClassification": ("LlamaConfig", {"head_dim": 12}),
    "Qwen3MoeForSequenceClassification": ("Qwen3MoeConfig", {"head_dim": 12, **EXPERTS}),
}


def names_of(directory: Path) -> set[str]:
    return {name for file in directory.glob("*.safetensors") for name in load_file(file)}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_it_judges_as_it_did_and_rank_files_refuse_it(name: str, tied: bool, tmp_path: Path) -> None:
    kind, more = MODELS[name]
    library = transformers()
    config = getattr(library, kind)(**{**SIZES, **ENDS, **more}, num_labels=3, tie_word_embeddings=tied)
    torch.manual_seed(0)
    foreign(foreign(getattr(library, name), config).to(torch.bfloat16).save_pretrained, tmp_path / "hf")
    source = {"format": "huggingface", "path": str(tmp_path / "hf")}
    convert({"source": source, "target": {"format": "dcp", "path": str(tmp_path / "dcp")}}, engine="inline")
    back = {"format": "huggingface", "path": str(tmp_path / "back")}
    convert({"source": {"format": "dcp", "path": str(tmp_path / "dcp")}, "target": back}, engine="inline")
    assert names_of(tmp_path / "back") == names_of(tmp_path / "hf")
    again, info = foreign(getattr(library, name).from_pretrained, tmp_path / "back", dtype="auto", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    model = foreign(getattr(library, name).from_pretrained, tmp_path / "hf", dtype="auto").eval()
    with torch.no_grad():
        assert torch.equal(foreign(model, TOKENS).logits, foreign(again.eval(), TOKENS).logits)
    for target in ("mindspeed-llm", "megatron"):
        with pytest.raises(LayoutError, match=r"has no place for the head of .* as a classifier"):
            make_plan({"source": source, "target": {"format": target, "path": str(tmp_path / "ranks")}})
